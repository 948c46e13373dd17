"""Events find the runs that wait, whichever comes first; callbacks are answered once; what is sent is marked."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.errors import Conflict, Gone, NotFound
from dalang.store import callbacks, external_events, retention
from dalang.store.callbacks import Asked
from dalang.store.engine import system_transaction, transaction
from dalang.store.external_events import Delivery, NewEvent
from dalang.store.runs import Run
from dalang.wire import Fact, Head
from tests.store.world import START, TENANT, World, begun, fact

DAY = timedelta(days=1)
EVENT = NewEvent(TENANT, "e1", "paid", "A-1", {"amount": 1}, "ann", DAY * 36500)


def waiting(seq: int, node: str = "a", name: str = "paid", key: str = "A-1") -> Fact:
    """The fact that a node waits for an event."""
    return fact(seq, "NODE_WAITING", node, status="RUNNING", waitsFor="event", event=name, key=key)


async def put(world: World, new: NewEvent = EVENT) -> bool:
    async with transaction(world.engine, new.tenant_id) as conn:
        return await external_events.put_event(conn, new)


async def found(world: World, mark: bool = True) -> list[Delivery]:
    """Match, and return what is to be sent; ``mark``: it was sent."""
    async with system_transaction(world.engine) as conn:
        await external_events.match_events(conn)
    async with system_transaction(world.engine) as conn:
        locked = await external_events.lock_deliveries(conn)
        if mark:
            await external_events.mark_delivered(conn, locked)
    return locked


async def run_that_waits(world: World, **changes: Any) -> tuple[Run, Head]:
    run = await world.run(**changes)
    return run, await world.flush(run, [*begun(), waiting(5)])


# -- events ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["event", "wait"])
async def test_an_event_goes_to_every_run_that_waits(world: World, first: str) -> None:
    """Whichever comes first, once to each run; not to another key, tenant, or a run that waits for nothing."""
    if first == "event":
        await put(world)
    runs = {(await run_that_waits(world))[0].run_id for _ in range(2)}
    await run_that_waits(world, tenant_id="other")
    await world.flush(await world.run(), [*begun(), waiting(5, key="A-2"), waiting(6, "b", name="sent")])
    if first == "wait":
        await put(world)
    sent = await found(world)
    assert {one.run_id for one in sent} == runs
    assert {(one.tenant_id, one.event_id, one.name, one.correlation_key) for one in sent} == {
        (TENANT, "e1", "paid", "A-1")
    }
    assert await found(world) == []
    late = await run_that_waits(world)
    assert [one.run_id for one in await found(world)] == [late[0].run_id]
    async with transaction(world.engine, TENANT) as conn:
        event = await external_events.get_event(conn, TENANT, "e1")
    assert event is not None
    assert {run_id for run_id, at in event.deliveries if at is not None} == {*runs, late[0].run_id}


async def test_what_was_not_marked_is_sent_again(world: World) -> None:
    """A crash between sending and marking sends twice, never not at all; while one sends, others leave it alone."""
    await run_that_waits(world)
    await put(world)
    first = await found(world, mark=False)
    assert await found(world, mark=False) == first
    async with system_transaction(world.engine) as conn:
        assert await external_events.lock_deliveries(conn) == first
        assert await found(world) == []
    assert await found(world) == first
    assert await found(world) == []


async def test_events_are_sent_in_their_order(world: World) -> None:
    """As they came, although a run began to wait only then."""
    for number in range(12):
        await put(world, replace(EVENT, event_id=f"e{number}"))
    await run_that_waits(world)
    assert [one.event_id for one in await found(world)] == [f"e{number}" for number in range(12)]


async def test_a_wait_that_is_over_gets_nothing(world: World) -> None:
    """The node went on, or the run ended: nothing is sent to it any more."""
    run, head = await run_that_waits(world)
    await world.flush(run, [fact(6, "NODE_FAILED", "a", status="FAILED")], head)
    gone, head = await run_that_waits(world)
    await world.flush(gone, [fact(6, "PLAN_CANCELLED", status="CANCELLED")], head, status="CANCELLED")
    await put(world)
    assert await found(world) == []


async def test_a_reset_run_waits_as_its_chain_says(world: World) -> None:
    """A wait that a reset took back is none; one that it kept is, and gets its events again in the new epoch."""
    kept, head = await run_that_waits(world)
    await put(world)
    assert len(await found(world)) == 1
    await world.flush(kept, [fact(6, "CONDITION_FAILED", "b")], head)
    await world.flush(kept, [fact(6, "PLAN_PAUSED", status="PAUSED")], head, current=True, execution="second")
    assert [one.epoch for one in await found(world)] == [1]
    back = await world.run()
    start = await world.flush(back, begun())
    await world.flush(back, [waiting(5)], start)
    await world.flush(back, [fact(5, "PLAN_PAUSED", status="PAUSED")], start, current=True, execution="second")
    assert await found(world) == []


async def test_an_event_sent_twice_is_one(world: World) -> None:
    """The same id with the same content; with other content it is refused, for another tenant it is another event."""
    assert await put(world)
    assert not await put(world, replace(EVENT, created_by="bob", ttl=DAY))
    assert await put(world, replace(EVENT, tenant_id="other"))
    for other in (replace(EVENT, payload={}), replace(EVENT, name="x"), replace(EVENT, correlation_key="")):
        with pytest.raises(Conflict):
            await put(world, other)


async def test_an_event_expires(world: World) -> None:
    """A run that began to wait later does not get it; one that did before does, however late that is known."""
    async with transaction(world.engine, TENANT) as conn:
        await external_events.put_event(conn, EVENT)
        at = f"to_timestamp({START / 1000 + 5.5})"
        await conn.execute(text(f"UPDATE external_events SET expires_at = {at}"))
    late = await world.run()
    await world.flush(late, [*begun(), fact(5, "PLAN_PAUSED", status="PAUSED"), waiting(6)])
    assert await found(world) == []
    run, _ = await run_that_waits(world)
    assert [one.run_id for one in await found(world)] == [run.run_id]


async def test_expired_events_and_ended_waits_are_deleted(world: World) -> None:
    """With the notes of their deliveries; what waits or may still be wanted stays."""
    run, head = await run_that_waits(world)
    await put(world)
    await put(world, replace(EVENT, event_id="e2"))
    await found(world)
    async with system_transaction(world.engine) as conn:
        await conn.execute(text("UPDATE external_events SET expires_at = now() - interval '2 h' WHERE event_id = 'e1'"))
        assert await external_events.delete_expired_events(conn) == 1
        assert (await conn.execute(text("SELECT event_id FROM event_deliveries"))).scalars().all() == ["e2"]
        assert (await conn.execute(text("SELECT count(*) FROM event_waits"))).scalar() == 1
    await world.flush(run, [fact(6, "NODE_COMPLETED", "a", status="SUCCESS")], head)
    async with system_transaction(world.engine) as conn:
        await external_events.delete_expired_events(conn)
        assert (await conn.execute(text("SELECT count(*) FROM event_waits"))).scalar() == 0


# -- callbacks ---------------------------------------------------------------------------------------------------------


async def ask(world: World, run: Run, attempt: int = 1, generation: int = 0, node: str = "a") -> str:
    token = callbacks.new_token()
    async with transaction(world.engine, TENANT) as conn:
        asked = Asked(TENANT, run.run_id, node, generation, attempt)
        await callbacks.create_callback(conn, asked, token)
        await callbacks.create_callback(conn, asked, token)
    return token


async def answer(world: World, token: str, **outputs: Any) -> None:
    async with system_transaction(world.engine) as conn:
        await callbacks.answer_callback(conn, token, {"outputs": outputs})


async def test_an_answer_is_kept_until_it_is_sent(world: World) -> None:
    """It is found again and again until it is marked; the database never sees the token."""
    run = await world.run()
    token = await ask(world, run)
    await answer(world, token, n=1)
    for mark in (False, True):
        async with system_transaction(world.engine) as conn:
            (kept,) = await callbacks.lock_answers(conn)
            if mark:
                await callbacks.mark_answers(conn, [kept])
    assert (kept.run_id, kept.node_id, kept.generation, kept.answer) == (run.run_id, "a", 0, {"outputs": {"n": 1}})
    async with system_transaction(world.engine) as conn:
        assert await callbacks.lock_answers(conn) == []
        rows = (await conn.execute(text("SELECT callbacks::text FROM callbacks"))).scalars().all()
    assert not any(token in row or token.removeprefix(callbacks.PREFIX) in row for row in rows)


async def test_one_answer_to_one_work(world: World) -> None:
    """At whichever attempt's address; what is asked again later has an address that is open."""
    run = await world.run()
    first, second = await ask(world, run, 1), await ask(world, run, 2)
    other = await ask(world, run, 1, node="b")
    await answer(world, second, n=1)
    for token in (first, second):
        with pytest.raises(Conflict):
            await answer(world, token, n=2)
    await answer(world, other)
    await answer(world, await ask(world, run, 3), n=3)
    with pytest.raises(NotFound):
        await answer(world, callbacks.new_token())


async def test_answers_at_the_same_moment(world: World) -> None:
    """One counts, the other is refused, and neither waits for the other for ever."""
    run = await world.run()
    tokens = [await ask(world, run, attempt) for attempt in range(1, 7)]
    results = await asyncio.gather(*(answer(world, token) for token in tokens), return_exceptions=True)
    assert sum(one is None for one in results) == 1
    assert sum(isinstance(one, Conflict) for one in results) == 5


async def test_an_answer_that_nobody_waits_for_is_refused(world: World) -> None:
    """Its node has ended without it, asks for other work by now, or the run has ended."""
    run = await world.run()
    early, first, later = await ask(world, run), await ask(world, run, node="b"), await ask(world, run, node="c")
    again = await ask(world, run, generation=1, node="c")
    await answer(world, early)  # before anything of the run is stored
    facts = [
        *begun(),
        fact(5, "NODE_FAILED", "b", status="FAILED"),
        fact(6, "NODE_STARTED", "c", status="RUNNING", generation=1),
    ]
    head = await world.flush(run, facts)
    with pytest.raises(Conflict, match="FAILED"):
        await answer(world, first)
    with pytest.raises(Conflict, match="other work"):
        await answer(world, later)
    await world.flush(run, [fact(7, "PLAN_FAILED", status="FAILED")], head, status="FAILED")
    with pytest.raises(Gone):
        await answer(world, again)


async def test_answers_are_erased_with_what_users_entered(world: World, engine: AsyncEngine) -> None:
    """And go with their run."""
    run = await world.run()
    await answer(world, await ask(world, run), secret=1)
    head = await world.flush(run, begun())
    await world.flush(run, [fact(5, "PLAN_FAILED", status="FAILED")], head, status="FAILED")
    async with system_transaction(engine) as conn:
        await retention.erase_bodies(conn, TENANT, run.run_id)
        assert (await conn.execute(text("SELECT answer FROM callbacks"))).scalar() == {}
        await conn.execute(text("UPDATE execution_runs SET completed_at = '2020-01-01'"))
        assert await retention.delete_finished_runs(conn, (await world.get(run)).created_at) == 1
        assert (await conn.execute(text("SELECT count(*) FROM callbacks"))).scalar() == 0
