"""Which part is ill: each is asked by itself, with a time limit, and says since when, what is wrong, and what to do.

A process that cannot reach PostgreSQL or Temporal is not ready. Parts beside - whoever tells subscriptions, looks
after lost runs, or stores - make it *ailing*: it serves, and somebody should look.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeTaskQueueRequest,
    DescribeTaskQueueResponse,
)
from temporalio.client import Client

from dalang.encryption_keys import read_keys
from dalang.errors import DalangError
from dalang.metrics import ROUNDS, oldest_unstored_seconds
from dalang.settings import Settings
from dalang.signing import Keyring
from dalang.store.engine import system_transaction
from dalang.store.migrations import current_revision, newest_revision

State = Literal["ok", "ill"]
Overall = Literal["ready", "ailing", "notReady"]

CHECK_SECONDS = 3.0
POLL_AGE = timedelta(seconds=90)
"""A worker asks for work at least once a minute."""
LATE_SECONDS = 60.0
"""What waits longer for a worker, a publisher or the store is in trouble."""


class Ill(Exception):
    """A part is ill; the text says what is wrong with it, and tells no secret."""


@dataclass(frozen=True)
class Part:
    """How a part is. ``since`` when it has been so, as far as this process saw; ``detail`` and ``remedy`` are for
    operators: what is wrong, and what to do.
    """

    name: str
    state: State
    since: datetime
    detail: str
    remedy: str


@dataclass(frozen=True)
class Check:
    """How a part is asked: it raises when it is ill. ``vital``: without it the process is not ready."""

    name: str
    ask: Callable[[], Awaitable[None]]
    remedy: str
    vital: bool = False


class Health:
    """Asks the parts, all at once, and remembers since when each is as it is."""

    def __init__(self, checks: Iterable[Check]) -> None:
        self._checks = {one.name: one for one in checks}
        self._since: dict[str, tuple[State, datetime]] = {}

    async def parts(self) -> list[Part]:
        """Ask."""
        return list(await asyncio.gather(*map(self._asked, self._checks.values())))

    def overall(self, parts: Iterable[Part]) -> Overall:
        """Return what they mean for the process."""
        ill = [part.name for part in parts if part.state == "ill"]
        if any(self._checks[name].vital for name in ill):
            return "notReady"
        return "ailing" if ill else "ready"

    async def _asked(self, check: Check) -> Part:
        detail = ""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await check.ask()
        except Ill as ill:
            detail = str(ill)
        except TimeoutError:
            detail = f"no answer within {CHECK_SECONDS:g} s"
        except Exception as error:  # whatever it is, the part does not work; its text may hold an address or more
            detail = f"{type(error).__name__}"
        state: State = "ill" if detail else "ok"
        known = self._since.get(check.name)
        if known is None or known[0] != state:
            known = self._since[check.name] = state, datetime.now(UTC)
        return Part(check.name, state, known[1], detail, check.remedy if detail else "")


def database_checks(engine: AsyncEngine) -> list[Check]:
    """Return those of PostgreSQL and of what stands in it."""

    async def database() -> None:
        async with system_transaction(engine) as conn:
            await conn.execute(text("SELECT 1"))

    async def migrations() -> None:
        async with system_transaction(engine) as conn:
            found = await current_revision(conn)
        if found != newest_revision():
            raise Ill(f"the tables are of revision {found}, this version needs {newest_revision()}")

    return [
        Check("database", database, "Start PostgreSQL, and look at DALANG_DATABASE_URL and its log.", vital=True),
        Check("migrations", migrations, "Run `dalang db upgrade`.", vital=True),
    ]


def publisher_check(engine: AsyncEngine) -> Check:
    """Return that of whoever tells subscriptions: nothing may wait that nobody has tried to send."""

    async def publisher() -> None:
        async with system_transaction(engine) as conn:
            late = (await conn.execute(_UNTOLD, {"seconds": LATE_SECONDS})).scalar_one()
        if late:
            raise Ill(f"events of {late} runs wait for more than {LATE_SECONDS:g} s, and nobody tries to send them")

    return Check("publisher", publisher, "Workers publish: start one, and look at its log for `dalang.publishing`.")


def temporal_checks(client: Callable[[], Awaitable[Client]], task_queue: str) -> list[Check]:
    """Return those of Temporal, of workers that ask it for work, and of what waits for them."""
    limit = timedelta(seconds=CHECK_SECONDS)

    async def described(kind: TaskQueueType.ValueType) -> DescribeTaskQueueResponse:
        found = await client()
        queue = TaskQueue(name=task_queue)
        request = DescribeTaskQueueRequest(
            namespace=found.namespace, task_queue=queue, task_queue_type=kind, report_stats=True
        )
        return await found.workflow_service.describe_task_queue(request, timeout=limit)

    async def temporal() -> None:
        found = await client()
        request = DescribeNamespaceRequest(namespace=found.namespace)
        await found.workflow_service.describe_namespace(request, timeout=limit)

    async def workers() -> None:
        answer = await described(TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW)
        oldest = datetime.now(UTC) - POLL_AGE
        if not any(one.last_access_time.ToDatetime(UTC) >= oldest for one in answer.pollers):
            raise Ill(f"no worker asks for work on the task queue {task_queue}")

    async def backlog() -> None:
        for kind in (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY):
            stats = (await described(kind)).stats
            age = stats.approximate_backlog_age.ToTimedelta().total_seconds()
            if stats.approximate_backlog_count and age > LATE_SECONDS:
                raise Ill(f"{stats.approximate_backlog_count} tasks wait for a worker, the first for {age:.0f} s")

    return [
        Check(
            "temporal", temporal, "Start Temporal, and look at DALANG_TEMPORAL_ADDRESS and its namespace.", vital=True
        ),
        Check("workers", workers, "Start a worker (`dalang worker`) with this DALANG_TASK_QUEUE.", vital=True),
        Check("backlog", backlog, "Start more workers, or look why those that run are slow."),
    ]


def round_check(part: str, remedy: str) -> Check:
    """Return that of a background loop of this process."""

    async def goes_round() -> None:
        found = ROUNDS.get(part)
        if found is not None and not found.well:
            failed = f", and failed since {_time(found.since)}: {found.failure}" if found.failure else ""
            raise Ill(f"it last went round {found.age:.0f} s ago{failed}")

    return Check(part, goes_round, remedy)


def storing_check() -> Check:
    """Return that of what this process is about to store: events of runs must not wait."""

    async def storing() -> None:
        age = oldest_unstored_seconds()
        if age > LATE_SECONDS:
            raise Ill(
                f"an event of a run waits for {age:.0f} s to be stored; runs go on, and pages show what was before"
            )

    return Check("storing", storing, "Look at PostgreSQL: disk, locks, connections.")


def keys_check(settings: Settings) -> Check:
    """Return that of the files with keys: they are there, and can be read."""

    async def keys() -> None:
        await asyncio.to_thread(_read_keys, settings)

    return Check("keys", keys, "Mount the files that DALANG_AUDIT_KEY_FILE and DALANG_ENCRYPTION_KEYS_FILE name.")


def _read_keys(settings: Settings) -> None:
    try:
        Keyring.load(settings.audit_keys_path)
        if settings.encryption_keys_file:
            with open(settings.encryption_keys_file, "rb") as file:  # noqa: PTH123 - read anew, not as it is remembered
                read_keys(file.read())
    except (DalangError, OSError) as error:
        raise Ill(f"a file of keys cannot be read ({type(error).__name__})") from None


def summary(parts: Iterable[Part]) -> Mapping[str, State]:
    """Return what anybody may know of them."""
    return {part.name: part.state for part in parts}


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


_UNTOLD = text(
    """
    SELECT count(*) FROM event_publications p JOIN event_subscriptions s USING (subscription_id)
    WHERE s.paused_at IS NULL AND p.attempts = 0 AND p.due_at < now() - make_interval(secs => :seconds)
      AND (p.claimed_until IS NULL OR p.claimed_until < now())
    """
)
