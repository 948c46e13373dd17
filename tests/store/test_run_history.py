"""What happened to the nodes of a run is read by pages, and is what it is at once."""

from __future__ import annotations

import pytest

from dalang.store import run_history
from dalang.store.engine import transaction
from dalang.store.run_history import node_progress, status_changes
from tests.store.world import TENANT, World, begun, ended, fact


async def test_pages_leave_nothing_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a run that a reset took back: its chain goes on in another epoch."""
    run = await world.run()
    head = await world.flush(run, begun())
    await world.flush(run, ended(), head)
    await world.flush(run, [fact(5, "NODE_FAILED", "a", status="FAILED"), *ended(6)], head, current=True, execution="b")
    async with transaction(world.engine, TENANT) as conn:
        nodes = await node_progress(conn, TENANT, run.run_id)
        changes = await status_changes(conn, TENANT, run.run_id, limit=99)
        monkeypatch.setattr(run_history, "PAGE", 1)
        assert await node_progress(conn, TENANT, run.run_id) == nodes
        assert await status_changes(conn, TENANT, run.run_id, limit=99) == changes
        assert await status_changes(conn, TENANT, run.run_id, limit=3) == changes[:3]
        assert await node_progress(conn, TENANT, run.run_id, ["b", "c"]) == {name: nodes[name] for name in "bc"}
    assert [(one.node_id, one.status) for one in changes] == [
        ("a", "RUNNING"), ("b", "RUNNING"), ("a", "FAILED"), ("a", "SUCCESS"), ("b", "FAILED"), ("c", "SKIPPED")
    ]  # fmt: skip
