"""At least once and in order per run, whatever commits late, stands beside, or dies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text

from dalang.publishing.target import Sent
from dalang.publishing.webhooks import Webhooks
from dalang.store import retention
from dalang.store.engine import create_engine, system_transaction, transaction
from dalang.store.publications import claim, mark, next_events, release, told, work
from dalang.store.runs import Run
from dalang.store.subscriptions import Subscription, pause_subscription, replay, resume_subscription
from dalang.wire import Head
from tests.harness import PATIENCE
from tests.publishing.kit import Site, numbers
from tests.publishing.process import processes
from tests.publishing.receiver import Received, Receiver, status
from tests.store.outage import Relay
from tests.store.world import begun, ended, fact

Receiving = Callable[..., Awaitable[Receiver]]


async def test_a_row_that_commits_late_is_told(site: Site, receiving: Receiving) -> None:
    """A reader by position, or by transaction alone, would have passed it and never looked back (TRAPS 5)."""
    receiver = await receiving()
    await site.subscribe(receiver.url)
    early, _ = await site.run(1)
    late = (
        "INSERT INTO run_events (run_id, epoch, seq, tenant_id, type, at, data, fact_digest, previous_hash, hash) "
        "SELECT run_id, epoch, 2, tenant_id, 'LATE', at, data, fact_digest, hash, hash FROM run_events "
        "WHERE run_id = :run"
    )
    async with site.publishing():
        await receiver.until(1)
        async with site.engine.connect() as slow:
            await slow.execute(text("SET LOCAL ROLE dalang_system"))
            await slow.execute(text(late), {"run": early.run_id})
            runs = [(await site.run(2))[0] for _ in range(3)]
            await asyncio.sleep(0.4)
            feed = "SELECT count(*) FROM event_publications WHERE run_id = ANY (:runs)"
            assert await site.world.rows(feed, runs=[run.run_id for run in runs]) == [(0,)]
            await slow.commit()
        got = await receiver.until(8)
    assert numbers(got, early) == [1, 2]
    for run in runs:
        assert numbers(got, run) == [1, 2]


async def test_publishers_side_by_side_tell_everything_once(site: Site, receiving: Receiving) -> None:
    """Four of them, runs that grow meanwhile, and nobody who dies: no event twice, none missing, all in order."""
    receiver = await receiving()
    subscription = await site.subscribe(receiver.url)
    publishers = [asyncio.create_task(site.publisher(each=3).publish_for_ever()) for _ in range(4)]
    try:

        async def grow() -> Run:
            run, head = await site.run(1)
            for _ in range(3):
                head = await site.more(run, 2, head)
            return run

        runs = await asyncio.gather(*(grow() for _ in range(15)))
        got = await receiver.until(15 * 7)
        await site.settled(subscription)
    finally:
        for one in publishers:
            one.cancel()
        await asyncio.gather(*publishers, return_exceptions=True)
    for run in runs:
        assert numbers(got, run) == [1, 2, 3, 4, 5, 6, 7]
    assert len(receiver.got) == 15 * 7
    assert receiver.most_open <= 12


def first_occurrences(received: list[Received], run: Run) -> list[int]:
    """The seqs of a run as a receiver sees them that drops what it has had."""
    return list(dict.fromkeys(numbers(received, run)))


async def kill_and_look(site: Site, receiving: Receiving, runs: int, flushes: int, kills: int) -> None:
    """Kill processes that publish with SIGKILL while they are telling; a publisher of this process is beside them."""
    random = Random(7)

    async def answer(_request: Received) -> bytes:
        await asyncio.sleep(random.uniform(0, 0.03))
        return status(204)

    receiver = await receiving(answer)
    subscription = await site.subscribe(receiver.url)
    async with processes(site.url) as publishers, site.publishing(each=2):
        await publishers.start()
        made = [await site.run(1) for _ in range(runs)]

        async def grow(run: Run, head: Head) -> None:
            for _ in range(flushes):
                head = await site.more(run, 3, head)
                await asyncio.sleep(random.uniform(0, 0.05))

        growing = asyncio.gather(*(grow(*one) for one in made))
        total = runs * (1 + 3 * flushes)
        for number in range(kills):
            await receiver.until_got(total * (number + 1) // (kills + 2))
            await publishers.kill(number)
            if number < kills - 1:
                await publishers.start()
        await growing
        await site.settled(subscription)
    for run, _ in made:
        assert first_occurrences(receiver.got, run) == list(range(1, 2 + 3 * flushes))
    twice = len(receiver.got) - total
    assert twice <= kills * 4, "at most what was on its way comes again"


async def test_a_publisher_that_is_killed_loses_nothing(site: Site, receiving: Receiving) -> None:
    await kill_and_look(site, receiving, runs=6, flushes=4, kills=1)


@pytest.mark.soak
async def test_publishers_that_are_killed_all_the_time_lose_nothing(site: Site, receiving: Receiving) -> None:
    await kill_and_look(site, receiving, runs=40, flushes=30, kills=15)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 20))])
async def test_whatever_happens_together_nothing_is_lost(site: Site, receiving: Receiving, seed: int) -> None:
    """Publishers that come and go, a receiver that fails, closes and is slow, pauses, and runs that go on meanwhile."""
    random = Random(seed)
    over = False

    async def answer(_request: Received) -> bytes | None:
        await asyncio.sleep(random.choice([0, 0, 0.002, 0.03]))
        return random.choice([status(204)] * 6 + [status(500), status(429, "retry-after: 0\r\n"), None, b"?\r\n\r\n"])

    async def publishers() -> None:
        while not over:
            async with site.publishing(each=2, claim_seconds=random.choice([1.0, 3.0])):
                await asyncio.sleep(random.uniform(0.2, 0.8))

    async def pauses() -> None:
        while not over:
            await asyncio.sleep(random.uniform(0.05, 0.3))
            async with system_transaction(site.engine) as conn:
                await pause_subscription(conn, subscription.subscription_id, "test", None)
            await asyncio.sleep(random.uniform(0, 0.05))
            async with system_transaction(site.engine) as conn:
                await resume_subscription(conn, subscription.subscription_id, "test")

    async def grow() -> tuple[Run, int]:
        run, head = await site.run(1)
        for _ in range(6):
            await asyncio.sleep(random.uniform(0, 0.1))
            head = await site.more(run, random.randint(1, 4), head)
        return run, head["seq"]

    receiver = await receiving(answer)
    subscription = await site.subscribe(receiver.url, max_attempts=1000)
    around = [asyncio.create_task(one()) for one in (publishers, publishers, publishers, pauses)]
    try:
        runs = await asyncio.gather(*(grow() for _ in range(4)))
    finally:
        over = True
        await asyncio.gather(*around)
    async with site.publishing():
        await site.settled(subscription)
    for run, last in runs:
        assert first_occurrences(receiver.taken, run) == list(range(1, last + 1))


async def test_a_database_that_was_away_loses_nothing(site: Site, receiving: Receiving) -> None:
    """Between the sending and the note that it was sent: that one event comes twice."""
    relay = Relay(site.url)
    await relay.restore()
    cut = asyncio.Event()

    async def answer(request: Received) -> bytes:
        if request.number[2] == 2 and not cut.is_set():
            await relay.cut()
            cut.set()
        return status(204)

    receiver = await receiving(answer)
    subscription = await site.subscribe(receiver.url)
    behind = Site(site.engine, relay.url.render_as_string(hide_password=False))
    engine = create_engine(behind.url)
    behind.engine = engine
    async with behind.publishing(claim_seconds=1.0):
        run, _ = await site.run(4)
        await cut.wait()
        await asyncio.sleep(0.3)  # it cannot note that the event was taken
        await relay.restore()
        await site.settled(subscription)
    await engine.dispose()
    await relay.cut()
    assert numbers(receiver.got, run) == [1, 2, 2, 3, 4]


async def test_a_run_that_goes_back_is_told_both_ways(site: Site, receiving: Receiving) -> None:
    """What a reset took back was told, or is told as superseded; the new epoch follows."""
    receiver = await receiving()
    await site.subscribe(receiver.url)
    async with site.publishing():
        run, head = await site.run(2)
        await site.more(run, 2, head)
        await receiver.until(4)
        await site.world.flush(run, [fact(3, "NODE_STARTED", "b")], head, current=True, execution="second")
        got = await receiver.until(5)
    assert [one.number[1:] for one in got] == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 3)]


async def test_erased_payloads_and_deleted_runs(site: Site, receiving: Receiving) -> None:
    """An event whose payload is gone says so; a run that is gone waits for nobody."""
    receiver = await receiving()
    subscription = await site.subscribe(receiver.url, payloads=True)
    async with system_transaction(site.engine) as conn:
        await pause_subscription(conn, subscription.subscription_id, "test", None)
    async with site.publishing():
        erased, head = await site.world.run(), None
        for facts in (begun(), ended()):
            head = await site.world.flush(erased, facts, head or {"epoch": 0, "seq": 0, "hash": ""}, status="FAILED")
        await site.world.whole()
        async with asyncio.timeout(PATIENCE):
            while (await site.progress(subscription)).waiting_runs < 2:
                await asyncio.sleep(0.02)
        async with transaction(site.engine, "acme") as conn:
            await retention.erase_bodies(conn, "acme", erased.run_id)
        await site.world.rows_changed(
            "UPDATE execution_runs SET completed_at = '2001-01-01' WHERE run_id <> :run", run=erased.run_id
        )
        async with system_transaction(site.engine) as conn:
            old = datetime(2002, 1, 1, tzinfo=UTC)
            assert await retention.delete_finished_runs(conn, old) == 1
            await resume_subscription(conn, subscription.subscription_id, "test")
        got = await receiver.until(8)
        await site.settled(subscription)
    assert numbers(got, erased) == [1, 2, 3, 4, 5, 6, 7, 8]
    shown = {one.number[2]: one.event["data"] for one in got}
    assert (shown[2]["payload"], shown[2]["payloadErased"]) == (None, True)
    assert "payloadErased" not in shown[1], "there never was one"
    assert len(receiver.got) == 8


async def test_a_subscription_begins_when_it_is_made_or_at_since(site: Site, receiving: Receiving) -> None:
    """Also in the middle of a run; nobody is told of what was before, unless it was asked for."""
    receiver, past = await receiving(), await receiving()
    before = datetime.now(UTC) - timedelta(minutes=1)
    async with site.publishing():
        run, head = await site.run(3)
        await site.subscribe(receiver.url)
        await site.subscribe(past.url, since=before)
        await site.more(run, 2, head)
        assert numbers(await receiver.until(2), run) == [4, 5]
        assert numbers(await past.until(5), run) == [1, 2, 3, 4, 5]
    assert len(receiver.got) == 2


async def test_without_a_subscription_nothing_is_read(site: Site) -> None:
    """One small query per look, no event; the feed begins with the first subscription."""
    for _ in range(3):
        await site.run(5)
    publisher = site.publisher()
    feed = "SELECT transaction_id::text, position FROM event_feed"
    before = await site.world.rows(feed)
    assert await publisher.step() >= 1
    assert await site.world.rows(feed) == before
    await site.subscribe("http://127.0.0.1:9/")
    await publisher.step()
    assert await site.world.rows("SELECT count(*) FROM event_publications") == [(0,)]


async def test_a_publisher_that_ends_in_order_leaves_nothing_claimed(site: Site, receiving: Receiving) -> None:
    """Another one goes on at once, instead of when the claim has run out."""

    async def answer(_request: Received) -> bytes:
        await asyncio.sleep(5 if len(receiver.got) == 2 else 0)
        return status(204)

    receiver = await receiving(answer)
    await site.subscribe(receiver.url)
    async with site.publishing():
        run, _ = await site.run(4)
        await receiver.until_got(2)
    assert await site.world.rows("SELECT sent_seq, claim, attempts FROM event_publications") == [(1, None, 0)]
    async with site.publishing():
        assert numbers(await receiver.until(4, seconds=20), run) == [1, 2, 3, 4]


async def test_a_pause_stops_a_publisher_at_its_next_event(site: Site, receiving: Receiving) -> None:
    """Also one that has much more of the run to tell."""
    subscription: Subscription | None = None

    async def answer(request: Received) -> bytes:
        if request.number[2] == 3:
            assert subscription is not None
            async with system_transaction(site.engine) as conn:
                await pause_subscription(conn, subscription.subscription_id, "test", None)
        return status(204)

    receiver = await receiving(answer)
    subscription = await site.subscribe(receiver.url)
    async with site.publishing():
        run, _ = await site.run(20)
        async with asyncio.timeout(PATIENCE):
            while await site.world.rows("SELECT 1 FROM event_publications WHERE sent_seq = 0 OR claim IS NOT NULL"):
                await asyncio.sleep(0.02)
            await receiver.until(3)
            while await site.world.rows("SELECT 1 FROM event_publications WHERE claim IS NOT NULL"):
                await asyncio.sleep(0.02)
    assert numbers(receiver.got, run) == [1, 2, 3]


async def test_a_database_from_another_postgresql_is_looked_through(site: Site, receiving: Receiving) -> None:
    """Numbers of transactions begin anew there: by them alone, the feed would wait for years."""
    receiver = await receiving()
    subscription = await site.subscribe(receiver.url)
    async with site.publishing():
        run, head = await site.run(2)
        await receiver.until(2)
        await site.settled(subscription)
    await site.world.rows_changed("UPDATE event_feed SET transaction_id = '9000000000000000'")
    head = await site.more(run, 2, head)
    other, _ = await site.run(1)
    async with site.publishing():
        await receiver.until(5)
        await site.more(run, 1, head)
        await receiver.until(6)
    assert numbers(receiver.got, run) == [1, 2, 3, 4, 5]
    assert numbers(receiver.got, other) == [1]


async def test_whoever_lost_a_claim_moves_nothing(site: Site) -> None:
    """A publisher that slept through its claim finds that another one goes on, and so does one that is replayed."""
    subscription = await site.subscribe("http://127.0.0.1:9/")
    run, _ = await site.run(4)
    now = datetime.now(UTC)
    async with system_transaction(site.engine) as conn:
        while (await mark(conn)).events == 0:
            await asyncio.sleep(0.01)
    async with system_transaction(site.engine) as conn:
        (first,) = await claim(conn, subscription.subscription_id, 5, 0.05)
        assert await claim(conn, subscription.subscription_id, 5, 0.05) == []
    await asyncio.sleep(0.1)
    async with system_transaction(site.engine) as conn:
        (second,) = await claim(conn, subscription.subscription_id, 5, 30)
    async with system_transaction(site.engine) as conn:
        assert await told(conn, first, 0, 4, now, 30) is None
        assert not await release(conn, first, done=True)
        assert await told(conn, second, 0, 2, now, 30)
        assert [one.seq for one in await next_events(conn, replace(second, seq=2), (), 10)] == [3, 4]
    async with system_transaction(site.engine) as conn:
        await replay(conn, subscription, run.tenant_id, run.run_id)
    async with system_transaction(site.engine) as conn:
        assert await told(conn, second, 0, 4, now, 30) is None
        assert [one.due_at is not None for one in await work(conn)] == [True]


async def test_one_receiver_that_is_slow_leaves_room_for_the_others(site: Site, receiving: Receiving) -> None:
    """As many at once as one subscription may have, and no more."""
    go_on = asyncio.Event()

    async def answer(_request: Received) -> bytes:
        await go_on.wait()
        return status(204)

    slow, quick = await receiving(answer), await receiving()
    await site.subscribe(slow.url)
    await site.subscribe(quick.url)
    async with site.publishing(places=6, each=3):
        runs = [(await site.run(1))[0] for _ in range(7)]
        await quick.until(7)
        assert len(slow.taken) < 7
        go_on.set()
        await slow.until(7)
    assert slow.most_open == 3
    assert {one.number[0] for one in slow.taken} == {str(run.run_id) for run in runs}


async def test_a_defect_of_a_target_holds_up_its_run_alone(site: Site, receiving: Receiving) -> None:
    class Broken:
        at_once = 1

        async def send(self, subscription: Subscription, events: Any) -> Sent:
            raise RuntimeError("a defect")

        async def close(self) -> None: ...

    receiver = await receiving()
    broken = await site.subscribe(kind="nats", target={"subject": "x"})
    await site.subscribe(receiver.url)
    good = Webhooks(lambda: httpx.AsyncClient(trust_env=False))
    async with site.publishing({"nats": Broken(), "webhook": good}):
        await site.run(2)
        await receiver.until(2)
        async with asyncio.timeout(PATIENCE):
            while (found := await site.again(broken)).failures == 0:
                await asyncio.sleep(0.02)
    assert found.last_error == "it could not be sent: RuntimeError"


async def test_a_filter_that_cannot_be_read_any_more_pauses(site: Site) -> None:
    """It was stored by a version that could; nobody is told what he did not want."""
    subscription = await site.subscribe("http://127.0.0.1:9/", filter="event.no such thing")
    async with site.publishing():
        await site.run(1)
        async with asyncio.timeout(PATIENCE):
            while (found := await site.again(subscription)).paused_at is None:
                await asyncio.sleep(0.02)
    assert str(found.paused_reason).startswith("Its filter cannot be read: ")


async def test_a_filter_alone_moves_on(site: Site, receiving: Receiving) -> None:
    """What nobody wants is passed over for good, and what a filter cannot judge is not wanted."""
    receiver = await receiving()
    subscription = await site.subscribe(receiver.url, filter="event.data.payload.no.such.thing == 1")
    async with site.publishing():
        run, _ = await site.run(150)
        await site.settled(subscription)
    assert receiver.got == []
    rows = await site.world.rows("SELECT run_id, sent_seq, due_at FROM event_publications")
    assert rows == [(UUID(str(run.run_id)), 150, None)]
