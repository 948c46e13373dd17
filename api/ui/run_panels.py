"""What is shown beside the picture: one node with everything about it, or the nodes of a box of several."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Query, Response

from dalang.api.nodes import get_one_node
from dalang.api.runs import found_run, status_without_row
from dalang.api.ui.marks import NODE_MARKS
from dalang.api.ui.pages import Looks, PageRoute, html
from dalang.api.ui.run_data import Opened
from dalang.api.ui.run_drawing import BAR
from dalang.api.ui.run_scenes import STATUSES, scene_of
from dalang.api.ui.telling import pretty
from dalang.errors import NotFound
from dalang.statuses import IN_FLIGHT, NODE_ENDS, RUN_ENDS, NodeStatus
from dalang.store.human_tasks import TaskFilter, list_tasks
from dalang.store.node_logs import list_lines
from dalang.store.plans import get_planned_node
from dalang.store.runs import Run
from dalang.store.utilization import allocations

router = APIRouter(prefix="/ui/runs/{runId}", include_in_schema=False, route_class=PageRoute)

SHOWN_CHARACTERS = 6_000
"""So much of a value stands in the panel; the whole is a page of its own."""
LISTED = 100
SHOWN_LINES = 100
"""So many lines of what a node logged last stand in the panel."""
MAX_TASKS = 200
MAX_LEASES = 1_000
NodeId = Annotated[str, Query(alias="node", max_length=1_000)]


@dataclass(frozen=True)
class Shown:
    """A value as the panel has it; ``text`` is set instead of the value where it is cut."""

    name: str
    value: Any
    size: int
    text: str | None = None


def shown(name: str, value: Any) -> Shown | None:
    """Return how a value is shown; None for one that is not there."""
    if value is None:
        return None
    text = pretty(value)
    size = len(json.dumps(value, ensure_ascii=False, default=str))
    return (
        Shown(name, value, size) if len(text) <= SHOWN_CHARACTERS else Shown(name, None, size, text[:SHOWN_CHARACTERS])
    )


@router.get("/node")
async def node_panel(page: Looks, runId: UUID, node_id: NodeId) -> Response:
    """Show a node: status, what went in and out, attempts, who works on it, what it waits for, what may be done."""
    tenant = page.who.tenant_id
    node = await get_one_node(page.who, runId, node_id, page.it)
    async with page.it.transaction(tenant) as conn:
        run = await found_run(conn, page.who, runId)
        leases = [
            one
            for one in (await allocations(conn, tenant, run_id=runId, limit=MAX_LEASES)).items
            if one.node_id == node_id
        ]
        found = await list_tasks(conn, tenant, TaskFilter(run_id=runId), newest_first=True, limit=MAX_TASKS)
        index = await page.it.indexes.get(conn, tenant, run.plan_digest, run.elements)
        place = -1 if run.elements is not None else index.places.get(node_id, -1)
        lines = await list_lines(conn, tenant, runId, node_id=node_id, newest=True, limit=SHOWN_LINES + 1)
        planned: Any = (await get_planned_node(conn, tenant, run.plan_digest, place) if place >= 0 else None) or {}
    values = (shown("Inputs", node.inputs), shown("Outputs", node.outputs))
    context = {
        "visitor": page,
        "run": run,
        "node": node,
        "planned": planned,
        "values": [one for one in values if one is not None],
        "error": node.error if isinstance(node.error, dict) else None,
        "lines": [line for _, line in lines[-SHOWN_LINES:]],
        "more_lines": len(lines) > SHOWN_LINES,
        "lease": leases[0] if leases else None,
        "tasks": [one for one in found.items if one.node_id == node_id],
        "acts": acts_of(run, node.status) if page.may_operate else frozenset(),
        "address": f"/orchestrator/runs/{runId}/nodes/{quote(node_id, safe='')}",
    }
    return html("run_node.html", context)


@router.get("/value")
async def whole_value(page: Looks, runId: UUID, node_id: NodeId, part: Literal["inputs", "outputs"]) -> Response:
    """Answer a value that is too large for the panel, as a file."""
    node = await get_one_node(page.who, runId, node_id, page.it)
    value = node.inputs if part == "inputs" else node.outputs
    headers = {"Content-Disposition": f'attachment; filename="{part}.json"', "X-Content-Type-Options": "nosniff"}
    return Response(pretty(value), media_type="application/json; charset=utf-8", headers=headers)


@router.get("/group")
async def group_panel(
    page: Looks,
    runId: UUID,
    key: Annotated[str, Query(max_length=1_000)],
    opened: Opened = (),
    status: Annotated[str, Query(max_length=50)] = "",
    first: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> Response:
    """List the nodes of a box that stands for several, with their statuses, a page at a time."""
    async with page.it.transaction(page.who.tenant_id, seconds=30) as conn:
        run = await found_run(conn, page.who, runId)
        scene = await scene_of(page.it.scenes, conn, run, opened=opened)
        standing = await page.it.standings.get(conn, run, scene)
    box = next((one for one in scene.drawing.picture.boxes if one.key == key), None)
    if box is None:
        raise NotFound(f"The picture of run {runId} has no box {key!r}.")
    letters, places = standing.statuses(status_without_row(run)), scene.outline.places
    members = [(one, STATUSES[letters[places[one.node_id]]]) for one in box.nodes]
    counts = Counter(NodeStatus(one) for _, one in members)
    wanted = [one for one in members if not status or one[1] == status]
    openable = next((one for one in scene.groups() if one["key"] == key and one["open"]), None)
    context = {
        "visitor": page,
        "run": run,
        "box": box,
        "counts": [(one, NODE_MARKS[one], counts[one]) for one in BAR if counts[one]],
        "members": wanted[first : first + LISTED],
        "found": len(wanted),
        "status": status,
        "first": first,
        "page_size": LISTED,
        "openable": openable is not None,
    }
    return html("run_group.html", context)


def acts_of(run: Run, status: NodeStatus) -> frozenset[str]:
    """Return what an operator may ask of a node."""
    if run.status in RUN_ENDS:
        return frozenset() if run.elements is not None or run.parent_run_id else frozenset({"redrive"})
    if status == NodeStatus.FAILED:
        return frozenset({"retry", "skip"})
    if status in NODE_ENDS or status in IN_FLIGHT - {NodeStatus.QUEUED} or status == NodeStatus.COMPENSATING:
        return frozenset()
    return frozenset({"skip"})
