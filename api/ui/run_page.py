"""``/ui/runs/{runId}``: a run as its picture, its timeline, its nodes, its events, its plan's revisions, its data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response

from dalang.api.events import get_events
from dalang.api.node_schemas import NodeQuery
from dalang.api.nodes import get_nodes
from dalang.api.schemas import EventQuery
from dalang.api.ui.marks import NODE_MARKS, RUN_MARKS, Mark, node_badge
from dalang.api.ui.pages import Looks, PageRoute, Visitor, environment, html
from dalang.api.ui.run_data import picture_of
from dalang.api.ui.run_drawing import looks
from dalang.api.ui.run_head import head_of
from dalang.api.ui.run_revisions import compared
from dalang.api.ui.run_scenes import is_large, scene_of
from dalang.event_types import EventType
from dalang.statuses import NodeStatus

router = APIRouter(prefix="/ui/runs/{runId}", include_in_schema=False, route_class=PageRoute)

EVENTS, NODES = 100, 100


def mark_of(status: str) -> Mark:
    """Return how the status of a run or of a node looks."""
    known = {str(one): mark for one, mark in (*RUN_MARKS.items(), *NODE_MARKS.items())}
    return known.get(status) or Mark(status, "circle", "idle")


environment.globals |= {"mark_of": mark_of, "badge_of": node_badge}
Opened = Annotated[Sequence[str], Query(alias="open", max_length=50)]
_LATER = {"later": True, "svg": "<p class=quiet>Drawing …</p>", "looks": looks(), "state": {"seq": 0}}
"""Stands for the picture of a large plan, which has megabytes; the script asks for it when the page is there."""
Short = Annotated[str, Query(max_length=1_000)]


@router.get("")
async def run_page(page: Looks, runId: UUID, opened: Opened = ()) -> Response:
    """Show a run: the picture of its plan, alive."""
    async with page.it.transaction(page.who.tenant_id, seconds=30) as conn:
        head = await head_of(page, conn, runId)
        if is_large(head.run):
            return await _shown(page, "run_graph.html", head, picture=_LATER, summary="The picture is being drawn")
        scene = await scene_of(page.it.scenes, conn, head.run, opened=opened)
        standing = await page.it.standings.get(conn, head.run, scene)
    picture = {**scene.shown, **await picture_of(page.it, scene, head.run, standing, head.revisions)}
    return await _shown(page, "run_graph.html", head, picture=picture, summary=scene.drawing.summary())


@router.get("/head")
async def run_head(page: Looks, runId: UUID, tab: Short = "") -> Response:
    """Show what stands above every page of a run, to be put in place of what stood there."""
    async with page.it.transaction(page.who.tenant_id) as conn:
        head = await head_of(page, conn, runId)
    return html("run_head.html", {"visitor": page, "head": head, "run": head.run, "tab": tab, "csrf": page.csrf})


@router.get("/timeline")
async def run_timeline(page: Looks, runId: UUID) -> Response:
    """Show when the nodes of a run did what; the script asks for the bars."""
    async with page.it.transaction(page.who.tenant_id) as conn:
        head = await head_of(page, conn, runId)
    return await _shown(page, "run_timeline.html", head)


@router.get("/nodes")
async def run_nodes(
    page: Looks,
    runId: UUID,
    status: Annotated[Sequence[str], Query(max_length=20)] = (),
    q: Short = "",
    cursor: Annotated[str | None, Query(max_length=2_000)] = None,
) -> Response:
    """List the nodes of a run: what the picture shows, for whoever does not look at pictures."""
    async with page.it.transaction(page.who.tenant_id) as conn:
        head = await head_of(page, conn, runId)
        index = await page.it.indexes.get(conn, page.who.tenant_id, head.run.plan_digest, head.run.elements)
    wanted = [one for one in NodeStatus if one in status]
    text = q.strip().casefold()
    if text:
        found = [one.node_id for one in index.nodes if text in one.node_id.casefold() or text in one.name.casefold()]
        query = NodeQuery(status=wanted, node_id=found[:200] or ["\0"], limit=NODES)
    else:
        query = NodeQuery(status=wanted, limit=NODES, cursor=cursor)
    nodes = await get_nodes(page.who, runId, query, page.it)
    asked = {"status": list(status), "q": q}
    return await _shown(page, "run_nodes.html", head, nodes=nodes, asked=asked, statuses=list(NodeStatus))


@router.get("/events")
async def run_events(
    page: Looks,
    runId: UUID,
    type_: Annotated[Sequence[str], Query(alias="type", max_length=50)] = (),
    node: Short = "",
    after: Annotated[str | None, Query(max_length=50)] = None,
) -> Response:
    """List what happened in a run, the oldest first."""
    async with page.it.transaction(page.who.tenant_id) as conn:
        head = await head_of(page, conn, runId)
    types = [one for one in EventType if one in type_]
    query = EventQuery(type=types, node_id=node.strip() or None, after=after or None, limit=EVENTS, bodies=True)
    events = await get_events(page.who, runId, query, page.it)
    asked = {"type": [str(one) for one in types], "node": node, "after": after}
    return await _shown(page, "run_events.html", head, events=events, asked=asked, types=list(EventType))


@router.get("/revisions")
async def run_revisions(
    page: Looks, runId: UUID, revision: Annotated[int | None, Query(ge=1, lt=2**31)] = None
) -> Response:
    """Show the plans that a run has had, and what each of them changed, in a picture."""
    async with page.it.transaction(page.who.tenant_id, seconds=30) as conn:
        head = await head_of(page, conn, runId)
        shown = await compared(page.it.scenes, conn, head.run, revision)
    return await _shown(page, "run_revisions.html", head, shown=shown)


@router.get("/data")
async def run_data(page: Looks, runId: UUID) -> Response:
    """Show what went into a run and what came out of it."""
    async with page.it.transaction(page.who.tenant_id) as conn:
        head = await head_of(page, conn, runId)
    return await _shown(page, "run_data.html", head)


async def _shown(page: Visitor, template: str, head: Any, **more: Any) -> Response:
    run = head.run
    tab = template.removeprefix("run_").removesuffix(".html")
    title = f"{run.plan_name} · {str(run.run_id)[:8]}"
    more = {"head": head, "run": run, "tab": tab, "event_types": list(EventType), **more}
    return await page.page(template, title=title, section="runs", **more)
