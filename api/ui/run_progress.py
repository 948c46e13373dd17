"""How the nodes of runs stand, and answers made of that, kept between requests.

The page of a run asks every second or two. Of a run with 100,000 nodes, reading how all of them stand takes a second,
so that is read once; then only nodes that something has happened to since. What takes long to make of it - a
critical path, a timeline - is given again as long as nothing has happened, and while the run goes on for a while more.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.statuses import RUN_ENDS
from dalang.store.run_history import Progress, node_progress, nodes_since
from dalang.store.runs import Run

KEPT_NODES = 250_000
MOST_NEW = 20_000
"""With more events than this reading everything is as fast."""
KEPT_BYTES = 64 * 1024 * 1024
PATIENCE = 20
"""So many times as long as an answer took to make it is given again, while the run goes on."""
SLOW_SECONDS = 0.05
"""An answer that is made faster is always made anew."""


@dataclass
class _Run:
    """The nodes of one run, as they stood at event ``seq`` or later."""

    epoch: int = -1
    seq: int = 0
    nodes: Mapping[str, Progress] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Progresses:
    """How nodes stand, by run; the least recently used are dropped."""

    def __init__(self) -> None:
        self._runs: OrderedDict[UUID, _Run] = OrderedDict()

    async def get(self, conn: AsyncConnection, run: Run) -> Mapping[str, Progress]:
        """Return how every node of a run stands that something has happened to; nobody changes the answer."""
        known = self._runs.setdefault(run.run_id, _Run())
        self._runs.move_to_end(run.run_id)
        async with known.lock:
            if known.epoch != run.head_epoch or not await self._catch_up(conn, run, known):
                known.nodes = await node_progress(conn, run.tenant_id, run.run_id)
                known.epoch, known.seq = run.head_epoch, run.head_seq
        while len(self._runs) > 1 and sum(len(one.nodes) for one in self._runs.values()) > KEPT_NODES:
            self._runs.popitem(last=False)
        return known.nodes

    async def _catch_up(self, conn: AsyncConnection, run: Run, known: _Run) -> bool:
        """Read what is new; False when that is too much."""
        if known.seq >= run.head_seq:
            return True
        new = await nodes_since(conn, run.tenant_id, run.run_id, known.epoch, known.seq, limit=MOST_NEW)
        if len(new) >= MOST_NEW:
            return False
        names = {node for _, node in new if node is not None}
        if names:
            known.nodes = {**known.nodes, **await node_progress(conn, run.tenant_id, run.run_id, names)}
        known.seq = new[-1][0] if new else run.head_seq
        return True


@dataclass(frozen=True)
class _Answer:
    position: tuple[int, int, str]
    body: bytes
    at: float
    took: float


class Answers:
    """Answers about runs by what was asked; the least recently used are dropped."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[UUID, str], _Answer] = OrderedDict()
        self._bytes = 0

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
            known = _Answer(position, body, time.monotonic(), time.monotonic() - began)
            self._bytes += len(body) - len(self._kept[key].body if key in self._kept else b"")
            self._kept[key] = known
        self._kept.move_to_end(key)
        while self._bytes > KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= len(self._kept.popitem(last=False)[1].body)
        return known.body
