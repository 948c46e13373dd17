"""What tests of memory share: nodes that tell what they were given, and waiting until the past can be seen."""

from __future__ import annotations

import asyncio
import os
import runpy
import signal
import time
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.nodes import AskPerson, NodeContext, ToolError, node
from dalang.store.engine import system_transaction
from tests.harness import PATIENCE, ROOT

runpy.run_path(str(ROOT / "examples" / "session_nodes.py"))


@node("m-tell", endpoint="")
async def tell(ctx: NodeContext, **inputs: Any) -> dict[str, Any]:
    """Tell what was given; not what others told of what they were given."""
    told = ctx.memory.wire()
    for one in told["episodes"]:
        if "memory" in (one.get("outputs") or {}):
            del one["outputs"]
    return {"memory": told}


@node("m-write", endpoint="")
def write(ctx: NodeContext, files: dict[str, str], then: str = "", go: str = "") -> dict[str, Any]:
    """Write files where the node works apart; with ``go`` wait until there is such a file, then fail or ask."""
    assert ctx.session is not None
    assert ctx.session.path is not None
    where = Path(ctx.session.path)
    seen = sorted(str(path.relative_to(where)) for path in where.rglob("*.txt"))
    for name, content in files.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text(content)
    while go and not Path(go).exists() and not ctx.stopping:
        time.sleep(0.02)
    if then == "ask" and ctx.answer is None:
        raise AskPerson("Is it good?", form={"type": "object"})
    if then == "kill" and ctx.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if then == "fail":
        raise ToolError("it went wrong")
    if then == "rubbish":
        return {"x": object()}
    return {"seen": seen, "session": ctx.session.wire()}


async def visible(db: AsyncEngine) -> None:
    """Wait until no transaction is open, in any database, that is older than an event."""
    settled = text(
        "SELECT coalesce((SELECT transaction_id FROM run_events ORDER BY transaction_id DESC, position DESC LIMIT 1) "
        "< pg_snapshot_xmin(pg_current_snapshot()), true)"
    )
    async with asyncio.timeout(PATIENCE):
        while True:
            async with system_transaction(db) as conn:
                if (await conn.execute(settled)).scalar_one():
                    return
            await asyncio.sleep(0.02)
