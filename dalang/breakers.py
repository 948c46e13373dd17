"""Circuit breakers for a worker: one answer for all workers, without a question to the database while all is well.

Each worker keeps in memory which breakers do more than let everybody pass, and listens for changes. So an attempt
through a breaker that is CLOSED and has no failures costs nothing, and one through an OPEN breaker is refused from
memory. A failure is always written, and a success where there were failures before it. While nobody listens (Postgres
is away, or was just now) each attempt asks; where nobody answers it passes: a breaker protects others, it must not stop
work by itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from dalang.breaker import BreakerState, Outcome, Thresholds, Verdict
from dalang.store import breakers as store
from dalang.store.breakers import StoredBreaker
from dalang.store.engine import is_connection_error, system_transaction, transaction
from dalang.store.listening import listen_for_ever

ANSWER_SECONDS = 3.0
"""How long an attempt waits for the database before it passes unasked."""
LOOK_SECONDS = 5.0
TIDY_SECONDS = 3600.0

logger = logging.getLogger("dalang.breakers")
T = TypeVar("T")


@dataclass(frozen=True)
class Known:
    """What a worker remembers of a breaker that has, or had, failures."""

    state: BreakerState
    failed: bool
    until: int | None
    revision: int


@dataclass(frozen=True)
class Passage:
    """Somebody who was let through a breaker; ``trial_id`` is his place if it was on trial."""

    tenant_id: str
    key: str
    trial_id: str | None = None


class Breakers:
    """The breakers of one worker process."""

    def __init__(self, engine: AsyncEngine, database_url: str, thresholds: Thresholds) -> None:
        self._engine = engine
        self._url = database_url
        self._thresholds = thresholds
        self._known: dict[tuple[str, str], Known] = {}
        self._listening = False
        self._silent_until = 0.0
        self._tidied = 0.0

    async def ask(self, tenant_id: str, key: str, lasts_ms: int) -> Passage | int:
        """Return the passage of an attempt that lasts so long at most, or until when it has to wait (ms, epoch)."""
        if self._listening:
            known = self._known.get((tenant_id, key))
            if known is None or known.state is BreakerState.CLOSED:
                return Passage(tenant_id, key)
            if known.until is not None and time.time() * 1000 < known.until:
                return known.until
        trial_id = uuid4().hex

        async def question(conn: AsyncConnection) -> Verdict:
            verdict, row = await store.ask(conn, tenant_id, key, self._thresholds, trial_id, lasts_ms)
            self._note(row)
            return verdict

        try:
            verdict = await self._answered(tenant_id, question)
        except asyncio.CancelledError:  # it may have got its place already
            await asyncio.shield(self.hear(Passage(tenant_id, key, trial_id), Outcome.UNKNOWN))
            raise
        if verdict is None:
            return Passage(tenant_id, key)
        if verdict.wait_until is not None:
            return verdict.wait_until
        return Passage(tenant_id, key, None if verdict.trial is None else verdict.trial.trial_id)

    async def hear(self, passage: Passage, outcome: Outcome, error_type: str | None = None) -> None:
        """Take note of how an attempt ended; never raises, and what cannot be stored in time is lost."""
        tenant_id, key, trial_id = passage.tenant_id, passage.key, passage.trial_id
        if outcome is not Outcome.FAILED and trial_id is None:
            known = self._known.get((tenant_id, key))
            quiet = self._listening and (known is None or not known.failed)
            if outcome is Outcome.UNKNOWN or quiet:
                return

        async def report(conn: AsyncConnection) -> bool:
            row = await store.hear(conn, tenant_id, key, self._thresholds, outcome, trial_id, error_type)
            self._note(row)
            return True

        await self._answered(tenant_id, report)

    async def _answered(self, tenant_id: str, query: Callable[[AsyncConnection], Awaitable[T]]) -> T | None:
        """Return what the database answers, or None where it does not, in time, or did not just now."""
        if time.monotonic() < self._silent_until:
            return None
        try:
            async with asyncio.timeout(ANSWER_SECONDS), transaction(self._engine, tenant_id) as conn:
                return await query(conn)
        except Exception as error:
            if is_connection_error(error):
                self._silent_until = time.monotonic() + LOOK_SECONDS
                logger.warning("the store of circuit breakers does not answer: %s", type(error).__name__)
            else:
                logger.exception("a circuit breaker could not be asked")
            return None

    def _note(self, row: StoredBreaker | None) -> None:
        if row is not None:
            self._hear_news(store.news(row))

    def _hear_news(self, payload: str) -> None:
        tenant_id, key, state, failed, until, revision = json.loads(payload)
        known = self._known.get((tenant_id, key))
        if known is None or known.revision < revision:
            self._known[tenant_id, key] = Known(BreakerState(state), failed, until, revision)

    # -- listening -------------------------------------------------------------------------------------------------

    async def listen_for_ever(self) -> None:
        """Keep in mind how breakers stand, until cancelled."""
        await listen_for_ever(
            self._url,
            [store.CHANNEL],
            lambda _, payload: self._hear_news(payload),
            connected=self._begin_listening,
            lost=self._stop_listening,
            probed=self._tidy_now_and_then,
            probe_seconds=LOOK_SECONDS,
        )

    async def _begin_listening(self) -> None:
        # What changes while this reads is heard, and the revision says which is newer.
        self._known = {}
        async with system_transaction(self._engine) as conn:
            for row in await store.troubled(conn):
                self._note(row)
        self._listening, self._silent_until, self._tidied = True, 0.0, 0.0

    def _stop_listening(self) -> None:
        self._listening = False

    async def _tidy_now_and_then(self) -> None:
        if time.monotonic() - self._tidied > TIDY_SECONDS:
            self._tidied = time.monotonic()
            await self._tidy()

    async def _tidy(self) -> None:
        async with system_transaction(self._engine) as conn:
            await store.forget_quiet(conn)
        self._known = {
            name: one for name, one in self._known.items() if one.state is not BreakerState.CLOSED or one.failed
        }
