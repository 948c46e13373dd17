"""Whatever a superuser does to a run's events is found, and the first event it was done to is named."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.canonical import compact_json
from dalang.errors import NotFound
from dalang.store.engine import transaction
from dalang.store.references import put_body
from dalang.store.retention import erase_bodies
from dalang.store.runs import Run
from dalang.store.verification import Tampering, Verification, verify_run
from dalang.wire import Head
from tests.store.world import TENANT, World, begun, ended, fact, other_run, tamper


async def verify(world: World, run: Run, recorded: Head | None = None) -> Verification:
    async with transaction(world.engine, TENANT) as conn:
        return await verify_run(conn, TENANT, run.run_id, recorded=recorded)


def found(result: Verification) -> tuple[str, str]:
    assert result.finding is not None, "nothing was found"
    return result.finding.what, f"{result.finding.epoch}.{result.finding.seq}"


async def test_what_nobody_touched_is_valid(world: World) -> None:
    """A chain as it was written, with numbers that jsonb writes in another way."""
    run = await world.run()
    numbers = {"outputs": {"big": 1e20, "bigger": 1.5e300, "small": 5e-324, "one": 1.0, "zero": -0.0, "int": 2**53 - 1}}
    unicode = {"outputs": {"é\U0001f600\u2028": "\ufeff\ud7ff", "": [None, True]}}
    facts = [fact(1, "A", "a", numbers, **numbers), fact(2, "B", "a", unicode, **unicode)]
    head = await world.flush(run, facts)
    result = await verify(world, run, head)
    assert (result.valid, result.events, result.erased_bodies, result.head) == (True, 2, 0, head)


async def test_resets_and_gaps_are_valid(world: World, intruder: AsyncEngine) -> None:
    """Epochs after resets, of superseded executions too, and after a restored backup."""
    run, old = await world.whole()
    [(hash_,)] = await world.rows("SELECT hash FROM run_events WHERE seq = 4")
    point: Head = {"epoch": 0, "seq": 4, "hash": hash_}
    head = await world.flush(run, [fact(5, "NODE_SKIPPED", "c", status="SKIPPED")], point, current=True)
    assert (await verify(world, run, old)).valid
    await world.flush(run, [fact(9, "X")], old, current=True)
    assert (await verify(world, run, head)).valid
    await world.flush(run, [fact(1, "X")], current=True)
    assert (await verify(world, run)).valid
    lost: Head = {"epoch": 3, "seq": 70, "hash": "b" * 64}
    await world.flush(run, [fact(71, "X")], lost, current=True)
    result = await verify(world, run)
    assert result.valid
    assert result.head["epoch"] == 4


TAMPERING: list[tuple[str, Tampering, str]] = [
    ('UPDATE run_events SET data = \'{"status": "SUCCESS"}\' WHERE seq = 6', Tampering.CHANGED, "0.6"),
    ("UPDATE run_events SET type = 'NODE_COMPLETED' WHERE seq = 6", Tampering.CHANGED, "0.6"),
    ("UPDATE run_events SET node_id = 'c' WHERE seq = 6", Tampering.CHANGED, "0.6"),
    ("UPDATE run_events SET at = at + interval '1 ms' WHERE seq = 6", Tampering.CHANGED, "0.6"),
    ("UPDATE run_events SET at = at + interval '1 us' WHERE seq = 6", Tampering.CHANGED, "0.6"),
    ("UPDATE run_events SET tenant_id = 'evil' WHERE seq = 6", Tampering.CHANGED, "0.6"),
    ("UPDATE run_events SET body_digest = NULL WHERE seq = 6", Tampering.CHANGED, "0.6"),
    ('UPDATE run_events SET audit = \'{"actor": {"id": "bob"}}\' WHERE seq = 6', Tampering.CHANGED, "0.6"),
    ("UPDATE run_events SET audit = NULL WHERE seq = 6", Tampering.CHANGED, "0.6"),
    (f"UPDATE run_events SET hash = '{'c' * 64}' WHERE seq = 6", Tampering.CHANGED, "0.6"),
    ("UPDATE event_bodies SET body = '{\"outputs\": {}}' WHERE seq = 5", Tampering.CHANGED, "0.5"),
    ("UPDATE event_bodies SET body = body || '{\"x\": 1}'", Tampering.CHANGED, "0.2"),
    ("DELETE FROM run_events WHERE seq = 1", Tampering.REMOVED, "0.1"),
    ("DELETE FROM run_events WHERE seq = 6", Tampering.REMOVED, "0.6"),
    ("DELETE FROM run_events WHERE seq > 6", Tampering.REMOVED, "0.7"),
    ("DELETE FROM run_events", Tampering.REMOVED, "0.1"),
    ("UPDATE run_events SET seq = 17 - seq WHERE seq IN (8)", Tampering.REMOVED, "0.8"),
    ("UPDATE run_events SET superseded = true WHERE seq = 8", Tampering.MARK_CHANGED, "0.8"),
    (f"UPDATE execution_runs SET head_hash = '{'c' * 64}'", Tampering.HEAD_CHANGED, "0.8"),
    ("UPDATE execution_runs SET head_seq = 6", Tampering.INSERTED, "0.7"),
    (
        "INSERT INTO event_bodies SELECT run_id, epoch, 7, tenant_id, salt, body FROM event_bodies WHERE seq = 6",
        Tampering.INSERTED,
        "0.7",
    ),
    (
        "INSERT INTO run_events (run_id, epoch, seq, tenant_id, type, at, data, fact_digest, previous_hash, hash) "
        f"SELECT run_id, epoch, 9, tenant_id, 'X', at, data, fact_digest, hash, '{'d' * 64}' "
        "FROM run_events WHERE seq = 8",
        Tampering.CHANGED,
        "0.9",
    ),
]


@pytest.mark.parametrize(("sql", "what", "event"), TAMPERING, ids=[sql[:60] for sql, _, _ in TAMPERING])
async def test_tampering_is_found(world: World, intruder: AsyncEngine, sql: str, what: Tampering, event: str) -> None:
    """One change of one kind."""
    run, _ = await world.whole()
    assert (await verify(world, run)).valid
    await tamper(intruder, sql)
    assert found(await verify(world, run)) == (what, event)


async def test_a_chain_of_the_first_version_goes_on_in_the_second(
    world: World, intruder: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that were hashed without an actor keep their hashes, and nobody can give them one."""
    with monkeypatch.context() as before:
        before.setattr("dalang.store.recording.audit_of", lambda *_: None)
        run = await world.run()
        head = await world.flush(run, begun())
    await world.flush(run, [fact(5, "PLAN_PAUSED", None, status="PAUSED", operator="ann")], head)
    rows = await world.rows("SELECT audit FROM run_events ORDER BY seq")
    assert [row[0] is None for row in rows] == [True] * 4 + [False]
    assert rows[-1][0]["actor"] == {"type": "human", "id": "ann", "role": "operator"}
    assert (await verify(world, run)).valid
    await tamper(intruder, "UPDATE run_events SET audit = '{}' WHERE seq = 2")
    assert found(await verify(world, run)) == (Tampering.CHANGED, "0.2")


async def test_two_events_that_changed_places_are_found(world: World, intruder: AsyncEngine) -> None:
    """The first of them is named."""
    run, _ = await world.whole()
    for old, new in ((6, 60), (5, 6), (60, 5)):
        await tamper(intruder, f"UPDATE run_events SET seq = {new} WHERE seq = {old}")
    assert found(await verify(world, run)) == (Tampering.REORDERED, "0.5")


async def test_an_event_written_anew_with_its_hash_is_found(world: World, intruder: AsyncEngine) -> None:
    """Who recomputes the hash of what he changed breaks the link of the next event; the changed one is named."""
    run, _ = await world.whole()
    other = await world.run()
    await world.flush(other, [*begun(), fact(5, "NODE_COMPLETED", "a", {"outputs": 1}, status="SUCCESS")])
    await tamper(intruder, "UPDATE run_events SET previous_hash = :hash WHERE seq = 6", hash="e" * 64)
    assert found(await verify(world, run)) == (Tampering.CHANGED, "0.6")
    forged = await _rehashed(world, run, 6)
    await tamper(
        intruder, "UPDATE run_events SET hash = :hash WHERE run_id = :run AND seq = 6", hash=forged, run=run.run_id
    )
    assert found(await verify(world, run)) == (Tampering.CHANGED, "0.5")


async def _rehashed(world: World, run: Run, seq: int) -> str:
    from dalang.store import chain

    columns = "seq, type, node_id, at, data, body_digest, previous_hash, audit"
    [row] = await world.rows(f"SELECT {columns} FROM run_events WHERE run_id = :run AND seq = {seq}", run=run.run_id)
    event = chain.Transition(*row[:5], None, audit=row[7])
    return chain.event_hash(run.run_id, TENANT, 0, event, row[5], row[6])


async def test_rewriting_everything_shows_in_the_head_kept_elsewhere(world: World, intruder: AsyncEngine) -> None:
    """A consistent forgery from the first event to the head differs from the head in Temporal's history."""
    _, head = await world.whole()
    forged = await world.run()
    facts = [*begun(), *ended()]
    facts[5]["data"] = {"status": "SUCCESS"}
    await world.flush(forged, facts, status="FAILED")
    assert (await verify(world, forged)).valid
    assert found(await verify(world, forged, recorded=head)) == (Tampering.HEAD_CHANGED, "0.8")


async def test_a_changed_large_value_is_found(world: World, intruder: AsyncEngine) -> None:
    """The event that refers to it is named."""
    run = await world.run()
    async with transaction(world.engine, TENANT) as conn:
        reference = await put_body(conn, TENANT, compact_json({"report": "long", "zero": -0.0}))
    head = await world.flush(run, begun())
    done: Any = {"outputs": reference}
    await world.flush(run, [fact(5, "NODE_COMPLETED", "a", done, status="SUCCESS")], head)
    assert (await verify(world, run)).valid
    await tamper(intruder, "UPDATE bodies SET body = replace(body, 'long', 'short')")
    assert found(await verify(world, run)) == (Tampering.CHANGED, "0.5")


async def test_erased_bodies_are_no_tampering(world: World) -> None:
    """What the law wants gone is gone, and the chain still holds."""
    run, _ = await world.whole()
    async with transaction(world.engine, TENANT) as conn:
        assert await erase_bodies(conn, TENANT, run.run_id) == 6
    result = await verify(world, run)
    assert (result.valid, result.erased_bodies) == (True, 6)
    found_ = await world.get(run)
    assert (found_.inputs, found_.error, found_.error_message, found_.status) == (None, None, None, "FAILED")


async def test_a_run_that_is_not_there(world: World) -> None:
    """An unknown run, or another tenant's, is not found."""
    run = await world.run()
    async with transaction(world.engine, TENANT) as conn:
        for tenant, run_id in ((TENANT, other_run()), ("other", run.run_id)):
            with pytest.raises(NotFound):
                await verify_run(conn, tenant, run_id)
    assert (await verify(world, run)).valid
