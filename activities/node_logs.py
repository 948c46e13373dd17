"""What handlers log, on its way to where people look at it: beside the run, not in the worker's log alone.

Theory of operation. While a handler works, the context it runs in names its attempt (threads and tasks that it begins
have the same), so a line that anything logs there is known to be the node's. Lines are gathered in memory and written a
batch at a time, beside the nodes: a handler that logs waits for nothing, and a line that cannot be kept - the database
is away for long, a handler logs without end - is dropped; of the latter a last line says so. They are no part of what
is proven: events tell what happened, lines what handlers say about it.

Secrets are masked (``secrets.py``) as in the worker's own log, where a line is written as well as where it is made: a
filter may have put one into it meanwhile. What looks like a token is taken out, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.activities.patience import RUN_COMES_SECONDS
from dalang.activities.secrets import in_logs
from dalang.canonical import safe_text
from dalang.logs import line_of
from dalang.store.engine import transaction
from dalang.store.node_logs import LogLine, keep_lines
from dalang.wire import NodeTask

logger = logging.getLogger("dalang.node_logs")

PAUSE_SECONDS = 0.5
"""Between two batches; none after a full one."""
MAX_WAITING = 50_000
"""Lines that wait to be written; the oldest are dropped for newer ones."""
BATCH = 1_000
MESSAGE_CHARACTERS = 4_000
ERROR_CHARACTERS = 16_000
ATTEMPT_CHARACTERS = 500_000
"""Of all lines of an attempt."""
LAST_SECONDS = 5.0
"""So long the end of a worker waits for the last lines."""
_BETWEEN_TRIES = 1.0


@dataclass
class _Attempt:
    """An attempt at work, and how much it may still log."""

    owner: NodeLogs
    tenant_id: str
    run_id: str
    node_id: str
    generation: int
    attempt: int
    lines_left: int
    characters_left: int


@dataclass(frozen=True)
class _Waiting:
    tenant_id: str
    line: LogLine
    since: float


_attempt: ContextVar[_Attempt | None] = ContextVar("dalang_attempt", default=None)


class NodeLogs(logging.Handler):
    """Keeps what handlers log. One per worker process; ``most`` lines of an attempt."""

    def __init__(self, engine: AsyncEngine, most: int) -> None:
        super().__init__()
        self._engine = engine
        self._most = most
        self._waiting: deque[_Waiting] = deque(maxlen=MAX_WAITING)
        self._dropped = 0
        self._lock_of_attempts = threading.Lock()

    @contextlib.contextmanager
    def listening(self, task: NodeTask, number: int) -> Iterator[None]:
        """Take what is logged in this block, and in what begins there, for lines of an attempt."""
        key = (task["tenantId"], task["runId"], task["nodeId"], task["generation"], number)
        token = _attempt.set(_Attempt(self, *key, self._most, ATTEMPT_CHARACTERS))
        try:
            yield
        finally:
            _attempt.reset(token)

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line, from whatever thread."""
        attempt = _attempt.get()
        if attempt is None or attempt.owner is not self:
            return
        try:
            line = self._line(attempt, record)
        except Exception:
            self.handleError(record)
            return
        if line is not None:
            self._dropped += len(self._waiting) == MAX_WAITING
            self._waiting.append(_Waiting(attempt.tenant_id, line, time.monotonic()))

    def _line(self, attempt: _Attempt, record: logging.LogRecord) -> LogLine | None:
        said = line_of(record)
        message = safe_text(in_logs.text(said.message), MESSAGE_CHARACTERS)
        error = None if said.error is None else in_logs.text(said.error)[-ERROR_CHARACTERS:]
        error = None if error is None else safe_text(error, ERROR_CHARACTERS)
        with self._lock_of_attempts:  # a handler may log from several threads
            if attempt.lines_left <= 0:
                return None
            attempt.lines_left -= 1
            attempt.characters_left -= len(message) + len(error or "")
            if attempt.characters_left < 0:
                attempt.lines_left = 0
            is_last = not attempt.lines_left
        line = LogLine(
            UUID(attempt.run_id),
            attempt.node_id,
            attempt.generation,
            attempt.attempt,
            datetime.fromtimestamp(record.created, UTC),
            safe_text(str(record.levelname), 50),
            safe_text(str(record.name), 200),
            message,
            error,
        )
        if is_last:
            return replace(line, level="WARNING", error=None, message="This attempt logs more than is kept of one.")
        return line

    @contextlib.asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        """Write what is logged for the length of the block, and the last lines at its end."""
        logging.getLogger().addHandler(self)
        ending = asyncio.Event()
        writing = asyncio.create_task(self._keep_until(ending))
        try:
            yield
        finally:
            logging.getLogger().removeHandler(self)
            ending.set()
            await writing  # with the batch that it is at
            end = time.monotonic() + LAST_SECONDS
            while self._waiting and time.monotonic() < end and await self._keep():
                pass

    async def _keep_until(self, ending: asyncio.Event) -> None:
        pause = PAUSE_SECONDS
        while not ending.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ending.wait(), pause)
            written = await self._keep()
            is_stuck = self._waiting and not written
            pause = PAUSE_SECONDS + (_BETWEEN_TRIES if is_stuck else 0) if written < BATCH else 0
            if self._dropped:
                logger.warning("%d lines of nodes are not kept: more came than could be written", self._dropped)
                self._dropped = 0

    async def _keep(self) -> int:
        """Write a batch and return how many of its lines need not wait any longer; the others wait again."""
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH))]
        again = list[_Waiting]()
        for tenant_id in sorted({one.tenant_id for one in batch}):
            mine = [one for one in batch if one.tenant_id == tenant_id]
            try:
                async with asyncio.timeout(LAST_SECONDS), transaction(self._engine, tenant_id) as conn:
                    without_run = await keep_lines(conn, tenant_id, [one.line for one in mine])
            except Exception as error:
                logger.warning("%d lines of nodes could not be kept, trying again: %s", len(mine), error)
                again += mine
            else:
                missing = {line.run_id for line in without_run}
                again += [one for one in mine if one.line.run_id in missing]
        now = time.monotonic()
        young = [one for one in again if now - one.since < RUN_COMES_SECONDS]
        room = max(MAX_WAITING - len(self._waiting), 0)  # a full deque would drop the newest for these
        self._waiting.extendleft(reversed(young[len(young) - min(room, len(young)) :]))
        self._dropped += max(len(young) - room, 0)
        return len(batch) - len(again)
