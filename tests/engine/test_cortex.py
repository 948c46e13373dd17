"""A Cortex beside real runs: tasks and progress, episodes, sessions that are merged and closed; and one that is ill."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from dalang.activities.sessions import Sessions
from dalang.activities.worktrees import Worktrees
from dalang.cortex import Cortex, CortexError, read_answer
from dalang.mirroring import NODES, RUNS, Mirror
from dalang.settings import Settings
from dalang.stack.postgres import drop_database
from dalang.statuses import NodeStatus, RunStatus
from dalang.store.engine import system_transaction
from tests.engine.agents import outputs
from tests.engine.cortex_stub import TOKEN, CortexStub, serving
from tests.engine.kit import Engine, Started, engine
from tests.harness import PATIENCE, Servers

FAST = {"maxAttempts": 3, "initialDelayMs": 20, "maxDelayMs": 20}
ONCE = {"maxAttempts": 1}


@pytest.fixture(scope="module")
def server() -> Iterator[CortexStub]:
    with serving() as stub:
        yield stub


@pytest.fixture
def stub(server: CortexStub) -> Iterator[CortexStub]:
    """The Cortex of this module's worker, well again after each test."""
    server.wrong.clear()
    server.slow.clear()
    yield server
    server.wrong.clear()


@pytest.fixture(scope="module")
async def running(
    server: CortexStub, servers: Servers, superuser: asyncpg.Connection, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Engine]:
    """A worker that has a Cortex."""
    database = await servers.create_database(superuser)
    settings = Settings(
        home=tmp_path_factory.mktemp("cortex"),
        database_url=database.url,
        migration_database_url=database.owner_url,
        temporal_address=servers.temporal_address,
        task_queue=f"cortex-{uuid.uuid4().hex[:8]}",
        cortex_url=server.url,
        cortex_token=TOKEN,
        cortex_timeout_seconds=2,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dalang.cortex.PAUSE_SECONDS", 0.01)
        patch.setattr("dalang.cortex.AWAY_SECONDS", 0.0)  # each test finds it as it is now
        async with engine(settings) as made:
            yield made
    await drop_database(superuser, database.name)


@pytest.fixture
async def cortex(stub: CortexStub) -> AsyncIterator[Cortex]:
    made = Cortex(stub.url, TOKEN, timeout=2)
    yield made
    await made.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.03)


async def put_off(started: Started) -> bool:
    """Tell whether the Cortex could not be told of a run."""
    async with system_transaction(started.engine.db) as conn:
        query = text("SELECT failures > 0 FROM cortex_tasks WHERE run_id = :run AND node_id = ''")
        return bool((await conn.execute(query, {"run": started.run_id})).scalar())


def node(memory: dict[str, Any], kind: str = "m-tell", **more: Any) -> dict[str, Any]:
    return {"nodeId": "n", "type": kind, "memory": memory, "retryPolicy": FAST, **more}


async def test_a_run_is_a_task_with_one_below_it_for_each_node(running: Engine, stub: CortexStub) -> None:
    """With titles, estimated hours and progress; made once although an answer was lost, and told once all is over."""
    stub.wrong["POST /tasks"] = ["late", None]
    estimate = {"estimatedDuration": "30m"}
    nodes = [
        {"nodeId": "a", "name": "Design it", "type": "noop", "requirements": estimate},
        {"nodeId": "b", "name": "Build it", "type": "t-fail", "requirements": estimate, "retryPolicy": ONCE},
        {"nodeId": "c", "type": "noop"},
    ]
    edges = [{"sourceNodeId": "a", "targetNodeId": "b"}, {"sourceNodeId": "b", "targetNodeId": "c"}]
    plan = {"name": "mirrored", "description": "Of a test", "nodes": nodes, "edges": edges}
    await (await running.start(plan)).end()

    def tasks() -> dict[str, dict[str, Any]]:
        mine = [task for task in stub.tasks.values() if task["title"] in ("mirrored", "Design it", "Build it", "c")]
        return {task["title"]: task for task in mine}

    await until(lambda: tasks().get("mirrored", {}).get("status") == "failed")
    found = tasks()
    assert {name: task["status"] for name, task in found.items()} == {
        "mirrored": "failed",
        "Design it": "done",
        "Build it": "failed",
        "c": "cancelled",
    }
    run = found["mirrored"]
    assert (run["description"], run["workspace_id"], run["estimated_hours"]) == ("Of a test", "default", 1.0)
    assert (run["progress"], run["completion_note"]) == (1.0, "it failed")
    assert run["actual_hours"] >= 0
    below = found["Design it"]
    assert (below["description"], below["estimated_hours"], below["progress"]) == ("Type: noop", 0.5, 1.0)
    assert stub.tasks[below["parent_id"]] is run
    assert len([one for one in stub.tasks.values() if one["title"] == "mirrored"]) == 1


async def test_a_cortex_that_is_away_is_told_later(running: Engine, stub: CortexStub, cortex: Cortex) -> None:
    """The run does not notice; one task that was removed there holds nothing up."""
    stub.wrong["POST /tasks"] = ["away"]
    started = await running.start({"name": "later", "nodes": [{"nodeId": "a", "name": "x later", "type": "noop"}]})
    assert (await started.end())["run"]["status"] == "COMPLETED"
    async with asyncio.timeout(PATIENCE):
        while not await put_off(started):
            await asyncio.sleep(0.03)
    assert [one for one in stub.tasks.values() if one["title"] == "later"] == []
    stub.wrong.clear()
    await until(lambda: [one["status"] for one in stub.tasks.values() if one["title"] == "later"] == ["done"])
    assert await Mirror(running.db, running.settings.database_url, cortex).tell() == 0


async def test_episodes_come_from_the_cortex(running: Engine, stub: CortexStub) -> None:
    """Five by the node's name; our own when it does not answer, unless it is required."""
    stub.episodes = [
        {
            "id": f"ep_{at}",
            "task_description": f"paint {at}",
            "outcome": "failure",
            "similarity_score": 0.9,
            "solution_summary": "with a brush",
            "embedding": [0.0] * 1536,
        }
        for at in range(7)
    ]
    end = await (await running.start({"nodes": [node({}, name="Paint the fence")]})).end()
    given = outputs(end, "n")["memory"]["episodes"]
    assert [one["name"] for one in given] == [f"paint {at}" for at in range(5)]
    assert (given[0]["source"], given[0]["outcome"], given[0]["summary"]) == ("cortex", "FAILED", "with a brush")
    assert "embedding" not in given[0]["episode"]
    for wrong in ("rubbish", 401):
        stub.wrong["POST /memory/search"] = [wrong]
        end = await (await running.start({"nodes": [node({}, name="Paint the fence")]})).end()
        assert {one["source"] for one in outputs(end, "n")["memory"]["episodes"]} <= {"dalang"}, wrong
        assert end["nodes"]["n"]["attempt"] == 1
    stub.wrong["POST /memory/search"] = [503]
    end = await (await running.start({"nodes": [node({"required": True}, retryPolicy=ONCE)]})).end()
    assert end["run"]["error"]["type"] == "NETWORK_ERROR"


def last(stub: CortexStub) -> dict[str, Any]:
    return list(stub.sessions.values())[-1]


SCOPE = {"episodes": 0, "session": {"paths": ["src/**"], "readOnlyPaths": ["tests/**"], "workspace": "ws_1"}}


async def test_a_session_is_opened_merged_and_closed(running: Engine, stub: CortexStub) -> None:
    """With its scope, once each although answers were lost."""
    count = len(stub.sessions)
    for path in ("POST /sessions", "DELETE /sessions"):
        stub.wrong[path] = ["late", None]
    end = await (await running.start({"nodes": [node(SCOPE)]})).end()
    given = outputs(end, "n")
    assert given["merge"] == {"merged": True, "changesMerged": 3, "conflictsResolved": 1, "version": 43}
    session = last(stub)
    assert len(stub.sessions) == count + 1
    assert given["memory"]["session"]["id"] == list(stub.sessions)[-1]
    assert (session["state"], session["merges"], session["workspace_id"]) == ("closed", 1, "ws_1")
    assert session["scope"] == {"paths": ["src/**"], "read_only_paths": ["tests/**"]}
    assert session["agent_id"] == "m-tell"


async def test_a_session_of_a_node_that_fails_is_closed_and_not_merged(running: Engine, stub: CortexStub) -> None:
    end = await (await running.start({"nodes": [node(SCOPE, "t-fail", retryPolicy=ONCE)]})).end()
    assert end["run"]["status"] == "FAILED"
    assert (last(stub)["state"], last(stub)["merges"]) == ("closed", 0)


async def test_a_conflict_in_the_cortex_fails_the_node(running: Engine, stub: CortexStub) -> None:
    """And so does a session that is gone: what was done in it is lost."""
    for wrong, status in (("conflict", 409), (404, 404)):
        stub.wrong["POST /sessions/"] = [wrong]
        error = (await (await running.start({"nodes": [node(SCOPE)]})).end())["run"]["error"]
        assert (error["type"], error["details"]["conflict"]["status"]) == ("TOOL_ERROR", status)
        assert last(stub)["state"] == "closed"


async def test_a_cortex_that_is_away_fails_no_node_that_does_not_require_it(running: Engine, stub: CortexStub) -> None:
    """It works without a session; required, it fails with an error that is worth another attempt."""
    count = len(stub.sessions)
    stub.wrong["POST /sessions"] = [503]
    end = await (await running.start({"nodes": [node(SCOPE)]})).end()
    assert end["run"]["status"] == "COMPLETED"
    assert "session" not in outputs(end, "n")["memory"]
    end = await (await running.start({"nodes": [node({**SCOPE, "required": True})]})).end()
    assert end["run"]["error"]["type"] == "NETWORK_ERROR"
    assert [row["error"]["attempt"] for row in end["attempts"]] == [1, 2, 3]
    assert len(stub.sessions) == count


async def test_a_cortex_that_is_slow_costs_a_node_little_of_its_time(
    running: Engine, stub: CortexStub, cortex: Cortex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not more than a part of what an attempt may take; and who comes soon after does not ask it."""
    stub.wrong["POST /"] = ["slow"]
    plan = {"nodes": [node(SCOPE, timeouts={"startToClose": "3s"}, retryPolicy=ONCE)]}
    assert (await (await running.start(plan)).end())["run"]["status"] == "COMPLETED"
    stub.wrong = {"POST /memory/search": ["slow"]}
    monkeypatch.setattr("dalang.cortex.AWAY_SECONDS", 60.0)
    with pytest.raises(CortexError) as caught:
        await cortex.in_time(0.05, cortex.search_episodes("x", 1))
    assert (caught.value.away, caught.value.slow, cortex.away) == (True, True, True)
    stub.slow.set()
    stub.wrong.clear()
    assert await cortex.search_episodes("nothing-like-it", 1) == []
    assert not cortex.away


async def test_a_merge_that_is_owed_is_made_later(running: Engine, stub: CortexStub, cortex: Cortex) -> None:
    """The Cortex went away meanwhile; what was done is neither lost nor done again, and the session is closed then."""
    stub.wrong["POST /sessions/"] = stub.wrong["DELETE /sessions/"] = ["away"]
    started = await running.start({"nodes": [node(SCOPE)]})
    end = await started.end()
    assert (end["run"]["status"], outputs(end, "n")["merge"]["merged"]) == ("COMPLETED", False)
    mine = stub.sessions[outputs(end, "n")["memory"]["session"]["id"]]
    assert (mine["state"], mine["merges"]) == ("active", 0)
    sessions = Sessions(running.db, Worktrees(None, Path(running.settings.home) / "none"), cortex)
    await sessions.sweep()
    assert mine["merges"] == 0
    stub.wrong.clear()
    async with asyncio.timeout(PATIENCE):
        while mine["state"] != "closed":
            await sessions.sweep()
            await asyncio.sleep(0.05)
    assert mine["merges"] == 1


async def test_what_a_killed_worker_left_in_the_cortex_is_closed(
    running: Engine, stub: CortexStub, cortex: Cortex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it died before it knew the session's id."""
    started = await running.start({"nodes": [{"nodeId": "n", "type": "noop"}]})
    await started.end()
    sessions = Sessions(running.db, Worktrees(None, Path(running.settings.home) / "none"), cortex)
    task: Any = {
        "runId": started.run_id,
        "tenantId": "tests",
        "nodeId": "n",
        "type": "agent",
        "key": "left",
        "startToCloseMs": 1000,
    }
    assert await sessions.begin(task, SCOPE, 1) is not None
    known = list(stub.sessions)[-1]
    with monkeypatch.context() as patch:
        patch.setattr("dalang.activities.sessions.store.keep_place", _killed)
        patch.setattr(sessions, "_closed", _killed_quietly)
        with pytest.raises(asyncio.CancelledError):
            await sessions.begin({**task, "key": "unknown"}, SCOPE, 1)
    unknown = list(stub.sessions)[-1]
    assert unknown != known
    await sessions.sweep()
    assert {stub.sessions[name]["state"] for name in (known, unknown)} == {"closed"}
    assert {stub.sessions[name]["merges"] for name in (known, unknown)} == {0}


async def _killed(*_: Any) -> Any:
    raise asyncio.CancelledError


async def _killed_quietly(*_: Any) -> None:
    """As a process that is gone."""


async def test_without_a_cortex_a_session_of_it_is_none(shared_engine: Engine) -> None:
    """The node works without, unless it is required."""
    assert (await (await shared_engine.start({"nodes": [node(SCOPE)]})).end())["run"]["status"] == "COMPLETED"
    end = await (await shared_engine.start({"nodes": [node({**SCOPE, "required": True})]})).end()
    assert end["run"]["error"]["type"] == "VALIDATION_ERROR"
    assert "cortex_url" in end["run"]["error"]["message"]


@pytest.mark.parametrize(
    ("status", "content", "away"),
    [
        (200, b'{"success": true, "data": {"x": 1}}', None),
        (200, b'{"x": 1}', None),
        (200, b"", True),
        (200, b"<html>", True),
        (200, b"[]", True),
        (200, b'{"data": {"x": "\\u0000"}}', True),
        (200, b'{"success": true, "data": [1]}', True),
        (200, b'{"success": false, "error": "no"}', True),
        (302, b"", True),
        (401, b'{"success": false, "error": {"message": "no"}}', True),
        (404, b'{"success": false, "error": {"code": "X", "message": "no", "details": {"a": 1}}}', False),
        (409, b'{"success": false, "error": {"message": "no"}}', False),
        (429, b"{}", True),
        (500, b"\xff", True),
    ],
)
def test_answers_of_a_cortex(status: int, content: bytes, away: bool | None) -> None:
    """What is a refusal, and what means that it is not well."""
    if away is None:
        assert read_answer(status, content) == {"x": 1}
        return
    if (status, content) == (200, b""):
        assert read_answer(status, content) == {}
        return
    with pytest.raises(CortexError) as caught:
        read_answer(status, content, "7" if status == 429 else "soon")
    assert caught.value.away is away
    assert caught.value.again_seconds == (7 if status == 429 else None)


def test_every_status_means_something_to_a_cortex() -> None:
    assert set(NODES) == set(NodeStatus)
    assert set(RUNS) == set(RunStatus)
