"""The flush: facts become events, read model and head, once, whatever is repeated, reset, restored or refused."""

from __future__ import annotations

import asyncio
import math
from uuid import UUID

import pytest
from sqlalchemy import event

from dalang.errors import NotFound
from dalang.store import chain
from dalang.store.recording import UNKNOWN_PLAN, MalformedBatch, NotCurrentExecution
from dalang.wire import Head
from tests.harness import PATIENCE
from tests.store.world import START, World, begun, ended, fact, other_run, tamper


async def test_a_run_and_its_nodes_read_as_their_facts_say(world: World) -> None:
    """The read model after the last flush is what the facts of the run add up to."""
    run, head = await world.whole()
    assert (head["epoch"], head["seq"]) == (0, 8)
    found = await world.get(run)
    assert (found.status, found.retry_count, found.error_message) == ("FAILED", 1, "broken")
    assert found.node_status_counts == {"SUCCESS": 1, "FAILED": 1, "SKIPPED": 1}
    assert found.started_at == chain.to_time(START + 2000)
    assert found.completed_at == found.last_event_at == chain.to_time(START + 8000)
    assert (found.temporal_run_id, found.workflow_id) == ("first", f"run-{run.run_id}")
    assert (found.head_epoch, found.head_seq, found.head_hash) == (0, 8, head["hash"])
    nodes = await world.rows(
        "SELECT node_id, status, attempt, max_attempts, skip_reason, input_seq, output_seq, error_seq, revision "
        "FROM node_executions ORDER BY node_id"
    )
    assert nodes == [
        ("a", "SUCCESS", 2, 3, None, 3, 5, None, 5),
        ("b", "FAILED", 1, 1, None, 4, None, 6, 6),
        ("c", "SKIPPED", 0, 0, "upstreamFailed", None, None, None, 7),
    ]


async def test_a_batch_is_stored_by_few_statements(world: World) -> None:
    """Each is a round trip of every batch: the tenant, the run, nodes of a run that has some, and all that is new."""
    run = await world.run()
    asked = list[str]()
    event.listen(world.engine.sync_engine, "before_cursor_execute", lambda *given: asked.append(given[2].split()[0]))
    head = await world.flush(run, begun())
    assert asked == ["SELECT", "SELECT", "WITH"]
    asked.clear()
    await world.flush(run, ended(), head, status="FAILED")
    assert asked == ["SELECT", "SELECT", "SELECT", "WITH"]


async def test_the_same_batch_twice_is_stored_once(world: World) -> None:
    """A flush whose answer was lost is repeated and answered the same, although salts are random."""
    run = await world.run()
    first = await world.flush(run, begun())
    assert await world.flush(run, begun()) == first
    later = await world.flush(run, ended(), first, status="FAILED")
    assert await world.flush(run, begun()) == first, "an old duplicate is answered with its own head"
    assert await world.flush(run, ended(), first, status="FAILED") == later
    assert await world.rows("SELECT count(*) FROM run_events") == [(8,)]


async def test_concurrent_flushes_of_one_batch_store_it_once(world: World) -> None:
    """Two attempts of one flush at the same time agree on one head."""
    run = await world.run()
    heads = await asyncio.gather(*(world.flush(run, begun()) for _ in range(4)))
    assert all(head == heads[0] for head in heads)
    assert await world.rows("SELECT count(*) FROM run_events") == [(4,)]


async def test_an_empty_batch_updates_the_counts_only(world: World) -> None:
    """A flush may carry no fact."""
    run = await world.run()
    head = await world.flush(run, begun())
    assert await world.flush(run, [], head, counts={"RUNNING": 2}) == head
    assert (await world.get(run)).node_status_counts == {"RUNNING": 2}


async def test_a_replaced_execution_is_refused(world: World) -> None:
    """What a terminated execution still says after its successor has spoken is void."""
    run = await world.run()
    head = await world.flush(run, begun())
    await world.flush(run, ended(), head, status="FAILED")
    other = [fact(5, "NODE_CANCELLED", "a", status="CANCELLED")]
    with pytest.raises(NotCurrentExecution):
        await world.flush(run, other, head, current=False, execution="zombie")
    assert (await world.get(run)).status == "FAILED"


async def test_a_reset_begins_an_epoch_and_takes_the_read_model_back(world: World) -> None:
    """After `workflow reset` the superseded tail is marked, and run and nodes read as if it had never been."""
    run, _ = await world.whole()
    [(hash_,)] = await world.rows("SELECT hash FROM run_events WHERE seq = 4")
    point: Head = {"epoch": 0, "seq": 4, "hash": hash_}
    batch = [fact(5, "NODE_COMPLETED", "b", {"outputs": {"z": 1}}, status="SUCCESS", attempt=1)]
    head = await world.flush(run, batch, point, current=True, execution="second")
    assert (head["epoch"], head["seq"]) == (1, 5)
    assert await world.flush(run, batch, point, execution="second") == head, "the repetition of the reset's flush"
    found = await world.get(run)
    assert (found.status, found.error, found.error_message, found.completed_at) == ("RUNNING", None, None, None)
    assert (found.retry_count, found.temporal_run_id) == (0, "second")
    columns = "node_id, status, attempt, completed_at IS NULL, revision_epoch, revision"
    assert await world.rows(f"SELECT {columns} FROM node_executions ORDER BY 1") == [
        ("a", "RUNNING", 1, True, 0, 3),
        ("b", "SUCCESS", 1, False, 1, 5),
    ]
    superseded = await world.rows("SELECT epoch, seq FROM run_events WHERE superseded ORDER BY 1, 2")
    assert superseded == [(0, seq) for seq in (5, 6, 7, 8)]


async def test_a_reset_of_the_superseded_execution_takes_its_events_back(world: World) -> None:
    """A reset to a point of the first execution, after it had been replaced, restores what led there."""
    run, old = await world.whole()
    [(hash_,)] = await world.rows("SELECT hash FROM run_events WHERE seq = 2")
    await world.flush(
        run, [fact(3, "NODE_SKIPPED", "a", status="SKIPPED")], {"epoch": 0, "seq": 2, "hash": hash_}, current=True
    )
    head = await world.flush(run, [fact(9, "NODE_SKIPPED", "d", status="SKIPPED")], old, current=True)
    assert (head["epoch"], head["seq"]) == (2, 9)
    assert await world.rows("SELECT epoch, seq FROM run_events WHERE superseded") == [(1, 3)]
    nodes = await world.rows("SELECT node_id, status FROM node_executions ORDER BY 1")
    assert nodes == [("a", "SUCCESS"), ("b", "FAILED"), ("c", "SKIPPED"), ("d", "SKIPPED")]


async def test_a_reset_to_the_beginning_starts_the_chain_anew(world: World) -> None:
    """A reset to before the first flush leaves nothing of the read model."""
    run, _ = await world.whole()
    head = await world.flush(
        run, [fact(1, "PLAN_VALIDATED", status="VALIDATED", again=True)], status="VALIDATED", current=True
    )
    assert (head["epoch"], head["seq"]) == (1, 1)
    assert await world.rows("SELECT count(*) FROM node_executions") == [(0,)]
    assert (await world.get(run)).status == "VALIDATED"


async def test_facts_flushed_again_by_a_reset_execution_are_the_same_facts(world: World) -> None:
    """A reset to between two flushes repeats what is stored; the epoch begins where it first differs."""
    run, _ = await world.whole()
    head = await world.flush(run, begun(), execution="second")
    assert (head["epoch"], head["seq"]) == (0, 4)
    head = await world.flush(run, [fact(5, "NODE_SKIPPED", "c", status="SKIPPED")], head, current=True)
    assert (head["epoch"], head["seq"]) == (1, 5)


async def test_lost_events_become_a_gap(world: World, intruder: object) -> None:
    """After a backup was restored the run goes on behind a CHAIN_GAP that holds both heads."""
    run = await world.run()
    first = await world.flush(run, begun())
    lost = await world.flush(run, ended()[:2], first)
    await tamper(intruder, "DELETE FROM event_bodies WHERE seq > 4")  # type: ignore[arg-type]
    await tamper(intruder, "DELETE FROM run_events WHERE seq > 4")  # type: ignore[arg-type]
    await tamper(intruder, "DELETE FROM node_executions WHERE revision > 4 OR node_id = 'c'")  # type: ignore[arg-type]
    await tamper(intruder, "UPDATE execution_runs SET head_seq = 4, head_hash = :hash", hash=first["hash"])  # type: ignore[arg-type]
    rest = ended()[2:]
    head = await world.flush(run, rest, lost, status="FAILED", current=True)
    assert (head["epoch"], head["seq"]) == (1, 8)
    assert await world.flush(run, rest, lost, status="FAILED") == head
    [(epoch, seq, data, previous)] = await world.rows(
        "SELECT epoch, seq, data, previous_hash FROM run_events WHERE type = 'CHAIN_GAP'"
    )
    assert (epoch, seq, previous) == (1, 6, first["hash"])
    assert data == {"stored": first, "claimed": lost}
    assert (await world.get(run)).status == "FAILED"


async def test_a_run_whose_row_is_lost_gets_one(world: World) -> None:
    """A backup from before the run, or a workflow started past the API, does not hold up the run."""
    run_id = other_run()
    lost: Head = {"epoch": 0, "seq": 4, "hash": "a" * 64}
    with pytest.raises(NotCurrentExecution):
        await world.flush(run_id, ended(), lost, status="FAILED", current=False)
    head = await world.flush(run_id, ended(), lost, status="FAILED", current=True)
    assert (head["epoch"], head["seq"]) == (1, 8)
    assert await world.rows("SELECT plan_name, status, tenant_id FROM execution_runs") == [
        (UNKNOWN_PLAN, "FAILED", "acme")
    ]


async def test_another_tenants_run_cannot_be_written(world: World) -> None:
    """A flush that names another tenant than the run's finds no run."""
    run = await world.run(tenant_id="other")
    with pytest.raises(NotFound):
        await world.flush(run.run_id, begun())


async def test_facts_that_do_not_follow_each_other_are_refused(world: World) -> None:
    """Numbers with a hole in them are a defect of the workflow."""
    run = await world.run()
    with pytest.raises(MalformedBatch):
        await world.flush(run, ended())


POISON = [math.nan, math.inf, "\ud800", "a\x00b", 2**53, {"deep": {"\x00": 1}}]


@pytest.mark.parametrize("value", POISON, ids=repr)
async def test_a_value_that_cannot_be_stored_is_replaced_by_its_digest(world: World, value: object) -> None:
    """One bad value in an output costs that output, not the run."""
    run = await world.run()
    batch = [*begun(), fact(5, "NODE_COMPLETED", "a", {"outputs": value}, status="SUCCESS", note=value, attempt=1)]
    head = await world.flush(run, batch)
    assert await world.flush(run, batch) == head
    [(status,)] = await world.rows("SELECT status FROM node_executions WHERE node_id = 'a'")
    assert status == "SUCCESS"
    [(data, body)] = await world.rows(
        "SELECT data, body FROM run_events JOIN event_bodies USING (run_id, epoch, seq) WHERE seq = 5"
    )
    for part in (data["note"], body["outputs"]):
        assert part["$refused"]["digest"].startswith("sha256:")
        assert part["$refused"]["reason"]


async def test_what_only_the_database_refuses_is_replaced_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the check at the boundary misses something, the fact is found and replaced, the others stay."""
    monkeypatch.setattr(chain, "find_unsafe", lambda _: None)
    run = await world.run()
    batch = [*begun(), fact(5, "NODE_COMPLETED", "a", {"outputs": "a\x00b"}, status="SUCCESS")]
    head = await world.flush(run, batch)
    assert head["seq"] == 5
    assert await world.flush(run, batch) == head
    [(body,)] = await world.rows("SELECT body FROM event_bodies WHERE seq = 5")
    assert "database refused" in body["outputs"]["$refused"]["reason"]
    [(body,)] = await world.rows("SELECT body FROM event_bodies WHERE seq = 3")
    assert body == {"inputs": {"x": 1}}
    assert await world.rows("SELECT status FROM node_executions WHERE node_id = 'a'") == [("SUCCESS",)]


async def test_a_fact_of_an_unknown_kind_is_an_event_and_nothing_else(world: World) -> None:
    """Types and statuses of a newer engine do not stop an older worker's flush."""
    run = await world.run()
    batch = [*begun(), fact(5, "NODE_TELEPORTED", "a", status="ELSEWHERE"), fact(6, "CONDITION_FAILED", "b", edge="e")]
    await world.flush(run, batch)
    assert await world.rows("SELECT DISTINCT status FROM node_executions") == [("RUNNING",)]


async def test_the_flush_notifies_who_listens(world: World, intruder: object) -> None:
    """One notification per flush, with the run's id."""
    run = await world.run()
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with world.engine.connect() as conn:
        raw = (await conn.get_raw_connection()).driver_connection
        assert raw is not None
        await raw.add_listener("dalang_run", lambda *arguments: heard.put_nowait(arguments[3]))
        await world.flush(run, begun())
        assert UUID(await asyncio.wait_for(heard.get(), PATIENCE)) == run.run_id
        await conn.invalidate()
