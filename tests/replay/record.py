"""Record the histories that are missing: ``python -m tests.replay.record [NAME ...]`` (names given are made anew)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowFailureError

from dalang.settings import Settings
from dalang.stack.supervisor import on_free_ports, stack
from tests.engine.kit import Engine, engine
from tests.replay.plans import PLANS, Recorded

HISTORIES = Path(__file__).parent / "histories"


def path_of(name: str, execution: int) -> Path:
    """Return where the history of the n-th execution of a plan's run is kept."""
    return HISTORIES / (f"{name}.json" if execution == 1 else f"{name}.{execution}.json")


def _anonymous(value: Any) -> Any:
    """Return a history without what names the machine it was made on; replay does not look at it."""
    if isinstance(value, dict):
        return {key: "" if key == "stackTrace" else _anonymous(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_anonymous(item) for item in value]
    return value.replace(socket.gethostname(), "worker") if isinstance(value, str) else value


async def _record(running: Engine, name: str, recorded: Recorded) -> None:
    started = await running.start({"name": name, **recorded.plan}, recorded.inputs, **recorded.state)
    await recorded.act(started)
    with contextlib.suppress(WorkflowFailureError):  # how it ended is in the history
        await started.handle.result()
    executions = [one async for one in running.client.list_workflows(f"WorkflowId = '{started.handle.id}'")]
    executions.sort(key=lambda one: one.start_time)
    for number, execution in enumerate(executions, start=1):
        handle = running.client.get_workflow_handle(execution.id, run_id=execution.run_id)
        document = _anonymous(json.loads((await handle.fetch_history()).to_json()))
        path_of(name, number).write_text(json.dumps(document, separators=(",", ":")) + "\n")
    print(f"{name}: {len(executions)} execution(s)")


async def main(names: list[str]) -> None:
    """Record what is named, or what is missing."""
    missing = [name for name in PLANS if not path_of(name, 1).exists()]
    with tempfile.TemporaryDirectory() as folder:
        settings = on_free_ports(Settings(home=Path(folder)))
        async with (
            stack(settings, frozenset({"postgres", "temporal"}), durable=False) as running,
            engine(running.settings) as ready,
        ):
            for name in names or missing:
                await _record(ready, name, PLANS[name])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
