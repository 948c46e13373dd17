"""Is this process alive, could it serve, and its metrics. Health needs no token and tells nothing but up or down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, DescribeTaskQueueRequest

from dalang.api.auth import Reader
from dalang.api.schemas import Answer
from dalang.api.services import Service, Services
from dalang.metrics import exposition
from dalang.store.engine import system_transaction
from dalang.store.measures import gauges
from dalang.store.migrate import current_revision, newest_revision

router = APIRouter(tags=["health"])

CHECK_SECONDS = 3.0
POLL_AGE = timedelta(seconds=90)
"""A worker asks for work at least once a minute."""


class Live(Answer):
    """The process answers."""

    status: str


class Ready(Answer):
    """``status`` is ready or notReady; ``checks`` says which part is up."""

    status: str
    checks: dict[str, str]


@router.get("/health/live")
async def live() -> Live:
    """Answer as long as the process does; it asks nobody else."""
    return Live(status="up")


@router.get("/health/ready", responses={503: {"model": Ready, "description": "Something is ill."}})
async def ready(response: Response, it: Service) -> Ready:
    """Say whether requests can be served: PostgreSQL, its migrations, Temporal, and a worker on the task queue."""
    names = ("postgres", "migrations", "temporal", "worker")
    postgres, worker = _guarded(_database(it)), _guarded(_temporal(it))
    (database, migrations), (temporal, workers) = await asyncio.gather(postgres, worker)
    checks = dict(zip(names, (database, migrations, temporal, workers), strict=True))
    healthy = all(state == "up" for state in checks.values())
    response.status_code = 200 if healthy else 503
    return Ready(status="ready" if healthy else "notReady", checks=checks)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(who: Reader, it: Service) -> Response:
    """Metrics in Prometheus' text format: what this process does; and, of the token's tenant alone, its runs by status,
    queue, pools, human tasks, circuit breakers, subscriptions, and what was used today.
    """
    async with it.transaction(who.tenant_id) as conn:
        measured = await gauges(conn, who.tenant_id)
    return Response(exposition(measured, it.metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def _guarded(check: Awaitable[tuple[str, str]]) -> tuple[str, str]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check
    except Exception:  # whatever it is, the part does not work; health tells no more
        return "down", "unknown"


async def _database(it: Services) -> tuple[str, str]:
    async with system_transaction(it.engine) as conn:
        revision = await current_revision(conn)
    return "up", "up" if revision == newest_revision() else "outdated"


async def _temporal(it: Services) -> tuple[str, str]:
    client = await it.temporal.client()
    limit = timedelta(seconds=CHECK_SECONDS)
    await client.workflow_service.describe_namespace(
        DescribeNamespaceRequest(namespace=client.namespace), timeout=limit
    )
    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=it.settings.task_queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    answer = await client.workflow_service.describe_task_queue(request, timeout=limit)
    oldest = datetime.now(UTC) - POLL_AGE
    polled = any(one.last_access_time.ToDatetime(UTC) >= oldest for one in answer.pollers)
    return "up", "up" if polled else "down"
