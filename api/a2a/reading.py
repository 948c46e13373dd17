"""Reading runs as tasks: one, a page, and as they go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from uuid import UUID

from a2a.types import Task, TaskStatusUpdateEvent
from a2a.utils.errors import TaskNotFoundError
from fastapi import Request
from google.protobuf.json_format import ParseDict
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.api.a2a.tasks import AUTH_FLAG, sentence_of, status_of, task_of
from dalang.api.a2a.updates import Update, updates_of
from dalang.api.auth import Principal
from dalang.api.services import Services
from dalang.statuses import RUN_ENDS, RunStatus
from dalang.store.a2a import contexts, last_messages, nodes_with_state
from dalang.store.engine import is_connection_error
from dalang.store.events import Event, list_events
from dalang.store.human_tasks import Task as HumanTask
from dalang.store.human_tasks import TaskFilter, get_task, list_tasks
from dalang.store.runs import Run, get_run
from dalang.wire import EventType

MAX_HISTORY = 100
MAX_QUESTIONS = 20
CHUNK = 200
LOOK_SECONDS = 3.0
"""A stream, and who waits, looks by itself this often: a notification may be lost."""


class Reading:
    """Reads for one caller: nothing but what is his tenant's."""

    def __init__(self, it: Services, who: Principal) -> None:
        self.it = it
        self._tenant = who.tenant_id

    async def run(self, run_id: UUID) -> Run:
        """Return a run without its large values. Raises TaskNotFoundError."""
        async with self.it.transaction(self._tenant) as conn:
            return await self._run(conn, run_id)

    async def _run(self, conn: AsyncConnection, run_id: UUID, *, resolved: bool = False) -> Run:
        run = await get_run(conn, self._tenant, run_id, resolved=resolved)
        if run is None or run.parent_run_id is not None:
            raise TaskNotFoundError(message=f"There is no task {run_id}.")
        return run

    async def questions(self, conn: AsyncConnection, run_id: UUID, *, ended: bool = False) -> list[HumanTask]:
        """Return the open human tasks of a run, the oldest last; with ``ended`` those that have ended, too."""
        wanted = TaskFilter(run_id=run_id, open=None if ended else True)
        page = await list_tasks(conn, self._tenant, wanted, newest_first=True, limit=MAX_QUESTIONS)
        found = [await get_task(conn, self._tenant, one.task_id, resolved=True) for one in page.items]
        return [one for one in found if one is not None]

    async def task(self, run_id: UUID, history: int, *, modes: Sequence[str] = ()) -> Task:
        """Return a run as a task. Raises TaskNotFoundError."""
        async with self.it.transaction(self._tenant, snapshot=True) as conn:
            run = await self._run(conn, run_id, resolved=True)
            [task] = await self.tasks(conn, [run], history, modes=modes)
        return task

    async def tasks(
        self,
        conn: AsyncConnection,
        runs: Sequence[Run],
        history: int,
        *,
        artifacts: bool = True,
        modes: Sequence[str] = (),
    ) -> list[Task]:
        """Return runs as tasks."""
        ids = [run.run_id for run in runs]
        known = await contexts(conn, self._tenant, ids)
        messages = await last_messages(conn, self._tenant, ids, history) if history else {}
        found = []
        for run in runs:
            waits = run.status == RunStatus.AWAITING_HITL
            found.append(
                task_of(
                    run,
                    known[run.run_id],
                    questions=await self.questions(conn, run.run_id) if waits else (),
                    auth_nodes=await self._auth_nodes(conn, run) if waits else frozenset(),
                    history=messages.get(run.run_id, ()),
                    artifacts=artifacts,
                    modes=modes,
                )
            )
        return found

    async def _auth_nodes(self, conn: AsyncConnection, run: Run) -> frozenset[str]:
        return await nodes_with_state(conn, self._tenant, run.plan_digest, AUTH_FLAG)

    async def settled(self, run_id: UUID, decided: frozenset[UUID], request: Request) -> None:
        """Wait until a run has ended or asks something else than ``decided``, or nobody waits for the answer."""
        request.state.deadline.reschedule(None)  # a run may take days; who does not want to wait says so

        async def is_settled() -> bool:
            async with self.it.transaction(self._tenant) as conn:
                run = await self._run(conn, run_id)
                if run.status != RunStatus.AWAITING_HITL:
                    return run.status in RUN_ENDS
                return any(one.task_id not in decided for one in await self.questions(conn, run_id))

        await self._until(run_id, lambda: _either(is_settled(), request.is_disconnected()))

    async def ended(self, run_id: UUID, seconds: float) -> None:
        """Wait until a run has ended, at most so long."""

        async def is_over() -> bool:
            return (await self.run(run_id)).status in RUN_ENDS

        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._until(run_id, is_over)

    async def _until(self, run_id: UUID, done: Callable[[], Awaitable[bool]]) -> None:
        self.it.feed.require_room()
        with self.it.feed.subscribed(str(run_id)) as wake:
            while True:
                wake.clear()
                try:
                    if await done():
                        return
                except Exception as error:
                    if not is_connection_error(error):
                        raise
                await _woken(wake)

    async def stream(
        self, run_id: UUID, history: int, *, modes: Sequence[str] = ()
    ) -> AsyncGenerator[Task | Update, None]:
        """Yield a run as a task, then what happens in it until it ends."""
        # Subscribed before the first read: what is stored in between wakes us.
        with self.it.feed.subscribed(str(run_id)) as wake:
            async with self.it.transaction(self._tenant, snapshot=True) as conn:
                run = await self._run(conn, run_id, resolved=True)
                [task] = await self.tasks(conn, [run], history, modes=modes)
            yield task
            position, status = (run.head_epoch, run.head_seq), RunStatus(run.status)
            while status not in RUN_ENDS:
                wake.clear()
                try:
                    run, events, asked, auth = await self.news(run_id, position)
                except Exception as error:
                    if not is_connection_error(error):
                        raise
                    await asyncio.sleep(1)  # the database is away: the stream lives on
                    continue
                for event in events:
                    position = event.epoch, event.seq
                    if event.superseded:
                        continue
                    updates, status = updates_of(
                        event,
                        task.context_id,
                        status,
                        tasks=asked,
                        auth_nodes=auth,
                        outputs=run.outputs,
                        text=reason_of(event, run),
                        modes=modes,
                    )
                    for one in updates:
                        yield one
                    if status in RUN_ENDS:
                        return
                if not events and run.status in RUN_ENDS:  # it ended without an event: it could not be started
                    yield last_of(run, task.context_id)
                    return
                if len(events) < CHUNK:
                    await _woken(wake)

    async def news(
        self, run_id: UUID, position: tuple[int, int]
    ) -> tuple[Run, list[Event], list[HumanTask], frozenset[str]]:
        """Return the run, what happened in it after ``position``, and what is needed to tell it."""
        async with self.it.transaction(self._tenant, snapshot=True) as conn:
            run = await self._run(conn, run_id)
            events = await list_events(conn, self._tenant, run_id, after=position, limit=CHUNK)
            if any(event.type == EventType.PLAN_COMPLETED for event in events):
                run = await self._run(conn, run_id, resolved=True)
            if all(event.type != EventType.PLAN_AWAITING_HITL for event in events):
                return run, events, [], frozenset()
            asked = await self.questions(conn, run_id, ended=True)
            return run, events, asked, await self._auth_nodes(conn, run)


def reason_of(event: Event, run: Run) -> str | None:
    """Return why a run is where an event has brought it."""
    if event.data.get("status") in RUN_ENDS:
        return sentence_of(run)
    reason = event.data.get("reason")
    return reason if isinstance(reason, str) else None


def last_of(run: Run, context_id: str) -> TaskStatusUpdateEvent:
    """Return what is told of a run that has ended without an event: it could not be started."""
    status = status_of(run.run_id, context_id, RunStatus(run.status), run.last_updated_at, text=sentence_of(run))
    document = {"taskId": str(run.run_id), "contextId": context_id, "status": status}
    return ParseDict(document, TaskStatusUpdateEvent())


async def _either(first: Awaitable[bool], second: Awaitable[bool]) -> bool:
    one, other = await first, await second
    return one or other


async def _woken(wake: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LOOK_SECONDS):
            await wake.wait()
