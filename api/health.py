"""Is this process alive, could it serve, and its metrics. To strangers health tells which part is ill, and no more."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict

from dalang.api.auth import ADMINS, Reader, bearer, requires, session_cookie
from dalang.api.schemas import Answer
from dalang.api.services import Service
from dalang.errors import DalangError
from dalang.health import summary
from dalang.metrics import exposition
from dalang.store.executor_metrics import executor_metrics
from dalang.store.measures import gauges

router = APIRouter(tags=["health"])
_authenticated = requires(ADMINS)


class Live(Answer):
    """The process answers."""

    status: str


class PartItem(Answer):
    """A part of the whole: how it is, since when this server has seen it so, what is wrong, and what to do."""

    name: str
    status: Literal["ok", "ill"]
    since: datetime
    detail: str
    what_to_do: str


class Ready(Answer):
    """``status`` is ready, ailing (it serves, and a part is ill) or notReady; ``checks`` says which part is ok or ill.

    ``parts``, for admins only, says more of each.
    """

    status: str
    checks: dict[str, str]
    parts: list[PartItem] | None = None


async def is_admin(request: Request) -> bool:
    """Tell whether an admin asks; health is told to anybody, whatever he shows."""
    try:
        await _authenticated(request, await bearer(request), await session_cookie(request))
    except (DalangError, TimeoutError, OSError):
        return False
    except Exception:  # while the database is away nobody can be known
        return False
    return True


@router.get("/health/live")
async def live() -> Live:
    """Answer as long as the process does; it asks nobody else."""
    return Live(status="up")


@router.get(
    "/health/ready",
    responses={503: {"model": Ready, "description": "Something vital is ill."}},
    response_model_exclude_none=True,
)
async def ready(response: Response, it: Service, admin: Annotated[bool, Depends(is_admin)]) -> Any:
    """Say whether requests can be served, and which part is ill; an admin is also told since when and what to do."""
    parts = await it.health.parts()
    status = it.health.overall(parts)
    response.status_code = 503 if status == "notReady" else 200
    told = [
        PartItem(name=one.name, status=one.state, since=one.since, detail=one.detail, what_to_do=one.remedy)
        for one in parts
    ]
    return Ready(status=status, checks=dict(summary(parts)), parts=told if admin else None)


class MetricsSnapshot(BaseModel):
    """Axon's ``ExecutorMetrics``, by its names."""

    model_config = ConfigDict(frozen=True)

    workflows_executed: int
    workflows_succeeded: int
    workflows_failed: int
    total_execution_time: int
    avg_workflow_duration_ms: float
    tasks_executed: int
    tasks_retried: int


@router.get("/orchestrator/metrics")
async def get_metrics(who: Reader, it: Service) -> MetricsSnapshot:
    """What the runs of the token's tenant came to in all; times are milliseconds."""
    async with it.transaction(who.tenant_id) as conn:
        return MetricsSnapshot(**asdict(await executor_metrics(conn, who.tenant_id)))


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(who: Reader, it: Service) -> Response:
    """Metrics in Prometheus' text format: what this process does; and, of the token's tenant alone, its runs by status,
    queue, pools, human tasks, circuit breakers, subscriptions, and what was used today.
    """
    async with it.transaction(who.tenant_id) as conn:
        measured = await gauges(conn, who.tenant_id)
    return Response(exposition(measured, it.metrics.registry), media_type=CONTENT_TYPE_LATEST)
