"""The publisher: tells subscriptions of events, beside others that do the same, for as long as its process lives.

What is to be told is always read from the tables (``store/publications.py``): a notification only wakes, and every few
seconds all is looked at again. Each run of each subscription is told by one publisher at a time, event by event in
order; a failure holds up that run for that subscription and nothing else. An event that fails too often, or for too
long, becomes a dead letter, and the next one is told. Whatever dies, an event may be told twice, which its id makes
harmless, but never not at all. Without a subscription nothing is read but that there is none.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from dalang.cloud_events import CloudEvent, Happened, cloud_event, ping_event
from dalang.event_filters import EventFilter
from dalang.expressions import ExpressionError
from dalang.metrics import PUBLISHED, rounds
from dalang.publishing.target import MAX_SEND_SECONDS, Failure, MissingTarget, Sent, Target
from dalang.store import publications
from dalang.store.dead_letters import MAX_DEAD_LETTERS, bury, settle_dead_letter, wanted_back
from dalang.store.engine import is_connection_error, system_transaction
from dalang.store.flush_statements import CHANNEL as RUN_CHANNEL
from dalang.store.listening import listen_for_ever, woken
from dalang.store.publications import Claim, Work
from dalang.store.subscriptions import CHANNEL, Subscription, notify, pause_subscription

LOOK_SECONDS = 5.0
"""How late something is told whose notification was lost."""
RETRY_SECONDS = 1.0
"""How soon a database that was away is asked again."""
COALESCE_SECONDS = 0.02
"""Notifications that come so close together are one."""
CLAIM_SECONDS = 30.0
"""How soon somebody else tells what a publisher had claimed that died."""
OPEN_SECONDS = 0.1
"""How soon events are looked for again that are stored, and older than a transaction that is still open."""
MARKS = 20
"""So often it marks before it begins to tell of what was marked."""
READ_AT_ONCE = 100
TURN_SECONDS = 10.0
"""So long a publisher stays with one run while others wait."""
AWAY_SECONDS = 15.0
"""How late a broker that was away is found to be back."""
RELEASE_SECONDS = 2.0
PUBLISHER = "publisher"
"""Who pauses a subscription whose receiver wants nothing more, or takes nothing."""

logger = logging.getLogger("dalang.publishing")


class Publisher:
    """Tells; ``places`` runs at once, ``each`` of one subscription at most.

    ``source`` is the CloudEvents attribute of all events, ``targets`` send what is for their kind.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        database_url: str,
        targets: Mapping[str, Target],
        source: str,
        *,
        places: int = 32,
        each: int = 8,
        claim_seconds: float = CLAIM_SECONDS,
    ) -> None:
        self._engine = engine
        self._url = database_url
        self._targets = targets
        self._source = source
        self._places, self._each = places, each
        self._claim_seconds = claim_seconds
        self.send_seconds = min(MAX_SEND_SECONDS, claim_seconds * 2 / 3)
        self._wake = asyncio.Event()
        self._wanted = False
        self._busy: Counter[UUID] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def publish_for_ever(self) -> None:
        """Tell whenever there may be something to tell, until cancelled; what is away meanwhile is only logged."""
        channels = [RUN_CHANNEL, CHANNEL]
        hear = listen_for_ever(self._url, channels, self._heard, connected=self._look, probe_seconds=LOOK_SECONDS)
        listening = asyncio.create_task(hear)
        try:
            turns = rounds("publisher", LOOK_SECONDS)
            while True:
                try:
                    seconds = await self.step()
                    turns.went()
                except Exception as error:
                    turns.failed(error)
                    seconds = RETRY_SECONDS
                    if not is_connection_error(error):
                        logger.exception("publishing events failed")
                await woken(self._wake, seconds)
                await asyncio.sleep(COALESCE_SECONDS)
        finally:
            listening.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(listening, *self._tasks, return_exceptions=True)
            for target in self._targets.values():
                await target.close()

    async def step(self) -> float:
        """Mark what is new and begin to tell what is due; return in how many seconds there is more to do."""
        async with system_transaction(self._engine) as conn:
            self._wanted = await publications.is_wanted(conn)
        if not self._wanted:
            return LOOK_SECONDS
        for _ in range(MARKS):
            async with system_transaction(self._engine) as conn:
                more = (await publications.mark(conn)).more
            if not more:
                break
        async with system_transaction(self._engine) as conn:
            found = await publications.work(conn)
            is_open = await publications.open_feed(conn)
        later = [await self._begin(one) for one in found]
        soon = 0.0 if more else OPEN_SECONDS if is_open else LOOK_SECONDS
        return min([soon, *(one for one in later if one is not None)])

    async def _begin(self, one: Work) -> float | None:
        """Begin what is due of a subscription; return when it is next, if it is not now."""
        if one.ping is not None:
            self._start(one.subscription.subscription_id, self._ping(one.subscription, one.ping))
        if one.due_at is None:
            return None
        seconds = (one.due_at - one.now).total_seconds()
        if seconds > 0:
            return seconds
        subscription_id = one.subscription.subscription_id
        free = min(self._each - self._busy[subscription_id], self._places - self._busy.total())
        if free > 0:
            until = time.monotonic() + self._claim_seconds
            async with system_transaction(self._engine) as conn:
                claims = await publications.claim(conn, subscription_id, free, self._claim_seconds)
            for own in claims:
                self._start(subscription_id, self._tell(one.subscription, own, until))
        return None

    def _start(self, subscription_id: UUID, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        self._busy[subscription_id] += 1

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._busy[subscription_id] -= 1
            self._wake.set()
            error = None if task.cancelled() else task.exception()
            if error is not None and not is_connection_error(error):
                logger.error("telling subscription %s failed", subscription_id, exc_info=error)

        task.add_done_callback(ended)

    async def _tell(self, subscription: Subscription, own: Claim, until: float) -> None:
        try:
            turn = _Turn(self, subscription, own, until)
        except ExpressionError as error:  # it was compiled when it was stored: by another version of the engine
            reason = f"Its filter cannot be read: {error.message}"
            async with system_transaction(self._engine) as conn:
                await pause_subscription(conn, subscription.subscription_id, PUBLISHER, reason)
                await publications.release(conn, own, done=False)
            return
        try:
            await turn.take()
        except asyncio.CancelledError:
            with suppress(Exception):  # else the claim ends by itself
                await asyncio.wait_for(turn.give_back(to_others=True), RELEASE_SECONDS)
            raise

    async def _ping(self, subscription: Subscription, ping_id: str) -> None:
        async with system_transaction(self._engine) as conn:
            if not await publications.take_ping(conn, subscription.subscription_id, ping_id):
                return
        now = datetime.now(UTC)
        event = ping_event(ping_id, self._source, subscription.tenant_id, subscription.name, now)
        began = time.monotonic()
        sent = await self.send(subscription, [event])
        error = None if sent.failure is None else sent.failure.reason
        answer = {"id": ping_id, "error": error, "ms": round((time.monotonic() - began) * 1000)}
        async with system_transaction(self._engine) as conn:
            await publications.answer_ping(conn, subscription.subscription_id, answer)

    async def send(self, subscription: Subscription, events: Sequence[CloudEvent]) -> Sent:
        """Send events of one run to a subscription."""
        sent = await self._sent(subscription, events)
        PUBLISHED.labels(subscription.kind, "delivered").inc(sent.count)
        if sent.failure is not None:
            PUBLISHED.labels(subscription.kind, "failed").inc()
        return sent

    async def _sent(self, subscription: Subscription, events: Sequence[CloudEvent]) -> Sent:
        target = self._targets.get(subscription.kind) or MissingTarget(f"nothing here sends to {subscription.kind}")
        try:
            async with asyncio.timeout(self.send_seconds):
                return await target.send(subscription, events)
        except TimeoutError:
            return Sent(0, Failure(f"no answer within {self.send_seconds:g} s"))
        except Exception as error:  # a defect of ours: it must hold up one run, not the publisher
            logger.exception("sending to %s failed", subscription.name)
            return Sent(0, Failure(f"it could not be sent: {type(error).__name__}"))

    def _heard(self, channel: str, _payload: str) -> None:
        if self._wanted or channel == CHANNEL:
            self._wake.set()

    async def _look(self) -> None:
        self._wake.set()


class _Turn:
    """One claim under way: a run of a subscription."""

    def __init__(self, publisher: Publisher, subscription: Subscription, own: Claim, until: float) -> None:
        self.publisher, self.subscription, self.own, self.until = publisher, subscription, own, until
        self.engine = publisher._engine
        self.attempts = own.attempts
        self.position = own.epoch, own.seq
        self.delivered = 0
        self.is_mine = True
        self.is_over = False
        self.at_once = getattr(publisher._targets.get(subscription.kind), "at_once", 1)
        self.filter = None if subscription.filter is None else EventFilter(subscription.filter)

    async def take(self) -> None:
        """Tell what is to be told of the run, until all is, something fails, or others have waited long enough."""
        ends_at = time.monotonic() + TURN_SECONDS
        done = await self._redeliver()
        while done is None:
            async with system_transaction(self.engine) as conn:
                after = publications.after(self.own, *self.position)
                events = await publications.next_events(conn, after, self.subscription.types, READ_AT_ONCE)
            if not events:
                done = True
            elif not await self._tell(events, ends_at):
                return
            elif self.is_over or time.monotonic() >= ends_at:
                done = False
        await self.give_back(done=done)

    async def give_back(self, *, done: bool = False, to_others: bool = False) -> None:
        """Give the claim back, and count what was told; ``to_others``: this publisher does not go on with it."""
        if not self.is_mine:
            return
        self.is_mine = False
        async with system_transaction(self.engine) as conn:
            if self.delivered:
                await self._count(conn)
            await publications.release(conn, self.own, done=done)
            if to_others:
                await notify(conn, self.subscription.subscription_id)

    async def _tell(self, events: Sequence[Happened], ends_at: float) -> bool:
        """Tell these; False: the claim was given back or is lost."""
        wanted = [(event, made) for event in events if (made := self._wanted(event)) is not None]
        while wanted and not self.is_over and time.monotonic() < ends_at:
            if self.until - time.monotonic() < self.publisher.send_seconds:
                await self.give_back()
                return False
            part = wanted[: self.at_once]
            sent = await self.publisher.send(self.subscription, [made for _, made in part])
            self.delivered += sent.count
            if sent.count and not await self._move(part[sent.count - 1][0]):
                return False
            wanted = wanted[sent.count :]
            if sent.failure is not None and not await self._fail(wanted[0][0], sent.failure):
                return False
            if sent.failure is not None:
                wanted = wanted[1:]
        return bool(wanted) or await self._move(events[-1])

    def _wanted(self, event: Happened) -> CloudEvent | None:
        """Return the event as it is sent, or None when the subscription does not want it."""
        if self.filter is not None:
            whole = cloud_event(event, self.publisher._source, payloads=True)
            if not self.filter.matches(whole):
                return None
            if self.subscription.payloads:
                return whole
        return cloud_event(event, self.publisher._source, payloads=self.subscription.payloads)

    async def _move(self, event: Happened) -> bool:
        """Note that all up to ``event`` is done with."""
        if (event.epoch, event.seq) <= self.position:
            return True
        until = time.monotonic() + self.publisher._claim_seconds
        async with system_transaction(self.engine) as conn:
            args = (event.epoch, event.seq, event.recorded_at, self.publisher._claim_seconds)
            active = await publications.told(conn, self.own, *args)
        return self._moved(event, active, until)

    def _moved(self, event: Happened, active: bool | None, until: float) -> bool:
        """Take in what came of moving on; False: the claim is lost."""
        self.is_mine = active is not None
        self.is_over = self.is_over or not active
        self.position, self.until, self.attempts = (event.epoch, event.seq), until, 0
        return self.is_mine

    async def _fail(self, event: Happened, failure: Failure) -> bool:
        """Do what follows from a failure; True: the event is a dead letter, and the next one may be told."""
        self.attempts += 1
        it = self.subscription
        since = max(event.recorded_at, it.active_since, self.own.begun_at)
        too_long = datetime.now(UTC) - since >= timedelta(milliseconds=it.give_up_ms)
        dead = failure.refused or (not failure.away and (self.attempts >= it.max_attempts or too_long))
        logger.info("event %s was not taken by %s: %s", event.id, it.name, failure.reason)
        async with system_transaction(self.engine) as conn:
            await self._count(conn, failure.reason, event)
            if failure.gone:
                await pause_subscription(conn, it.subscription_id, PUBLISHER, f"Its receiver: {failure.reason}.")
                dead = False
            if not dead:
                self.is_mine = False
                await publications.failed(conn, self.own, self._delay(failure))
                return False
            until = time.monotonic() + self.publisher._claim_seconds
            args = (event.epoch, event.seq, event.recorded_at, self.publisher._claim_seconds)
            active = await publications.told(conn, self.own, *args)
            if active is not None and (
                await bury(conn, self.own, event, self.attempts, failure.reason) >= MAX_DEAD_LETTERS
            ):
                reason = f"It has {MAX_DEAD_LETTERS:,} dead letters."
                await pause_subscription(conn, it.subscription_id, PUBLISHER, reason)
                active = False
        return self._moved(event, active, until)

    async def _count(self, conn: AsyncConnection, error: str | None = None, event: Happened | None = None) -> None:
        """Count what was told, and what went wrong; the subscription's row is locked before any other."""
        told, self.delivered = self.delivered, 0
        of = None if error is None or event is None else event.id
        await publications.count(conn, self.subscription.subscription_id, delivered=told, error=error, event=of)

    def _delay(self, failure: Failure) -> timedelta:
        it = self.subscription
        longest = min(it.max_delay_ms, AWAY_SECONDS * 1000) if failure.away else it.max_delay_ms
        delay = min(it.initial_delay_ms * 2.0 ** min(self.attempts - 1, 40), longest) * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
        patience = (failure.retry_after or 0.0) * 1000
        return timedelta(milliseconds=max(delay, min(patience, it.give_up_ms)))

    async def _redeliver(self) -> bool | None:
        """Tell dead letters that somebody wants told again, one try each; False: the turn is over."""
        async with system_transaction(self.engine) as conn:
            events = await wanted_back(conn, self.own, READ_AT_ONCE)
        for event in events:
            if self.until - time.monotonic() < self.publisher.send_seconds:
                return False
            made = cloud_event(event, self.publisher._source, payloads=self.subscription.payloads)
            sent = await self.publisher.send(self.subscription, [made])
            error = None if sent.failure is None else sent.failure.reason
            self.delivered += sent.count
            async with system_transaction(self.engine) as conn:
                await self._count(conn, error, event)
                await settle_dead_letter(conn, self.own, event, error)
        return False if len(events) == READ_AT_ONCE else None
