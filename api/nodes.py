"""Nodes of runs: every node of the plan, with what went in and out, its attempts, and how it stands at this moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.api.auth import Reader
from dalang.api.live import is_retrying, live_attempts
from dalang.api.node_schemas import (
    AttemptItem,
    CheckpointItem,
    LiveAttempt,
    NodeDetailResponse,
    NodeItem,
    NodePage,
    NodeQuery,
)
from dalang.api.queue import node_retries, queued
from dalang.api.runs import found_run, status_without_row
from dalang.api.services import Service
from dalang.errors import NotFound
from dalang.statuses import NodeStatus
from dalang.store.checkpoints import CheckpointInfo, last_checkpoint
from dalang.store.children import children_of_node
from dalang.store.node_pages import nodes_among
from dalang.store.nodes import Attempt, NodeState, get_node, list_attempts, list_nodes
from dalang.store.paging import read_cursor, write_cursor
from dalang.store.plan_index import PlanIndex, PlannedNode
from dalang.store.retry_statistics import retries_of
from dalang.store.runs import RunSummary

router = APIRouter(prefix="/orchestrator/runs/{runId}/nodes", tags=["nodes"])

CHUNK, LARGEST_CHUNK = 500, 10_000
"""Nodes looked at in one query when a list is narrowed to statuses: the first time, and when few were found."""
FEW = 2_000
"""With no more nodes of such statuses in a run they are found by the status: among 100,000 it may be the last ones."""


@router.get("")
async def get_nodes(who: Reader, runId: UUID, query: Annotated[NodeQuery, Query()], it: Service) -> NodePage:
    """List the nodes of a run in plan order, those that nothing has happened to included."""
    first = read_cursor(query.cursor, int)[0] if query.cursor is not None else 0
    async with it.transaction(who.tenant_id, seconds=30) as conn:
        run = await found_run(conn, who, runId)
        index = await it.indexes.get(conn, who.tenant_id, run.plan_digest, run.elements)
        chosen, following = await _chosen(conn, run, index, query, max(first, 0))
        names = [one.node_id for one, state in chosen if state is not None and state.status == NodeStatus.QUEUED]
        waits = await queued(conn, who, runId, names)
    live: Mapping[str, LiveAttempt] = {}
    if any(state is not None and state.status == NodeStatus.RUNNING for _, state in chosen):
        live = await live_attempts(run, it)
    items = [
        NodeItem(**_common(run, planned, state, live.get(planned.node_id)), queue=waits.get(planned.node_id))
        for planned, state in chosen
    ]
    if query.status:
        # A node that is RUNNING in the table is RETRYING by what Temporal says, or not.
        items = [item for item in items if item.status in query.status]
    following_cursor = None if following is None else write_cursor(following)
    return NodePage(run_id=runId, total=len(index.nodes), items=items, next=following_cursor)


@router.get("/{nodeId:path}")
async def get_one_node(who: Reader, runId: UUID, nodeId: str, it: Service) -> NodeDetailResponse:
    """Read a node: inputs, outputs, error and failed attempts; of one that is being retried the live attempt, too.

    The id stands in the address percent-encoded; it may hold slashes.
    """
    async with it.transaction(who.tenant_id) as conn:
        run = await found_run(conn, who, runId)
        index = await it.indexes.get(conn, who.tenant_id, run.plan_digest, run.elements)
        state = await get_node(conn, who.tenant_id, runId, nodeId)
        planned = index.node(nodeId)
        if planned is None and state is None:
            raise NotFound(f"Run {runId} has no node {nodeId!r}.")
        attempts = await list_attempts(conn, who.tenant_id, runId, node_id=nodeId)
        stored = await last_checkpoint(conn, who.tenant_id, runId, nodeId)
        children = await children_of_node(conn, who.tenant_id, runId, nodeId)
        is_queued = state is not None and state.status == NodeStatus.QUEUED
        waits = await queued(conn, who, runId, [nodeId] if is_queued else [])
        # To find them all events of the run are looked through.
        retries = {} if _went_through(state, attempts) else await retries_of(conn, who.tenant_id, runId, nodeId)
    planned = planned or PlannedNode(nodeId, nodeId, "unknown")
    live = None
    if state is not None and state.status == NodeStatus.RUNNING:
        live = (await live_attempts(run, it)).get(nodeId)
    return NodeDetailResponse(
        **_common(run, planned, state, live),
        run_id=runId,
        inputs=state.inputs if state else None,
        outputs=state.outputs if state else None,
        error=state.error if state else None,
        attempts=[AttemptItem.model_validate({name: vars(one)[name] for name in _ATTEMPT}) for one in attempts],
        metadata=state.metadata if state else {},
        checkpoint=_newest(live, stored),
        retries=await node_retries(it, run, nodeId, retries),
        queue=waits.get(nodeId),
        child_run_ids=children,
    )


def _went_through(state: NodeState | None, attempts: Sequence[Attempt]) -> bool:
    """Tell whether a node is, or came, where it is without a second attempt of anything, as nearly all do."""
    if state is None:
        return True
    plain = state.status in (NodeStatus.RUNNING, NodeStatus.SUCCESS, NodeStatus.PENDING)
    return plain and state.attempt <= 1 and not state.generation and not attempts


def _newest(live: LiveAttempt | None, stored: CheckpointInfo | None) -> CheckpointItem | None:
    kept = None if stored is None else CheckpointItem(**{name: getattr(stored, name) for name in _CHECKPOINT})
    told = None if live is None else live.checkpoint
    return max((one for one in (kept, told) if one is not None), key=lambda one: one.saved_at, default=None)


_ATTEMPT = tuple(AttemptItem.model_fields)
_CHECKPOINT = tuple(CheckpointItem.model_fields)
Chosen = list[tuple[PlannedNode, NodeState | None]]


async def _chosen(
    conn: AsyncConnection, run: RunSummary, index: PlanIndex, query: NodeQuery, first: int
) -> tuple[Chosen, int | None]:
    """Return a page of nodes from place ``first`` on, and the place where the next page begins."""
    if query.node_id:
        planned: Sequence[PlannedNode] = [
            index.nodes[place] for place in sorted({index.places.get(one, -1) for one in query.node_id} - {-1})
        ]
        rows = await nodes_among(conn, run.tenant_id, run.run_id, [one.node_id for one in planned])
        return _fitting(run, planned, rows, query.status), None
    if not query.status:
        planned = index.nodes[first : first + query.limit]
        rows = await nodes_among(conn, run.tenant_id, run.run_id, [one.node_id for one in planned])
        following = first + query.limit
        return _fitting(run, planned, rows, ()), following if following < len(index.nodes) else None
    if _are_few(run, query.status):
        states = await list_nodes(conn, run.tenant_id, run.run_id, statuses=sorted(_asked(query.status)))
        rows = {one.node_id: one for one in states}
        places = sorted(place for one in rows if (place := index.places.get(one, -1)) >= first)
        planned = [index.nodes[place] for place in places[: query.limit]]
        following_place = places[query.limit] if len(places) > query.limit else None
        return _fitting(run, planned, rows, query.status), following_place
    found: Chosen = []
    start, size = first, max(CHUNK, 2 * query.limit)
    while start < len(index.nodes):
        planned = index.nodes[start : start + size]
        start, size = start + size, min(2 * size, LARGEST_CHUNK)
        rows = await nodes_among(conn, run.tenant_id, run.run_id, [one.node_id for one in planned])
        found += _fitting(run, planned, rows, query.status)
        if len(found) > query.limit:
            return found[: query.limit], index.places[found[query.limit][0].node_id]
    return found, None


def _asked(statuses: Sequence[NodeStatus]) -> set[NodeStatus]:
    """Return what the table has for these: a node that is RUNNING there is RETRYING by what Temporal says, or not."""
    return set(statuses) | ({NodeStatus.RUNNING} if NodeStatus.RETRYING in statuses else set())


def _are_few(run: RunSummary, statuses: Sequence[NodeStatus]) -> bool:
    """Tell whether so few nodes have these statuses that all are read at once, and none of them is without a row."""
    asked = _asked(statuses)
    return status_without_row(run) not in asked and sum(run.node_status_counts.get(one, 0) for one in asked) <= FEW


def _fitting(
    run: RunSummary, planned: Sequence[PlannedNode], rows: Mapping[str, NodeState], statuses: Sequence[NodeStatus]
) -> Chosen:
    wanted = _asked(statuses)
    untouched = status_without_row(run)
    pairs = [(one, rows.get(one.node_id)) for one in planned]
    return [(one, state) for one, state in pairs if not wanted or (state.status if state else untouched) in wanted]


def _common(run: RunSummary, planned: PlannedNode, state: NodeState | None, live: LiveAttempt | None) -> dict[str, Any]:
    common: dict[str, Any] = {"node_id": planned.node_id, "name": planned.name, "type": planned.type}
    if state is None:
        return {**common, "status": status_without_row(run)}
    names = ("attempt", "max_attempts", "generation", "skip_reason", "started_at", "completed_at", "updated_at")
    common |= {"status": state.status, **{name: getattr(state, name) for name in names}}
    if live is not None:
        common |= {"live": live, "attempt": live.attempt}
        if is_retrying(live):
            common["status"] = NodeStatus.RETRYING
    return common
