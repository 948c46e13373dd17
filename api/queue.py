"""Who waits and who holds: the queue for leases, the QUEUED nodes of a run, active leases, retries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.api.auth import Principal, Reader
from dalang.api.limit_schemas import (
    AllocationItem,
    AllocationPage,
    AllocationQuery,
    NodeRetries,
    QueuedNode,
    QueueInfo,
    QueueQuery,
    QueueStatus,
    RetryItem,
    RunQueue,
    RunRetries,
)
from dalang.api.runs import found_run
from dalang.api.services import Service, Services
from dalang.errors import DalangError
from dalang.program_columns import NodeColumns
from dalang.retries import delay_ms
from dalang.statuses import NodeStatus
from dalang.store.nodes import list_nodes
from dalang.store.retry_statistics import Retry, retries_of
from dalang.store.runs import RunSummary
from dalang.store.utilization import Waiting, allocations, last_queued, queue_statistics, waiting

router = APIRouter(prefix="/orchestrator", tags=["limits"])

MOST_QUEUED = 1_000
LEASE = "lease"


@router.get("/queue")
async def get_queue(who: Reader, query: Annotated[QueueQuery, Query()], it: Service) -> QueueStatus:
    """Read how many nodes of the tenant wait for a lease, since when, for what, and which are the first."""
    async with it.transaction(who.tenant_id, snapshot=True) as conn:
        found = await queue_statistics(conn, who.tenant_id)
        first = await waiting(conn, who.tenant_id, limit=query.limit)
    age = 0.0 if found.oldest is None else max((datetime.now(UTC) - found.oldest).total_seconds(), 0.0)
    return QueueStatus(**vars(found), oldest_seconds=age, items=[_waiting_node(one) for one in first])


@router.get("/runs/{runId}/queue")
async def get_run_queue(who: Reader, runId: UUID, it: Service) -> RunQueue:
    """Read which nodes of a run are QUEUED, at which place, and what they wait for."""
    async with it.transaction(who.tenant_id, snapshot=True) as conn:
        await found_run(conn, who, runId)
        nodes = await list_nodes(conn, who.tenant_id, runId, statuses=(NodeStatus.QUEUED,), limit=MOST_QUEUED)
        infos = await queued(conn, who, runId, [one.node_id for one in nodes])
    items = [QueuedNode(run_id=runId, node_id=node_id, **info.model_dump()) for node_id, info in infos.items()]
    items.sort(key=lambda one: (one.position is None, one.position or 0))
    return RunQueue(run_id=runId, items=items)


@router.get("/allocations")
async def get_allocations(who: Reader, query: Annotated[AllocationQuery, Query()], it: Service) -> AllocationPage:
    """List the leases that nodes of the tenant hold, the oldest first."""
    async with it.transaction(who.tenant_id) as conn:
        page = await allocations(conn, who.tenant_id, run_id=query.run_id, limit=query.limit, cursor=query.cursor)
    return AllocationPage(items=[AllocationItem(**vars(one)) for one in page.items], next=page.cursor)


@router.get("/runs/{runId}/retries")
async def get_run_retries(who: Reader, runId: UUID, it: Service) -> RunRetries:
    """Read how often nodes of a run were tried again, when last, and how long was waited before."""
    async with it.transaction(who.tenant_id, snapshot=True) as conn:
        run = await found_run(conn, who, runId)
        found = await retries_of(conn, who.tenant_id, runId)
    policies = await _policies(it, run, found)
    nodes = {node_id: retry_item(retries, policies.get(node_id)) for node_id, retries in found.items()}
    times = [one.last_retry_at for one in nodes.values() if one.last_retry_at is not None]
    return RunRetries(
        run_id=runId,
        total_retries=sum(one.total_retries for one in nodes.values()),
        last_retry_at=max(times, default=None),
        total_delay_ms=sum(one.total_delay_ms for one in nodes.values()),
        nodes=[NodeRetries(node_id=node_id, **one.model_dump()) for node_id, one in nodes.items()],
    )


async def node_retries(it: Services, run: RunSummary, node_id: str, found: Mapping[str, Sequence[Retry]]) -> RetryItem:
    """Return the statistics of one node."""
    if node_id not in found:
        return RetryItem()
    return retry_item(found[node_id], (await _policies(it, run, found)).get(node_id))


def retry_item(retries: Sequence[Retry], policy: Mapping[str, Any] | None) -> RetryItem:
    """Sum up; delays that nobody reported are those of the policy, without jitter."""
    delays = (
        one.delay_ms if one.delay_ms is not None else delay_ms(policy, one.attempt) if policy is not None else 0
        for one in retries
    )
    times = [one.at for one in retries if one.at is not None]
    return RetryItem(
        total_retries=len(retries), last_retry_at=max(times, default=None), total_delay_ms=round(sum(delays))
    )


async def _policies(
    it: Services, run: RunSummary, found: Mapping[str, Sequence[Retry]]
) -> Mapping[str, Mapping[str, Any]]:
    """Return the retry policies of nodes some of whose delays nobody reported."""
    wanted = {node_id for node_id, retries in found.items() if any(one.delay_ms is None for one in retries)}
    if not wanted:
        return {}
    try:
        program = (await it.launcher.prepared_of(run.tenant_id, run.plan_digest)).program
    except DalangError:  # the plan is gone, or of another version: delays count as 0
        return {}
    retries: Sequence[Mapping[str, Any]] = program["retries"]
    nodes = NodeColumns.of(program["nodes"])
    policies = zip(nodes.ids, nodes.definitions, strict=True)
    return {node_id: retries[node["retry"]] for node_id, node in policies if node_id in wanted}


async def queued(conn: AsyncConnection, who: Principal, run_id: UUID, node_ids: Sequence[str]) -> dict[str, QueueInfo]:
    """Return why each of these QUEUED nodes waits."""
    if not node_ids:
        return {}
    one = node_ids[0] if len(node_ids) == 1 else None
    asking = {found.node_id: found for found in await waiting(conn, who.tenant_id, run_id=run_id, node_id=one)}
    told = await last_queued(conn, who.tenant_id, run_id, [node_id for node_id in node_ids if node_id not in asking])
    infos = {node_id: _info(found) for node_id, found in asking.items() if node_id in set(node_ids)}
    for node_id, (at, data) in told.items():
        until = data.get("until")
        infos[node_id] = QueueInfo(
            reason=str(data.get("reason", LEASE)),
            short=list(data.get("short", ())),
            since=at,
            until=datetime.fromisoformat(until) if isinstance(until, str) else None,
        )
    return infos


def _info(found: Waiting) -> QueueInfo:
    return QueueInfo(reason=LEASE, short=list(found.short), position=found.position, since=found.asked_at)


def _waiting_node(found: Waiting) -> QueuedNode:
    return QueuedNode(run_id=found.run_id, node_id=found.node_id, **_info(found).model_dump())
