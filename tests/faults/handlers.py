"""Node types of fault tests: every effect leaves a mark that outlives the process it was done in.

Beside ``<key>.asked`` (a line per attempt: its number and its process) and ``<key>.done`` there is no state, so what
they tell is true whichever worker was killed. ``tests.engine.handlers`` comes along.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from dalang.nodes import NodeContext, NodeFailure, node
from tests.engine import handlers

KILL = handlers.kill


@node("f-effect", endpoint="")  # no breaker: failures here are those of many runs at once, as they are told
async def effect(
    ctx: NodeContext,
    folder: str,
    seconds: float = 0,
    kilobytes: int = 0,
    failures: int = 0,
    gate: str | None = None,
) -> dict[str, Any]:
    """Have an effect once per idempotency key: after ``failures`` attempts, ``seconds``, and once ``gate`` is there."""
    key = Path(folder) / ctx.idempotency_key.replace(":", "_")
    with key.with_suffix(".asked").open("a") as log:
        log.write(f"{ctx.attempt} {os.getpid()}\n")
    if ctx.attempt <= failures:
        raise NodeFailure(f"attempt {ctx.attempt}", type="NETWORK_ERROR")
    await asyncio.sleep(seconds)
    while gate is not None and not Path(gate).exists():
        await asyncio.sleep(0.02)
    try:
        with key.with_suffix(".done").open("x") as done:
            done.write(str(os.getpid()))
    except FileExistsError:
        return {"again": True}
    return {"again": False, **({"text": "x" * kilobytes * 1024} if kilobytes else {})}
