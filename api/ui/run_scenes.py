"""What the picture of a run is laid out from, kept between requests: the layout of a large plan takes a second.

A plan never changes under its digest, so neither does its layout; only the statuses in it do. That of a large plan is
stored as well, for processes that are asked for the first time. How much is kept is counted in boxes, and in nodes.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.api.ui.run_drawing import LiveDrawing, looks
from dalang.canonical import compact_json
from dalang.errors import NotFound
from dalang.large_objects import undisturbed
from dalang.picture import Picture, picture
from dalang.plan_outline import Outline, PackedOutline, pack, unpack
from dalang.recently_used import RecentlyUsed
from dalang.sketch import Sketch, sketch
from dalang.statuses import NodeStatus
from dalang.store.outlines import get_outline, put_outline
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
LETTERS = {status: ord(letter) for status, letter in _CODES.items()}
STATUSES = {letter: status for status, letter in LETTERS.items()}
"""Statuses by their letters, as bytes have them."""


def coded(statuses: Iterable[str]) -> str:
    """Return statuses as one letter each, in the order of :class:`NodeStatus`."""
    return "".join(_CODES[status] for status in statuses)


@dataclass(frozen=True)
class Scene:
    """A plan and its layout: ``boxes`` are where each node is drawn, in plan order; ``key`` names the layout."""

    outline: Outline
    drawing: LiveDrawing
    boxes: Sequence[int]
    key: str

    @classmethod
    def of(cls, plan: Sketch, drawing: LiveDrawing, key: str = "") -> Scene:
        """Return the scene of a layout."""
        outline = Outline.of(plan)
        boxes = array("i", [0]) * len(outline.ids)
        for at, box in enumerate(drawing.picture.boxes):
            for node in box.nodes:
                boxes[outline.places[node.node_id]] = at
        return cls(outline, drawing, boxes, key)

    @property
    def ids(self) -> Sequence[str]:
        """The plan's nodes."""
        return self.outline.ids

    @cached_property
    def alone(self) -> dict[int, str]:
        """The nodes that have a box of their own, by their place in the plan."""
        single = {at for at, box in enumerate(self.drawing.picture.boxes) if len(box.nodes) == 1}
        return {at: self.ids[at] for at, box in enumerate(self.boxes) if box in single} if single else {}

    @cached_property
    def shown(self) -> dict[str, Any]:
        """What a script has to know of the picture: which node is in which box, and how statuses look."""
        shown = {"ids": list(self.ids), "boxes": list(self.boxes), "groups": self.groups()}
        return {**shown, "looks": looks(), "down": self.drawing.down}

    @cached_property
    def shown_json(self) -> bytes:
        """The same as it is sent: of 100,000 nodes that is a megabyte, and every time the same."""
        return compact_json(self.shown)

    def svg(self, letters: bytes) -> str:
        """Return the picture with statuses, one letter for each node in plan order."""
        counts: list[dict[str, int]] = [{} for _ in self.drawing.picture.boxes]
        for (box, letter), count in Counter(zip(self.boxes, letters, strict=True)).items():
            counts[box][STATUSES[letter]] = count
        return self.drawing.drawn(counts)

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

    key = " ".join((wanted, *groups))
    is_kept = is_large(run) and run.elements is None and not groups

    def laid_out(document: Mapping[str, Any]) -> tuple[Scene, PackedOutline | None]:
        plan = sketch(document, elements=run.elements)
        scene = Scene.of(plan, LiveDrawing(live_picture(plan, groups)), key)
        return scene, pack(scene.outline, scene.drawing.picture, scene.boxes) if is_kept else None

    def read(packed: PackedOutline) -> Scene:
        outline, drawn, boxes = unpack(packed)
        return Scene(outline, LiveDrawing(drawn), boxes, key)

    async def make() -> Scene:
        known = await get_outline(conn, run.tenant_id, wanted) if is_kept else None
        if known is not None:
            return await apart(run, lambda: read(known))
        document = await document_of(conn, run, wanted)
        scene, packed = await apart(run, lambda: laid_out(document))
        if packed is not None:
            await put_outline(conn, run.tenant_id, wanted, packed)
        return scene

    return await scenes.made(_key_of(run, wanted, groups), make)


def is_large(run: RunSummary) -> bool:
    """Tell whether a run has so many nodes that no answer has all of them."""
    return run.total_nodes >= LARGE_NODES


async def apart(run: RunSummary, make: Callable[[], T]) -> T:
    """Make what may take long for this run, so that others are answered meanwhile."""

    def made() -> T:
        with undisturbed():
            return make()

    return await asyncio.to_thread(made if is_large(run) else make)


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
