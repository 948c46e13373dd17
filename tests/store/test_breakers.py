"""Circuit breakers in Postgres: shared by all workers, exact under concurrency, and free while all is well."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang import breakers
from dalang.breaker import BreakerState, Outcome, Thresholds
from dalang.breakers import Breakers, Passage
from dalang.store import breakers as store
from dalang.store.breakers import StoredBreaker
from dalang.store.engine import create_engine, system_transaction, transaction
from tests.harness import PATIENCE, Database
from tests.store.outage import Relay

KEY = "http https://example.org:443"
LIMITS = Thresholds(failures=3, successes=2, open_ms=60_000)
FAILED, ANSWERED, UNKNOWN = Outcome


class Worker:
    """The breakers of one worker, and what it asks the database."""

    def __init__(self, database: Database, limits: Thresholds = LIMITS) -> None:
        self.engine = create_engine(database.url, pool_size=3)
        self.breakers = Breakers(self.engine, database.url, limits)
        self.queries = 0
        event.listen(self.engine.sync_engine, "before_cursor_execute", self._count)
        self._listening = asyncio.create_task(self.breakers.listen_for_ever())

    def _count(self, *_: Any) -> None:
        self.queries += 1

    async def listens(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while not self.breakers._listening:
                await asyncio.sleep(0.01)
        self.queries = 0

    async def ask(self, key: str = KEY, tenant: str = "acme", lasts_ms: int = 60_000) -> Passage | int:
        return await self.breakers.ask(tenant, key, lasts_ms)

    async def attempt(self, outcome: Outcome = ANSWERED, key: str = KEY, tenant: str = "acme") -> bool:
        """Make an attempt, if it may begin."""
        passage = await self.ask(key, tenant)
        if isinstance(passage, int):
            return False
        await self.breakers.hear(passage, outcome, "NETWORK_ERROR" if outcome is FAILED else None)
        return True

    async def knows(self, state: BreakerState, key: str = KEY) -> None:
        """Wait until this worker has heard of a state."""
        async with asyncio.timeout(PATIENCE):
            while getattr(self.breakers._known.get(("acme", key)), "state", BreakerState.CLOSED) is not state:
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        await self.engine.dispose()


@pytest.fixture(autouse=True)
def _answers_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that waits too long for the database passes unasked: never because the machine is busy."""
    monkeypatch.setattr(breakers, "ANSWER_SECONDS", PATIENCE)


@pytest.fixture
async def workers(database: Database) -> AsyncIterator[list[Worker]]:
    made = [Worker(database), Worker(database)]
    for one in made:
        await one.listens()
    yield made
    for one in made:
        await one.close()


async def stored(engine: AsyncEngine, key: str = KEY, tenant: str = "acme") -> StoredBreaker:
    async with transaction(engine, tenant) as conn:
        found = await store.read_breaker(conn, tenant, key)
    assert found is not None
    return found


async def its_time_has_come(engine: AsyncEngine, workers: list[Worker]) -> None:
    """The open breaker lets somebody try from now on, and everybody has heard so."""
    async with system_transaction(engine) as conn:
        await conn.execute(text("UPDATE circuit_breakers SET until = now(), revision = DEFAULT"))
    for one in workers:
        one.breakers._hear_news(store.news(await stored(engine)))


async def test_a_closed_breaker_costs_nothing(workers: list[Worker]) -> None:
    one, _ = workers
    for _ in range(20):
        assert await one.attempt()
    await one.attempt(UNKNOWN)
    assert one.queries == 0
    await one.attempt(FAILED)
    before = one.queries
    await one.attempt(ANSWERED)
    assert one.queries > before, "a success after failures is written"
    before = one.queries
    await one.attempt(ANSWERED)
    assert one.queries == before


async def test_what_one_worker_hears_the_other_knows(workers: list[Worker], engine: AsyncEngine) -> None:
    one, two = workers
    for _ in range(3):
        assert await one.attempt(FAILED)
    await two.knows(BreakerState.OPEN)
    two.queries = 0
    assert not await two.attempt()
    assert two.queries == 0, "an open one refuses from memory"
    assert await two.attempt(tenant="globex"), "another tenant's is another"
    assert await two.attempt(key="http https://example.org:8443")
    row = await stored(engine)
    assert (row.state, row.openings, row.last_failure) == ("OPEN", 1, "NETWORK_ERROR")
    await its_time_has_come(engine, workers)
    assert await two.attempt()
    assert await one.attempt()
    assert (await stored(engine)).state == "CLOSED"
    await two.knows(BreakerState.CLOSED)
    await one.knows(BreakerState.CLOSED)
    one.queries = 0
    assert await one.attempt()
    assert one.queries == 0


async def test_a_worker_that_starts_knows_what_is_open(workers: list[Worker], database: Database) -> None:
    for _ in range(3):
        await workers[0].attempt(FAILED)
    late = Worker(database)
    await late.listens()
    assert not await late.attempt()
    assert late.queries == 0
    await late.close()


async def test_a_worker_that_cannot_listen_asks_each_time(database: Database, workers: list[Worker]) -> None:
    deaf = Worker(database)
    await deaf.close()
    deaf.engine = create_engine(database.url, pooled=False)
    deaf.breakers = Breakers(deaf.engine, database.url, LIMITS)
    assert await deaf.attempt()
    for _ in range(3):
        await workers[0].attempt(FAILED)
    assert not await deaf.attempt()
    await deaf.engine.dispose()


async def test_without_a_database_everybody_passes(database: Database) -> None:
    """Breakers stop no work by themselves; when the database is back they listen again."""
    relay = Relay(database.url)
    await relay.restore()
    engine = create_engine(relay.url, pooled=False)
    url = relay.url.render_as_string(hide_password=False)
    breakers = Breakers(engine, url, LIMITS)
    listening = asyncio.create_task(breakers.listen_for_ever())
    async with asyncio.timeout(PATIENCE):
        while not breakers._listening:
            await asyncio.sleep(0.01)
    await relay.cut()
    for _ in range(5):
        passage = await breakers.ask("acme", KEY, 1000)
        assert isinstance(passage, Passage)
        await breakers.hear(passage, FAILED)
    await relay.restore()
    async with asyncio.timeout(PATIENCE):
        while breakers._listening:
            await asyncio.sleep(0.01)
        while not breakers._listening:
            await asyncio.sleep(0.01)
    for _ in range(3):
        await breakers.hear(Passage("acme", KEY), FAILED)
    assert isinstance(await breakers.ask("acme", KEY, 1000), int)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await relay.cut()
    await engine.dispose()


async def test_failures_are_counted_exactly_and_it_opens_once(database: Database, engine: AsyncEngine) -> None:
    """Forty at once, through two pools: four are four, and forty open it one single time."""
    limits = Thresholds(failures=5, successes=2, open_ms=60_000)
    pair = [Worker(database, limits) for _ in range(2)]
    for one in pair:
        await one.listens()
    passage = Passage("acme", KEY)
    await asyncio.gather(*(pair[at % 2].breakers.hear(passage, FAILED) for at in range(4)))
    assert (await stored(engine)).failures == 4
    await asyncio.gather(*(pair[at % 2].breakers.hear(passage, FAILED) for at in range(40)))
    row = await stored(engine)
    assert (row.state, row.openings) == ("OPEN", 1)
    for one in pair:
        await one.close()


async def test_trial_places_are_never_more_than_there_are(database: Database, engine: AsyncEngine) -> None:
    """Four workers ask, are cut off, fail and succeed at random for a while; the books say who was let through when.

    In each HALF_OPEN no more than so many are on trial at once, nobody passes while it is OPEN, and it closes after
    exactly so many successes on trial.
    """
    rnd = random.Random(7)
    limits = Thresholds(failures=2, successes=3, open_ms=40)
    team = [Worker(database, limits) for _ in range(4)]
    for one in team:
        await one.listens()
    on_trial: set[str] = set()
    most = 0
    refused = passed = 0

    async def work(one: Worker) -> None:
        nonlocal most, refused, passed
        for _ in range(60):
            passage = await one.ask(lasts_ms=60_000)
            if isinstance(passage, int):
                refused += 1
                await asyncio.sleep(rnd.uniform(0, 0.02))
                continue
            passed += 1
            if passage.trial_id is not None:
                on_trial.add(passage.trial_id)
                most = max(most, len(on_trial))
            await asyncio.sleep(rnd.uniform(0, 0.01))
            # Off the list before it is told: in between the place may be somebody else's already.
            on_trial.discard(passage.trial_id or "")
            outcome = rnd.choice([FAILED, FAILED, ANSWERED, ANSWERED, ANSWERED, UNKNOWN])
            await one.breakers.hear(passage, outcome)

    # A failed trial opens the breaker again and the places of the others are void: only those of one opening count.
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(work(one) for one in team for _ in range(3)))
    row = await stored(engine)
    assert row.openings > 3
    assert refused
    assert passed
    assert most >= 2
    assert len(row.trials) <= limits.successes
    for one in team:
        await one.close()


async def test_places_under_contention(database: Database, engine: AsyncEngine) -> None:
    """Of fifty who come in the half-open moment exactly as many pass as there are places."""
    limits = Thresholds(failures=1, successes=2, open_ms=60_000)
    team = [Worker(database, limits) for _ in range(3)]
    for one in team:
        await one.listens()
    await team[0].attempt(FAILED)
    await its_time_has_come(engine, team)
    answers = await asyncio.gather(*(team[at % 3].ask() for at in range(50)))
    passed = [one for one in answers if isinstance(one, Passage)]
    assert len(passed) == 2
    assert all(one.trial_id for one in passed)
    for one in team:
        await one.close()


async def test_reset_and_forced_open(workers: list[Worker], engine: AsyncEngine) -> None:
    one, two = workers
    async with transaction(engine, "acme") as conn:
        made = await store.force_open(conn, "acme", KEY, 60_000, "ann", "maintenance")
    assert (made.state, made.operator, made.reason) == ("OPEN", "ann", "maintenance")
    for worker in workers:
        await worker.knows(BreakerState.OPEN)
    assert not await two.attempt()
    async with transaction(engine, "acme") as conn:
        again = await store.reset(conn, "acme", made.breaker_id, "bob", None)
        assert await store.reset(conn, "globex", made.breaker_id, "bob", None) is None
        assert await store.reset(conn, "acme", uuid4(), "bob", None) is None
    assert again is not None
    assert (again.state, again.operator, again.openings) == ("CLOSED", "bob", 1)
    for worker in workers:
        await worker.knows(BreakerState.CLOSED)
    assert await two.attempt()
    for _ in range(3):
        await one.attempt(FAILED)
    row = await stored(engine)
    assert (row.state, row.operator) == ("OPEN", None), "by itself now"


async def test_older_news_changes_nothing(workers: list[Worker], engine: AsyncEngine) -> None:
    one, _ = workers
    await one.attempt(FAILED)
    old = store.news(await stored(engine))
    for _ in range(2):
        await one.attempt(FAILED)
    one.breakers._hear_news(old)
    assert not await one.attempt()


async def test_quiet_breakers_are_forgotten(workers: list[Worker], engine: AsyncEngine) -> None:
    await workers[0].attempt(FAILED)
    for _ in range(3):
        await workers[0].attempt(FAILED, key="other")
    async with system_transaction(engine) as conn:
        assert await store.forget_quiet(conn) == 0
        await conn.execute(text("UPDATE circuit_breakers SET changed_at = now() - interval '8 days'"))
        assert await store.forget_quiet(conn) == 1
    async with transaction(engine, "acme") as conn:
        assert [row.key for row in (await store.list_breakers(conn, "acme")).items] == ["other"]


async def test_listing_in_pages(workers: list[Worker], engine: AsyncEngine) -> None:
    keys = [f"k{at}" for at in range(5)]
    for key in keys:
        await workers[0].attempt(FAILED, key=key)
    for _ in range(2):
        await workers[0].attempt(FAILED, key="k3")
    async with transaction(engine, "acme") as conn:
        first = await store.list_breakers(conn, "acme", limit=3)
        rest = await store.list_breakers(conn, "acme", limit=3, cursor=first.cursor)
        assert [row.key for row in (*first.items, *rest.items)] == keys
        assert rest.cursor is None
        assert [row.key for row in (await store.list_breakers(conn, "acme", states=["OPEN"])).items] == ["k3"]
        assert await store.count_by_state(conn, "acme") == {"CLOSED": 4, "OPEN": 1}
        assert (await store.list_breakers(conn, "globex")).items == []
