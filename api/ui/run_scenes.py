"""What the picture of a run is laid out from, kept between requests: the layout of a large plan takes a second.

A plan never changes under its digest, so neither does its layout; only the statuses in it do. How much is kept is
counted in boxes, and in nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.api.ui.run_drawing import LiveDrawing
from dalang.errors import NotFound
from dalang.large_objects import undisturbed
from dalang.picture import Picture, picture
from dalang.recently_used import RecentlyUsed
from dalang.sketch import Sketch, sketch
from dalang.statuses import NodeStatus
from dalang.store.plans import get_document
from dalang.store.runs import RunSummary

T = TypeVar("T")
MAX_BOXES, MAX_LINKS = 2_500, 10_000
MAX_WIDTH = 24
"""A level with more nodes than this is drawn by type: more is no picture that anybody looks at."""
MAX_OPENED = 600
"""A group with more nodes than this is listed, and not drawn node by node."""
KEPT, OF_BOX = 250_000, 8
"""Nodes of the plans that are kept; a box counts as so many, that it is drawn in."""
LARGE_NODES = 5_000
"""The page of a run with as many nodes is shown before its picture, which takes long to make."""

_CODES = {str(status): chr(ord("A") + at) for at, status in enumerate(NodeStatus)}


def coded(statuses: Iterable[str]) -> str:
    """Return statuses as one letter each, in the order of :class:`NodeStatus`."""
    return "".join(_CODES[status] for status in statuses)


@dataclass(frozen=True)
class Scene:
    """A plan and its layout. ``ids`` are its nodes in plan order, ``boxes`` where each is drawn.

    ``alone`` are the places in the plan of nodes that have a box of their own; ``key`` names the layout.
    """

    plan: Sketch
    drawing: LiveDrawing
    ids: tuple[str, ...]
    boxes: tuple[int, ...]
    edges: tuple[tuple[str, str], ...]
    alone: tuple[int, ...]
    key: str

    @classmethod
    def of(cls, plan: Sketch, drawing: LiveDrawing, key: str = "") -> Scene:
        """Return the scene of a layout."""
        ids = tuple(node.node_id for node in plan.all_nodes())
        places = drawing.places()
        boxes = tuple(places[node] for node in ids)
        edges = tuple((one.source_node_id, one.target_node_id) for one in plan.edges)
        drawn = drawing.picture.boxes
        alone = tuple(at for at, box in enumerate(boxes) if len(drawn[box].nodes) == 1)
        return cls(plan, drawing, ids, boxes, edges, alone, key)

    def groups(self) -> list[dict[str, Any]]:
        """Return the boxes that stand for several nodes, with what opens them."""
        return [
            {"box": at, "key": box.key, "title": box.title, "open": len(box.nodes) <= MAX_OPENED and ":" in box.key}
            for at, box in enumerate(self.drawing.picture.boxes)
            if len(box.nodes) > 1
        ]


def live_picture(plan: Sketch, opened: Iterable[str] = ()) -> Picture:
    """Return what is drawn of a plan on the page of its run."""
    return picture(plan, max_boxes=MAX_BOXES, max_links=MAX_LINKS, max_width=MAX_WIDTH, opened=frozenset(opened))


class Scenes(RecentlyUsed[object, Scene]):
    """Scenes by what they show; the least recently used are dropped."""

    def __init__(self) -> None:
        super().__init__(KEPT, lambda one: len(one.ids) + OF_BOX * len(one.drawing.frames))


async def scene_of(
    scenes: Scenes, conn: AsyncConnection, run: RunSummary, digest: str | None = None, opened: Iterable[str] = ()
) -> Scene:
    """Return the scene of a run's plan, or of the one with ``digest`` that it once had.

    Raises:
        NotFound: the plan is not stored.
    """
    wanted, groups = digest or run.plan_digest, tuple(sorted(opened))

    def laid_out(document: Mapping[str, Any]) -> Scene:
        plan = sketch(document, elements=run.elements)
        return Scene.of(plan, LiveDrawing(live_picture(plan, groups)), " ".join((wanted, *groups)))

    async def make() -> Scene:
        document = await document_of(conn, run, wanted)
        return await apart(run, lambda: laid_out(document))

    return await scenes.made(_key_of(run, wanted, groups), make)


async def apart(run: RunSummary, make: Callable[[], T]) -> T:
    """Make what may take long for this run, so that others are answered meanwhile."""

    def made() -> T:
        with undisturbed():
            return make()

    return await asyncio.to_thread(made if run.total_nodes >= LARGE_NODES else make)


def is_at_hand(scenes: Scenes, run: RunSummary, opened: Iterable[str] = ()) -> bool:
    """Tell whether the scene of a run is kept, or made in a moment."""
    return run.total_nodes < LARGE_NODES or _key_of(run, run.plan_digest, tuple(sorted(opened))) in scenes


def _key_of(run: RunSummary, digest: str, groups: tuple[str, ...]) -> object:
    return run.tenant_id, digest, run.elements, groups


async def document_of(conn: AsyncConnection, run: RunSummary, digest: str) -> Mapping[str, Any]:
    """Return a plan that a run has, or had.

    Raises:
        NotFound: it is not stored.
    """
    document = await get_document(conn, run.tenant_id, digest)
    if document is None:
        raise NotFound(f"The plan of run {run.run_id} is not stored.")
    return document
