"""How the nodes of runs stand, and answers made of that, kept between requests.

The page of a run asks every second or two. How all nodes stand is read once, and kept as a letter each; then only nodes
that something has happened to since, unless that are many. What takes long to make of it - a
critical path, a timeline - is given again as long as nothing has happened, and while the run goes on for a while more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.api.ui.run_scenes import LETTERS, Scene
from dalang.recently_used import RecentlyUsed
from dalang.statuses import RUN_ENDS
from dalang.store.run_history import Progress, node_progress, nodes_since
from dalang.store.runs import Run
from dalang.store.standings import ids_by_status

KEPT_NODES = 2_500_000
MOST_NEW = 1_000
"""With more events than this reading everything is as fast."""
KEPT_BYTES = 64 * 1024 * 1024
PATIENCE = 20
"""So many times as long as an answer took to make it is given again, while the run goes on."""
SLOW_SECONDS = 0.05
"""An answer that is made faster is always made anew."""


@dataclass
class Standing:
    """How the nodes of one run stand in a scene, as they stood at event ``seq`` or later."""

    epoch: int = -1
    seq: int = 0
    letters: bytearray = field(default_factory=bytearray)
    """Statuses in plan order; 0 where nothing has happened."""
    times: dict[int, Progress] = field(default_factory=dict)
    """Nodes that have a box of their own, by their place."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def statuses(self, untouched: str) -> bytes:
        """Return a letter for each node; ``untouched`` is the status of those that nothing has happened to."""
        return bytes(self.letters).translate(bytes.maketrans(b"\0", bytes([LETTERS[untouched]])))

    def take(self, scene: Scene, progress: Mapping[str, Progress]) -> None:
        """Take how some nodes stand; those that the plan no longer has do not count."""
        places = scene.outline.places
        for node_id, one in progress.items():
            place = places.get(node_id)
            if place is not None:
                self.letters[place] = LETTERS[one.status]
                if place in scene.alone:
                    self.times[place] = one


class Standings:
    """How nodes stand, by run and scene; the least recently used are dropped."""

    def __init__(self) -> None:
        self._kept: RecentlyUsed[tuple[UUID, str], Standing] = RecentlyUsed(KEPT_NODES, lambda one: len(one.letters))

    async def get(self, conn: AsyncConnection, run: Run, scene: Scene) -> Standing:
        """Return how every node of a run stands; nobody changes the answer."""
        key = run.run_id, scene.key
        known = self._kept.get(key) or self._kept.keep(key, Standing())
        async with known.lock:
            if known.epoch != run.head_epoch or not await _catch_up(conn, run, scene, known):
                await _read(conn, run, scene, known)
                known.epoch, known.seq = run.head_epoch, run.head_seq
        self._kept.keep(key, known)
        return known


async def _catch_up(conn: AsyncConnection, run: Run, scene: Scene, known: Standing) -> bool:
    """Read what is new; False when that is too much."""
    if known.seq >= run.head_seq:
        return True
    if run.head_seq - known.seq >= MOST_NEW:
        return False
    new = await nodes_since(conn, run.tenant_id, run.run_id, known.epoch, known.seq, limit=MOST_NEW)
    if len(new) >= MOST_NEW:
        return False
    names = {node for _, node in new if node is not None}
    if names:
        known.take(scene, await node_progress(conn, run.tenant_id, run.run_id, names))
    known.seq = new[-1][0] if new else run.head_seq
    return True


async def _read(conn: AsyncConnection, run: Run, scene: Scene, known: Standing) -> None:
    """Read how all stand; of a large run, when nodes that have no box of their own began and ended is not read."""
    known.letters, known.times = bytearray(len(scene.ids)), {}
    if len(scene.alone) == len(scene.ids):
        known.take(scene, await node_progress(conn, run.tenant_id, run.run_id))
        return
    usual = ""
    if sum(run.node_status_counts.values()) == run.total_nodes == len(scene.ids):
        # Something has happened to each. Those that stand as most do, as all of a run that went well, are not read.
        usual = max(run.node_status_counts, key=run.node_status_counts.__getitem__)
        known.letters = bytearray([LETTERS[usual]]) * len(scene.ids)
    if run.node_status_counts.get(usual) != len(scene.ids):
        places = scene.outline.places
        for status, ids in (await ids_by_status(conn, run.tenant_id, run.run_id, but=usual)).items():
            letter = LETTERS[status]
            for place in map(places.get, ids):
                if place is not None:
                    known.letters[place] = letter
    if scene.alone:
        known.take(scene, await node_progress(conn, run.tenant_id, run.run_id, scene.alone.values()))


@dataclass(frozen=True)
class _Answer:
    position: tuple[int, int, str]
    body: bytes
    at: float
    took: float


class Answers:
    """Answers about runs by what was asked; the least recently used are dropped."""

    def __init__(self) -> None:
        self._kept: RecentlyUsed[tuple[UUID, str], _Answer] = RecentlyUsed(KEPT_BYTES, lambda one: len(one.body))

    async def get(self, run: Run, what: str, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the answer to ``what``, or let it be made."""
        key, position = (run.run_id, what), (run.head_epoch, run.head_seq, run.status)
        known = self._kept.get(key)
        if known is not None and known.position != position:
            late = time.monotonic() - known.at > known.took * PATIENCE
            if run.status in RUN_ENDS or known.took < SLOW_SECONDS or late:
                known = None
        if known is None:
            began = time.monotonic()
            body = await make()
            known = self._kept.keep(key, _Answer(position, body, time.monotonic(), time.monotonic() - began))
        return known.body
