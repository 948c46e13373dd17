"""Nodes that work in worktrees of their own, over real runs: merged on success, refused, closed whatever happens."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from dalang.activities.sessions import Sessions
from dalang.activities.worktrees import Worktree, Worktrees
from dalang.loading import load_plan
from dalang.nodes import NodeFailure
from dalang.store.engine import transaction
from dalang.store.retention import erase_bodies
from tests.engine.agents import Client, api, outputs, register, start, wants
from tests.engine.kit import TENANT, Engine, Started
from tests.engine.repositories import branches, change, content, git, repository
from tests.harness import PATIENCE, ROOT

ONCE = {"maxAttempts": 1}


@pytest.fixture
def site(shared_engine: Engine) -> Path:
    """A repository that no other test uses; its name is that of the folder."""
    return repository(Path(shared_engine.settings.repositories_dir), f"site-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def sessions(shared_engine: Engine) -> Sessions:
    """As a worker has it that begins after another one was killed."""
    settings = shared_engine.settings
    return Sessions(shared_engine.db, Worktrees(Path(settings.repositories_dir), folder(shared_engine)), None)


def folder(engine: Engine) -> Path:
    return engine.settings.home / "sessions"


def writes(site: Path, files: dict[str, str], node: str = "n", then: str = "", go: str = "", **session: Any) -> Any:
    inputs = {"files": files, "then": then, "go": go}
    memory = {"episodes": 0, "session": {"repository": site.name, **session}}
    return {"nodeId": node, "type": "m-write", "inputs": inputs, "memory": memory, "retryPolicy": ONCE}


async def rows(started: Started) -> list[dict[str, Any]]:
    async with transaction(started.engine.db, TENANT) as conn:
        query = text("SELECT * FROM memory_sessions WHERE run_id = :run ORDER BY opened_at")
        return [dict(row) for row in (await conn.execute(query, {"run": started.run_id})).mappings()]


async def left(started: Started) -> list[Path]:
    """Return what is left of a run's sessions, on the disk."""
    return [path for row in await rows(started) if (path := Path(row["place"]["path"])).exists()]


async def test_what_a_node_did_is_merged_and_the_next_begins_with_it(shared_engine: Engine, site: Path) -> None:
    """Each on a branch of its own, of which nothing is left."""
    plan = {
        "nodes": [writes(site, {"b.txt": "b"}, "first"), writes(site, {"src/c.txt": "c"}, "then", paths=["src"])],
        "edges": [{"sourceNodeId": "first", "targetNodeId": "then", "mapping": {"nothing": "nothing"}}],
    }
    started = await shared_engine.start(plan)
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED", end["run"]["error"]
    assert (content(site, "b.txt"), content(site, "src/c.txt")) == ("b", "c")
    first, then = outputs(end, "first"), outputs(end, "then")
    assert (first["seen"], then["seen"]) == (["src/a.txt"], ["b.txt", "src/a.txt"])
    assert (first["merge"]["files"], then["merge"]["files"]) == (["b.txt"], ["src/c.txt"])
    assert then["merge"]["commit"] == git(site, "rev-parse", "main")
    assert first["session"]["base"] == "main"
    assert f"Dalang-Run: {started.run_id}" in git(site, "log", "-1", "--format=%B", "main")
    assert branches(site) == ["main"]
    assert await left(started) == []
    assert {(row["state"], row["closed_at"] is not None) for row in await rows(started)} == {("MERGED", True)}


@pytest.mark.parametrize("then", ["fail", "rubbish"])
async def test_nothing_is_merged_of_a_node_that_fails(shared_engine: Engine, site: Path, then: str) -> None:
    """Also when only what it returned is wrong; a retry begins anew."""
    node = writes(site, {"b.txt": "b"}, then=then)
    retries = {"maxAttempts": 2, "retryOn": ["TOOL_ERROR"], "initialDelayMs": 10}
    started = await shared_engine.start({"nodes": [{**node, "retryPolicy": retries}]})
    assert (await started.end())["run"]["status"] == "FAILED"
    assert git(site, "ls-tree", "--name-only", "main").split() == ["README.md", "src"]
    assert branches(site) == ["main"]
    assert await left(started) == []
    assert {row["state"] for row in await rows(started)} == {"CLOSED"}


async def test_a_cancelled_node_leaves_nothing(shared_engine: Engine, site: Path, sessions: Sessions) -> None:
    started = await shared_engine.start({"nodes": [writes(site, {"b.txt": "b"}, go="/nowhere/at/all")]})
    async with asyncio.timeout(PATIENCE):
        while not [path for path in await left(started) if (path / "b.txt").exists()]:
            await asyncio.sleep(0.02)
    await started.handle.execute_update("cancel", {})
    assert (await started.end())["run"]["status"] == "CANCELLED"
    await sessions.sweep()
    assert branches(site) == ["main"]
    assert await left(started) == []


async def test_a_conflict_fails_the_node_with_both_sides(shared_engine: Engine, site: Path, tmp_path: Path) -> None:
    """What it did stays on its branch for whoever resolves it; or a person is asked at once."""
    for action in ("fail", "review"):
        go = tmp_path / action
        node = writes(site, {"src/a.txt": f"mine {action}\n", "z.txt": ""}, go=str(go), onConflict=action)
        started = await shared_engine.start({"nodes": [node]})
        async with asyncio.timeout(PATIENCE):
            while not [path for path in await left(started) if (path / "z.txt").exists()]:
                await asyncio.sleep(0.02)
        change(site, "src/a.txt", f"theirs {action}\n")
        go.touch()
        if action == "review":
            await started.until("HITL_TASK_CREATED")
            await started.handle.execute_update("cancel", {})
            await started.end()
        else:
            error = (await started.end())["run"]["error"]
            conflict = error["details"]["conflict"]
            assert (error["type"], conflict["files"]) == ("TOOL_ERROR", ["src/a.txt"])
            assert conflict["ours"] == {"ref": "refs/heads/main", "commit": git(site, "rev-parse", "main")}
            assert content(site, "src/a.txt", conflict["theirs"]["commit"]) == f"mine {action}"
        assert content(site, "src/a.txt") == f"theirs {action}"
        assert await left(started) == []
        branch = (await rows(started))[0]["place"]["branch"]
        assert content(site, "src/a.txt", branch) == f"mine {action}"


async def test_what_is_outside_of_the_scope_is_refused_with_its_list(shared_engine: Engine, site: Path) -> None:
    files = {"src/b.txt": "b", "docs/c.txt": "c", "src/tests/d.txt": "d"}
    node = writes(site, files, paths=["src/**"], readOnlyPaths=["src/tests"])
    started = await shared_engine.start({"nodes": [node]})
    error = (await started.end())["run"]["error"]
    assert (error["type"], error["details"]["outside"]) == ("TOOL_ERROR", ["docs/c.txt", "src/tests/d.txt"])
    assert "src/b.txt" not in git(site, "ls-tree", "-r", "--name-only", "main")
    assert await left(started) == []


async def test_a_repository_that_is_not_allowed_fails_the_node(shared_engine: Engine) -> None:
    """Before the handler is called: it would work on nothing."""
    node = writes(Path("unheard-of"), {})
    end = await (await shared_engine.start({"nodes": [node]})).end()
    assert end["run"]["error"]["type"] == "VALIDATION_ERROR"
    assert "unheard-of" in end["run"]["error"]["message"]


async def test_a_node_that_asks_a_person_goes_on_where_it_was(shared_engine: Engine, site: Path) -> None:
    """With the answer it finds what it had written."""
    started = await shared_engine.start({"nodes": [writes(site, {"b.txt": "b"}, then="ask")]})
    await started.until("HITL_TASK_CREATED")
    assert len(await left(started)) == 1
    task = next(row for row in (await started.stored())["events"] if row["type"] == "HITL_TASK_CREATED")
    answer = {"taskId": task["data"]["task"], "action": "answer", "operator": "kim", "values": {}}
    await started.handle.execute_update("complete_human_task", answer)
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED", end["run"]["error"]
    assert "b.txt" in outputs(end, "n")["seen"]
    assert content(site, "b.txt") == "b"
    assert await left(started) == []


def task_of(started: Started, node: dict[str, Any], key: str) -> Any:
    memory = node["memory"]
    return {
        "runId": started.run_id,
        "tenantId": TENANT,
        "nodeId": "n",
        "type": "m-write",
        "key": key,
        "startToCloseMs": 1000,
        "memory": memory,
    }


async def over(engine: Engine) -> Started:
    """A run that has ended, whose node's worker was killed before it could clean up."""
    started = await engine.start({"nodes": [{"nodeId": "n", "type": "noop"}]})
    await started.end()
    return started


async def test_what_a_killed_worker_left_is_closed_by_another(
    shared_engine: Engine, site: Path, sessions: Sessions
) -> None:
    """When the run has ended, and twice makes no difference; a folder of a run that is forgotten goes, too."""
    started, node = await over(shared_engine), writes(site, {})
    held = await sessions.begin(task_of(started, node, "killed"), node["memory"], 1)
    assert held is not None
    assert held.session.path is not None
    stray = folder(shared_engine) / str(uuid.uuid4())
    stray.mkdir()
    assert await sessions.sweep() >= 1
    await sessions.sweep()
    assert not Path(held.session.path).exists()
    assert not stray.exists()
    assert branches(site) == ["main"]
    assert [(row["state"], row["closed_at"] is not None) for row in await rows(started)] == [("CLOSED", True)]


async def test_what_was_done_is_not_done_again_after_a_crash_while_it_was_merged(
    shared_engine: Engine, site: Path, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attempt merges what the first one owed, once, and answers its outputs; a sweep merges nothing twice."""
    started, node = await over(shared_engine), writes(site, {})
    task = task_of(started, node, "merging")
    held = await sessions.begin(task, node["memory"], 1)
    assert held is not None
    assert held.session.path is not None
    (Path(held.session.path) / "b.txt").write_text("b")
    with monkeypatch.context() as patch:
        patch.setattr(sessions._trees, "merge", _killed)
        with pytest.raises(asyncio.CancelledError):
            await sessions.finish(held, {"answer": 42})
    assert [row["state"] for row in await rows(started)] == ["MERGING"]
    done = await sessions.finished(task)
    assert done is not None
    assert (done["answer"], done["merge"]["files"]) == (42, ["b.txt"])
    assert await sessions.finished(task) == done
    assert git(site, "rev-list", "--count", "main") == "3"
    assert content(site, "b.txt") == "b"
    assert branches(site) == ["main"]
    async with transaction(shared_engine.db, TENANT) as conn:
        await erase_bodies(conn, TENANT, uuid.UUID(started.run_id))
    assert (await rows(started))[0]["outputs"] is None


async def _killed(*_: Any) -> Any:
    raise asyncio.CancelledError


async def test_a_second_attempt_closes_what_the_first_one_left(
    shared_engine: Engine, site: Path, sessions: Sessions
) -> None:
    """And the first, should it still live, can merge no more."""
    started, node = await over(shared_engine), writes(site, {})
    task = task_of(started, node, "second")
    first = await sessions.begin(task, node["memory"], 1)
    second = await sessions.begin(task, node["memory"], 2)
    assert first is not None
    assert second is not None
    assert not Path(str(first.session.path)).exists()
    with pytest.raises(NodeFailure):
        await sessions.finish(first, {})
    assert (await sessions.finish(second, {}))["merge"]["merged"]


async def test_an_agent_that_asks_for_work_keeps_its_session(
    shared_engine: Engine, site: Path, sessions: Sessions
) -> None:
    """It lives on when its worker ends or dies; the attempt that follows merges, the one before can no more."""
    await register(shared_engine, "keeper")
    await register(shared_engine, "function", "local")
    started, node = await over(shared_engine), writes(site, {})
    task = {**task_of(started, node, "keeps"), "agent": "keeper"}
    first = await sessions.begin(task, node["memory"], 1)
    assert first is not None
    await sessions.abandon(first, task, goes_on=True)
    second = await sessions.begin(task, node["memory"], 2)
    assert second is not None
    assert second.session == first.session
    with pytest.raises(NodeFailure, match="taken this one's session over"):
        await sessions.finish(first, {})
    elsewhere = Sessions(shared_engine.db, Worktrees(Path(shared_engine.settings.repositories_dir), site / "x"), None)
    with pytest.raises(NodeFailure, match="on another machine"):
        await elsewhere.begin(task, node["memory"], 3)
    by_function = {**task, "agent": "function"}
    third = await sessions.begin(by_function, node["memory"], 3)
    assert third is not None
    assert third.session.path != first.session.path
    await sessions.abandon(third, by_function, goes_on=True)
    assert await left(started) == []


async def test_two_attempts_that_merge_at_once_merge_once(
    shared_engine: Engine, site: Path, sessions: Sessions
) -> None:
    """One of them was given up for lost and was not; whoever is later finds it done."""
    started, node = await over(shared_engine), writes(site, {})
    task = task_of(started, node, "both")
    held = await sessions.begin(task, node["memory"], 1)
    assert held is not None
    (Path(str(held.session.path)) / "b.txt").write_text("b")
    tip = await sessions._trees.commit(Worktree.of(held.row.place), "b")
    stale = replace(held.row, state="MERGING", place={**held.row.place, "tip": tip})
    assert (await sessions.finish(held, {"x": 1}))["merge"]["files"] == ["b.txt"]
    assert (await sessions._merged(stale, {"x": 1}))["merge"]["merged"]
    assert git(site, "rev-list", "--count", "main") == "3"
    assert [row["state"] for row in await rows(started)] == ["MERGED"]


async def test_the_example_of_the_documentation(shared_engine: Engine) -> None:
    """Two nodes write at once; both are merged, one on top of the other."""
    garden = repository(Path(shared_engine.settings.repositories_dir), "garden")
    plan = load_plan((ROOT / "examples" / "session.yaml").read_bytes()).require()
    end = await (await shared_engine.start_plan(plan, {})).end()
    assert end["run"]["status"] == "COMPLETED", end["run"]["error"]
    assert content(garden, "notes/tulips.md").startswith("# tulips")
    assert content(garden, "notes/roses.md").startswith("# roses")
    assert git(garden, "rev-parse", "main") in end["result"]["outputs"]["commits"]


async def test_an_agent_that_asks_for_work_works_in_its_worktree(shared_engine: Engine, site: Path) -> None:
    """It is told where; what it leaves there is merged when it says that it is done."""
    await register(shared_engine, "gardener", capabilities={"s-garden": 1})
    memory = {"episodes": 0, "session": {"repository": site.name, "paths": ["beds"]}}
    started = await start(shared_engine, wants("n", "s-garden", memory=memory))
    async with api(shared_engine) as http:
        one = await Client(http, "gardener").poll()
        session = one["nodeTask"]["memory"]["session"]
        assert (session["kind"], session["repository"], session["paths"]) == ("git", site.name, ["beds"])
        bed = Path(session["path"]) / "beds" / "north.txt"
        bed.parent.mkdir()
        bed.write_text("roses")
        assert await Client(http, "gardener").tell(one, "complete", outputs={"planted": True}) == 200
    end = await started.end()
    assert outputs(end, "n")["merge"]["files"] == ["beds/north.txt"]
    assert outputs(end, "n")["planted"] is True
    assert content(site, "beds/north.txt") == "roses"


async def test_elements_of_a_map_work_apart_from_each_other(shared_engine: Engine, site: Path) -> None:
    """At once, each in a worktree of its own."""
    body = writes(site, {})
    del body["nodeId"]
    body["inputs"] = {"files": "${{inputs.item + '.txt': inputs.item}}"}
    plan = {"nodes": [{"nodeId": "m", "type": "map", "map": {"items": "${['a', 'b', 'c']}", "body": body}}]}
    end = await (await shared_engine.start(plan)).end()
    assert end["run"]["status"] == "COMPLETED", end["run"]["error"]
    assert [content(site, f"{name}.txt") for name in "abc"] == ["a", "b", "c"]
    assert branches(site) == ["main"]
