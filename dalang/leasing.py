"""Leases for those who need them: what activities and the API call, and the news for workflows that wait.

Who is granted something later is told by a signal to its workflow; a row that Temporal has not taken is found again
every few seconds, after a crash too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from dalang.metrics import LEASE_WAIT, LEASES, rounds
from dalang.store import leases
from dalang.store.engine import is_connection_error, system_transaction
from dalang.store.leases import Answer, Ask, Asker
from dalang.store.listening import listen_for_ever
from dalang.wire import SIGNAL_LEASES

LOOK_SECONDS = 5.0
"""How late a grant is told whose granter crashed, or a place is given whose releaser did."""
MAX_SLEEP_SECONDS = 3600.0

logger = logging.getLogger("dalang.leasing")


@dataclass
class _Turn:
    """What is asked for and given back together, in one turn."""

    asks: list[tuple[Asker, Ask]] = field(default_factory=list)
    done: list[tuple[str, UUID]] = field(default_factory=list)
    answers: asyncio.Future[dict[UUID, Answer]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Leasing:
    """Asks, releases and grants over one database.

    Everybody who comes while a turn is under way is part of the next one: one transaction for all that is asked for and
    given back, one grant pass, one look at the answers. ``max_bytes`` is from where on payloads are kept outside of
    Temporal, where workers of others cannot read them.
    """

    def __init__(self, engine: AsyncEngine, max_bytes: int = 64 * 1024) -> None:
        self._engine = engine
        self._max_bytes = max_bytes
        self._coming: _Turn | None = None
        self._turns: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, asker: Asker, asks: Sequence[Ask], done: Sequence[UUID] = ()) -> list[Answer]:
        """Give back what is ``done``, ask for more, and return what is granted at once and what waits.

        Repeating a call answers how things stand now: nothing is asked for or given back twice.
        """
        found = await self._turn([(asker, one) for one in asks], [(asker.tenant_id, one) for one in done])
        return [found[one.lease_id] for one in asks]

    async def release(self, tenant_id: str, lease_ids: Sequence[UUID]) -> None:
        """Give leases back; a grant pass follows."""
        await self._turn([], [(tenant_id, one) for one in lease_ids])

    async def grant(self) -> None:
        """Wait for a grant pass that began after this call."""
        await self._turn([], [])

    async def _turn(self, asks: list[tuple[Asker, Ask]], done: list[tuple[str, UUID]]) -> dict[UUID, Answer]:
        turn = self._coming = self._coming or _Turn()
        turn.asks += asks
        turn.done += done
        if self._turns is None or self._turns.done():
            self._turns = asyncio.create_task(self._take_turns())
        return await asyncio.shield(turn.answers)

    async def _take_turns(self) -> None:
        while self._coming is not None:
            turn, self._coming = self._coming, None
            try:
                turn.answers.set_result(await self._take(turn))
            except Exception as error:
                turn.answers.set_exception(error)
                turn.answers.exception()  # whoever waited may have been cancelled

    async def _take(self, turn: _Turn) -> dict[UUID, Answer]:
        if turn.asks or turn.done:
            async with system_transaction(self._engine) as conn:
                await leases.ask(conn, turn.asks)
                ended = await leases.release(conn, turn.done)  # who gave up asking, too, while this turn was waited for
            LEASES.labels("ended").inc(ended)
        async with system_transaction(self._engine) as conn:
            passed = await leases.grant(conn)
        LEASES.labels("granted").inc(passed.granted)
        for seconds in passed.waited:
            LEASE_WAIT.observe(seconds)
        self._come_back(passed.again_at)
        if not turn.asks:
            return {}
        async with system_transaction(self._engine) as conn:
            return await leases.answers(conn, [one.lease_id for _, one in turn.asks])

    def _come_back(self, at: datetime | None) -> None:
        """Run a pass again when a rate lets somebody through."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at is not None:
            seconds = min(max((at - datetime.now(UTC)).total_seconds(), 0.01), MAX_SLEEP_SECONDS)
            self._timer = asyncio.get_running_loop().call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._timer = None
        ring = asyncio.ensure_future(self.grant())
        ring.add_done_callback(lambda done: done.cancelled() or done.exception())

    def wire_form(self, answer: Answer) -> dict[str, Any]:
        """Return an answer as the workflow gets it, by signal or as a result."""
        made = {
            "leaseId": str(answer.lease_id),
            "nodeId": answer.node_id,
            "ask": answer.ask,
            "state": answer.state,
            "agent": answer.agent_id,
            "short": list(answer.short),
            "reason": answer.reason,
        }
        if answer.route is None:
            return made
        bound = {"maxBytes": self._max_bytes} if "taskQueue" in answer.route else {}
        return {**made, "route": {**answer.route, **bound}}

    def close(self) -> None:
        """Run no more passes by itself."""
        if self._timer is not None:
            self._timer.cancel()


class Teller:
    """Tells workflows what they were granted. Several processes may do it side by side."""

    def __init__(self, engine: AsyncEngine, database_url: str, client: Client, leasing: Leasing) -> None:
        self._engine = engine
        self._url = database_url
        self._client = client
        self._leasing = leasing
        self._wake = asyncio.Event()

    async def tell(self) -> int:
        """Tell everybody who was not told; return how many leases that were."""
        count = 0
        while True:
            async with system_transaction(self._engine) as conn:
                news = await leases.untold(conn)
                by_workflow: dict[str, list[Answer]] = {}
                for _, workflow_id, answer in news:
                    by_workflow.setdefault(workflow_id, []).append(answer)
                sent = await asyncio.gather(*(self._signal(*one) for one in by_workflow.items()))
                told = [one.lease_id for part in sent for one in part]
                await leases.mark_told(conn, told)
            count += len(told)
            if not told:
                return count

    async def _signal(self, workflow_id: str, answers: Sequence[Answer]) -> Sequence[Answer]:
        payload = {"leases": [self._leasing.wire_form(one) for one in answers]}
        try:
            await self._client.get_workflow_handle(workflow_id).signal(SIGNAL_LEASES, payload)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                logger.warning("%s was not told of its leases: %s", workflow_id, error.message)
                return ()
            # It has ended; what it holds is given back by whoever looks after ended runs.
        return answers

    async def tell_for_ever(self) -> None:
        """Tell whenever something was granted, and look again every few seconds, until cancelled."""
        hear = listen_for_ever(self._url, [leases.CHANNEL], lambda *_: self._wake.set(), probe_seconds=LOOK_SECONDS)
        listening = asyncio.create_task(hear)
        try:
            turns = rounds("leases", LOOK_SECONDS)
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._wake.wait()
                late = not self._wake.is_set()
                self._wake.clear()
                try:
                    if late:
                        await self._reap()
                        await self._leasing.grant()
                    await self.tell()
                    turns.went()
                except Exception as error:
                    turns.failed(error)
                    if not is_connection_error(error):
                        logger.exception("telling of leases failed")
        finally:
            listening.cancel()

    async def _reap(self) -> None:
        async with system_transaction(self._engine) as conn:
            ended = await leases.reap(conn)
        if ended:
            LEASES.labels("reaped").inc(ended)
            logger.warning("%d leases of runs that are gone were given back", ended)
