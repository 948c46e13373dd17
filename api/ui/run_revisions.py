"""The revisions of a run's plan, and one of them drawn with what it changed: what was removed stands in it, too."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.api.ui.run_drawing import LiveDrawing
from dalang.api.ui.run_scenes import Scene, Scenes, coded, document_of, live_picture, scene_of
from dalang.errors import NotFound
from dalang.graph import find_cycle
from dalang.plan_diff import counts, plan_diff
from dalang.sketch import sketch
from dalang.statuses import NodeStatus
from dalang.store.revisions import RunRevision, first_revision, list_revisions
from dalang.store.runs import Run

Diff = Mapping[str, Any]


@dataclass(frozen=True)
class Compared:
    """The revisions of a run, and the one that is looked at: its picture, and what it changed."""

    items: Sequence[RunRevision]
    chosen: RunRevision
    svg: str
    summary: str
    diff: Diff | None
    changes: Mapping[str, int]
    left_out: int
    """Removed edges that are not drawn: with them there would be a cycle."""


async def compared(scenes: Scenes, conn: AsyncConnection, run: Run, number: int | None) -> Compared:
    """Return revision ``number`` of a run's plan, the newest by default, compared to the one before.

    Raises:
        NotFound: there is none with this number.
    """
    items = await list_revisions(conn, run.tenant_id, run.run_id) or [first_revision(run)]
    chosen = next((one for one in items if one.revision == (number or items[-1].revision)), None)
    if chosen is None:
        raise NotFound(f"The plan of run {run.run_id} has no revision {number}.")
    before = next((one for one in items if one.revision == chosen.revision - 1), None)
    left_out, diff = 0, None
    if before is not None:
        after = await document_of(conn, run, chosen.plan_digest)
        diff = await asyncio.to_thread(plan_diff, await document_of(conn, run, before.plan_digest), after)
    if diff is None or run.elements is not None:
        scene = await scene_of(scenes, conn, run, chosen.plan_digest)
    else:
        scene, left_out = await asyncio.to_thread(_united_scene, after, diff)
    svg = await asyncio.to_thread(scene.svg, coded([NodeStatus.PENDING]).encode() * len(scene.ids))
    return Compared(items, chosen, svg, scene.drawing.summary(), diff, {} if diff is None else counts(diff), left_out)


def _united_scene(after: Mapping[str, Any], diff: Diff) -> tuple[Scene, int]:
    both, left_out = united(after, diff)
    plan = sketch(both)
    return Scene.of(plan, LiveDrawing(live_picture(plan), _changes(diff["nodes"]), _changes(diff["edges"]))), left_out


def united(after: Mapping[str, Any], diff: Diff) -> tuple[dict[str, Any], int]:
    """Return a plan with what it no longer has, and how many removed edges had to be left out of it."""
    gone = diff["nodes"]["removed"].values()
    nodes = [*after.get("nodes", ()), *(one for one in gone if not one.get("finally"))]
    finals = [*after.get("finally", ()), *(one for one in gone if one.get("finally"))]
    ids = [one["nodeId"] for one in (*nodes, *finals)]
    edges = list(after.get("edges", ()))
    left_out = 0
    for edge in diff["edges"]["removed"].values():
        ends = [(one["sourceNodeId"], one["targetNodeId"]) for one in (*edges, edge)]
        if set(ends[-1]) <= set(ids) and find_cycle(ids, ends) is None:
            edges.append(edge)
        else:
            left_out += 1
    return {**after, "nodes": nodes, "finally": finals, "edges": edges}, left_out


def _changes(part: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {key: change for change in ("added", "removed", "changed") for key in part[change]}
