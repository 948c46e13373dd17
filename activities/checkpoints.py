"""The checkpoint of one attempt on its way to whoever goes on after it.

Heartbeats carry a small state itself, and of a large one a reference to the table ``node_checkpoints``; Temporal hands
the last heartbeat to the next attempt. The table has a copy of small states too, written at leisure: a heartbeat is
lost where an activity is cancelled before its next attempt begins. Postgres being away fails no attempt: the handler
goes on, heartbeats carry what was kept last, and the newest state is stored when the database is back.

Handlers call :meth:`Checkpoints.keep` from any thread; all else happens on the worker's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any, Protocol

from temporalio.activity import Info

from dalang.usage import usage_of
from dalang.wire import Checkpoint, NodeTask, attempt_number, is_checkpoint

logger = logging.getLogger("dalang.activities")

INLINE_CHECKPOINT_BYTES = 4 * 1024
"""States up to this size travel in heartbeats and in the workflow itself."""
COPY_SECONDS = 10.0
"""From one copy of a small state in Postgres to the next."""
SETTLE_SECONDS = 10.0
"""How long a cancelled attempt may take to store its last state; without Postgres the one before it counts."""
HURRIED_SECONDS = 2.0
"""The same for the copy of a small state, which a heartbeat or the workflow has as well."""


class CheckpointStore(Protocol):
    """Where states are kept that heartbeats do not carry; both wait while it is away."""

    async def save_checkpoint(self, task: NodeTask, checkpoint: Checkpoint, encoded: bytes) -> None:
        """Keep a state, unless there is one of a newer attempt."""

    async def load_checkpoint(self, task: NodeTask) -> tuple[Checkpoint, bytes] | None:
        """Return what is kept for the node in this iteration and generation."""


class Kept:
    """What ``ctx.checkpoint`` returns. Awaiting it waits until the state is stored; nobody has to."""

    def __init__(self, stored: Future[None] | None = None) -> None:
        self._stored = stored

    def __await__(self) -> Generator[Any, None, None]:
        """Wait until the state is stored; a small one travels with the next heartbeat, so there is nothing to await."""
        if self._stored is not None:
            yield from asyncio.shield(asyncio.wrap_future(self._stored)).__await__()


class Checkpoints:
    """The checkpoints of one attempt. ``record`` is what heartbeats carry; ``changed`` is called when it is new."""

    def __init__(self, task: NodeTask, info: Info, store: CheckpointStore) -> None:
        self.record = received(task, info)
        self.changed: Callable[[], None] = lambda: None
        self._task = task
        self._attempt = attempt_number(task, info.attempt)
        self._begun = int(info.started_time.timestamp() * 1000)
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._newest: tuple[Checkpoint, bytes] | None = None
        self._waiting: list[tuple[int, Future[None]]] = []
        self._closed = False
        self._given = asyncio.Event()
        self._hurry = asyncio.Event()
        self._all_stored = asyncio.Event()
        self._all_stored.set()
        self._storing: asyncio.Task[None] | None = None

    async def restore(self) -> Any:
        """Return the state that an earlier attempt left, or None; waits while Postgres has it and is away."""
        record = self.record
        if record is not None and "state" in record:
            return record["state"]
        if record is None and not self._task.get("starts"):
            return None
        stored = await self._store.load_checkpoint(self._task)
        if stored is None:
            if record is not None:
                logger.warning("the checkpoint of node %s is gone; it starts anew", self._task["nodeId"])
            self.record = None
            return None
        checkpoint, encoded = stored
        state = json.loads(encoded)
        self.record = {**checkpoint, "state": state} if len(encoded) <= INLINE_CHECKPOINT_BYTES else checkpoint
        return state

    # -- what the handler's thread calls -----------------------------------------------------------------------------

    def keep(self, encoded: bytes) -> Kept:
        """Keep a state, given as JSON, in place of the one before; may be called from any thread, never blocks."""
        large = len(encoded) > INLINE_CHECKPOINT_BYTES
        stored: Future[None] | None = Future() if large else None
        with self._lock:
            if self._closed:  # a thread that does not see that its attempt is over
                return Kept()
            number = 1 if self._newest is None else self._newest[0]["number"] + 1
            record: Checkpoint = {
                "begun": self._begun,
                "attempt": self._attempt,
                "number": number,
                "at": int(datetime.now(UTC).timestamp() * 1000),
                "size": len(encoded),
            }
            self._newest = (record, encoded)
            if stored is None:
                self.record = {**record, "state": json.loads(encoded)}
            else:
                self._waiting.append((number, stored))
        with contextlib.suppress(RuntimeError):  # the process is ending
            self._loop.call_soon_threadsafe(self._take_note, large)
        return Kept(stored)

    # -- what happens on the worker's loop -----------------------------------------------------------------------------

    def _take_note(self, large: bool) -> None:
        if self._closed:
            return
        self._all_stored.clear()
        self._given.set()
        if large:
            self._hurry.set()
        else:
            self.changed()
        if self._storing is None:
            self._storing = asyncio.create_task(self._keep_storing())

    async def _keep_storing(self) -> None:
        """Store the newest state again and again: a large one at once, copies of small ones now and then."""
        pause = 0.0
        while True:
            await self._given.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), pause)
            self._given.clear()
            self._hurry.clear()
            await self._store_newest()
            pause = COPY_SECONDS

    async def _store_newest(self) -> None:
        assert self._newest is not None
        record, encoded = self._newest
        problem: Exception | None = None
        try:
            await self._store.save_checkpoint(self._task, record, encoded)
        except Exception as error:
            logger.warning("a checkpoint of node %s could not be stored", self._task["nodeId"], exc_info=True)
            problem = error
        with self._lock:
            known = self.record
            if problem is None and (known is None or _order(known) < _order(record)):
                self.record = record
                self.changed()
            done = [one for number, one in self._waiting if number <= record["number"]]
            self._waiting = [(number, one) for number, one in self._waiting if number > record["number"]]
            if self._newest[0] is record:
                self._all_stored.set()
        for one in done:
            if problem is None:
                one.set_result(None)
            else:
                one.set_exception(problem)

    async def settle(self, *, patient: bool) -> None:
        """Store the newest state now, since the attempt is ending; ``patient``: wait for Postgres if it is large."""
        await asyncio.sleep(0)  # what the handler's thread gave last is taken note of
        if self._newest is None or self._all_stored.is_set():
            return
        large = self._newest[0]["size"] > INLINE_CHECKPOINT_BYTES
        self._hurry.set()
        seconds = HURRIED_SECONDS if not large else None if patient else SETTLE_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._all_stored.wait()

    def close(self) -> None:
        """The attempt is over: nothing more is kept."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, []
        if self._storing is not None:
            self._storing.cancel()
        for _, one in waiting:
            one.cancel()


def received(task: NodeTask, info: Info) -> Checkpoint | None:
    """Return the checkpoint that an earlier attempt left in its heartbeats, else the one the workflow gives."""
    details = info.heartbeat_details
    if info.attempt > 1 and len(details) > 1 and is_checkpoint(details[1]):
        found: Checkpoint = details[1]
        return found
    given = task.get("checkpoint")
    return given if given is not None and is_checkpoint(given) else None


def _order(checkpoint: Checkpoint) -> tuple[int, int]:
    return checkpoint["begun"], checkpoint["number"]


def used_before(info: Info) -> dict[str, Any]:
    """Return what earlier attempts of the activity have used, as their last heartbeat tells."""
    told = info.heartbeat_details[0] if info.attempt > 1 and info.heartbeat_details else None
    return usage_of(told.get("usage")) if isinstance(told, dict) else {}
