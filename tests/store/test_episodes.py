"""Episodes: what is remembered of past executions, found by name, outcome and inputs, over real flushes."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from dalang.plan import Plan, with_derived_ids
from dalang.store.engine import transaction
from dalang.store.episodes import Episode, remember, search_episodes, words_of
from dalang.store.plan_index import PlanIndexes
from dalang.store.plans import put_document
from dalang.store.retention import erase_bodies
from tests.engine.remembering import visible
from tests.store.world import TENANT, World, fact


async def past(world: World, name: str, outcome: str = "SUCCESS", inputs: Any = None, type_: str = "agent") -> UUID:
    """Let a run of one node end."""
    plan = with_derived_ids(
        Plan.model_validate({"name": "site", "nodes": [{"nodeId": "n", "name": name, "type": type_}]})
    )
    async with transaction(world.engine, TENANT) as conn:
        digest = await put_document(conn, TENANT, plan)
    run = await world.run(plan_name="site", plan_digest=digest, total_nodes=1)
    error = {"type": "TOOL_ERROR", "message": "the linter was unhappy"}
    end = ("NODE_COMPLETED", {"outputs": {"diff": "+1"}}) if outcome == "SUCCESS" else ("NODE_FAILED", {"error": error})
    facts = [
        fact(1, "PLAN_STARTED", status="RUNNING"),
        fact(2, "NODE_STARTED", "n", {"inputs": inputs or {}}, status="RUNNING", maxAttempts=1, generation=0),
        fact(3, end[0], "n", end[1], status=outcome, attempt=1),
        fact(4, "PLAN_COMPLETED" if outcome == "SUCCESS" else "PLAN_FAILED", status="COMPLETED"),
    ]
    await world.flush(run, facts, status="COMPLETED")
    return run.run_id


async def found(world: World, words: str | None = None, **more: Any) -> list[Episode]:
    """Ask as an agent's worker or the API does."""
    await visible(world.engine)
    await remember(world.engine, PlanIndexes(), TENANT)
    async with transaction(world.engine, TENANT) as conn:
        return await search_episodes(conn, TENANT, words, **more)


async def test_executions_are_found_by_name_outcome_and_inputs(world: World) -> None:
    """Each with what went in and came out, the best fit first."""
    login = await past(world, "Implement login page", inputs={"feature": "OAuth for customers"})
    broken = await past(world, "implement-search", "FAILED", inputs={"feature": "typo tolerance"})
    await past(world, "Water the plants")
    first = await found(world, "implement login", any_word=True)
    assert [one.run_id for one in first] == [login, broken]
    assert first[0].score > first[1].score > 0
    assert (first[0].name, first[0].plan, first[0].outcome) == ("Implement login page", "site", "SUCCESS")
    assert first[0].inputs == {"feature": "OAuth for customers"}
    assert first[0].outputs == {"diff": "+1"}
    assert first[1].error["message"] == "the linter was unhappy"
    assert [one.run_id for one in await found(world, "implement login")] == [login]
    assert [one.run_id for one in await found(world, "customer")] == [login]
    assert [one.run_id for one in await found(world, "failed linter")] == [broken]
    assert [one.run_id for one in await found(world, outcomes=["FAILED"])] == [broken]
    assert len(await found(world)) == 3
    assert [one.run_id for one in await found(world, "implement", without=(login, "n"))] == [broken]


async def test_what_comes_later_is_remembered_when_somebody_asks_again(world: World) -> None:
    """And nothing before anybody asks."""
    await past(world, "first")
    assert await world.rows("SELECT count(*) FROM episodes") == [(0,)]
    assert [one.name for one in await found(world, "first")] == ["first"]
    await past(world, "second")
    assert [one.name for one in await found(world, "second")] == ["second"]
    assert await remember(world.engine, PlanIndexes(), TENANT) == 0


async def test_those_that_have_all_words_come_before_the_many_that_have_some(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where only some of those can be put in order."""
    monkeypatch.setattr("dalang.store.episodes.RANKED", 2)
    await past(world, "deploy the garden gate")
    for _ in range(3):
        await past(world, "deploy the shop")
    names = [one.name for one in await found(world, "deploy garden gate", any_word=True, limit=3)]
    assert names == ["deploy the garden gate", "deploy the shop", "deploy the shop"]


async def test_elements_of_a_map_are_found_by_what_is_done_to_them(world: World) -> None:
    run_id = await past(world, "shrink the picture")
    await world.rows_changed("UPDATE execution_runs SET elements = 1 WHERE run_id = :run", run=run_id)
    assert [one.name for one in await found(world, "picture")] == ["shrink the picture"]


async def test_waits_are_not_remembered(world: World) -> None:
    await past(world, "tick", type_="timer")
    assert await found(world) == []


async def test_no_tenant_finds_the_executions_of_another(world: World) -> None:
    await past(world, "secret plan")
    await remember(world.engine, PlanIndexes(), "globex")
    async with transaction(world.engine, "globex") as conn:
        assert await search_episodes(conn, "globex", "secret") == []
        assert await search_episodes(conn, "globex") == []


async def test_what_is_erased_is_forgotten(world: World) -> None:
    """Its words too: nothing of the inputs can be found any more."""
    run_id = await past(world, "handle letter", inputs={"text": "confidential"})
    assert await found(world, "confidential") != []
    async with transaction(world.engine, TENANT) as conn:
        await erase_bodies(conn, TENANT, run_id)
    assert await found(world, "confidential") == []


async def test_an_event_that_commits_late_is_not_missed(world: World) -> None:
    """A flush that is still open holds the horizon back."""
    await past(world, "early")
    await found(world)
    async with world.engine.connect() as other:
        await other.execute(text("SELECT pg_current_xact_id()"))
        await past(world, "late")
        await remember(world.engine, PlanIndexes(), TENANT)
        async with transaction(world.engine, TENANT) as conn:
            assert "late" not in [one.name for one in await search_episodes(conn, TENANT)]
        await other.rollback()
    assert "late" in [one.name for one in await found(world)]


@pytest.mark.parametrize("words", ["'", '"', "a & | ! b:*", "\x00", "or", "-", "(", "\\", "é" * 300, "-login"])
async def test_no_words_break_the_search(world: World, words: str) -> None:
    await past(world, "login")
    await found(world, words)
    await found(world, words, any_word=True)


def test_words_of_names() -> None:
    assert words_of("implement-login_page BuildIndex v2.1") == "implement login page Build Index v2 1"
