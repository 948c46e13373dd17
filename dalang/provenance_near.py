"""The provenance of parts of a large run, around one node or page by page: what it takes to explain them is read.

Theory of operation. To *explain* some nodes takes their part of the plan (``plan_graph.excerpt``), what happened to
them and to whoever may have given to them, found by an index, and the same :class:`~dalang.provenance.Provenance` that
is told of whole runs: of a node it tells the same, whatever else it is not told of. Explained are a node and some of
the nearest to it by the plan's graph, of which the process keeps a small form; then the walk is tried, and where it
comes to what is not explained yet it goes on from there. So the cost is that of what is walked, however large the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.compilation import compile_plan
from dalang.errors import NotFound
from dalang.plan import Plan
from dalang.plan_graph import PlanGraph, excerpt
from dalang.program import Program
from dalang.provenance import OF_RUN, Execution, Provenance
from dalang.provenance_reading import (
    MAX_VALUE_BYTES,
    Part,
    Position,
    Told,
    about_run,
    add_attempts,
    began,
    happened,
    with_values,
)
from dalang.provenance_walk import Around, around
from dalang.store.events import list_beginnings, list_events_of_nodes
from dalang.store.plan_parts import PlanGraphs, read_parts
from dalang.store.revisions import list_revisions
from dalang.store.runs import Run

FROM_NODES = 1_000
"""Of smaller runs everything is read at once, and kept."""
BATCH, LARGEST_BATCH = 64, 1_024
"""So many nodes are explained at once: first, and where most of them are walked to."""
MAX_EXPLAINED = 20_000
MAX_EVENTS = 100_000
"""Of one batch: a loop may have gone round ten thousand times."""


@dataclass(frozen=True)
class Near:
    """What is around a node; ``is_cut``: there is more than was asked for, or than anybody looks at."""

    told: Told
    around: Around
    is_cut: bool


class NearProvenance:
    """Reads what is around nodes of large runs."""

    def __init__(self) -> None:
        self._graphs = PlanGraphs()

    async def get(self, conn: AsyncConnection, run: Run, node_id: str, limit: int) -> Near | None:
        """Return what is around a node; None: of this run everything has to be read.

        Raises:
            NotFound: the run has no such node.
        """
        graph = await self._graph(conn, run)
        if graph is None:
            return None
        if node_id not in graph.index:
            raise NotFound(f"Run {run.run_id} has no node {node_id!r}.")
        return await _Walk(conn, run, graph, node_id, limit).go()

    async def page(self, conn: AsyncConnection, run: Run, after: Position | None, limit: int) -> Told | None:
        """Return the executions that began after an event, in order; None: of this run everything has to be read."""
        graph = await self._graph(conn, run)
        if graph is None:
            return None
        found: list[Execution] = []
        around: list[Execution] = []
        more = True
        while more and len(found) < limit:
            size = min(limit - len(found), LARGEST_BATCH)
            begun = await list_beginnings(conn, run.tenant_id, run.run_id, after=after, limit=size + 1)
            more = len(begun) > size
            explaining = _Explaining(conn, run, graph)
            names = dict.fromkeys(name for _, name in begun[:size])
            numbers = [graph.index[name] for name in names if name in graph.index]
            provenance = await explaining.explain(numbers or [0])  # what is told of the run is told all the same
            until = begun[min(size, len(begun)) - 1][0] if begun else (after or (0, 0))
            found += (one for one in explaining.executions if (after or (0, 0)) < began(one) <= until)
            around += provenance.executions
            after = until
        return Told(run, provenance, Part(found, after if more else None, around))

    async def of_nodes(self, conn: AsyncConnection, run: Run, names: Iterable[str]) -> list[Execution] | None:
        """Return the executions of some nodes; None: of this run everything has to be read."""
        graph = await self._graph(conn, run)
        if graph is None:
            return None
        explaining = _Explaining(conn, run, graph)
        numbers = [graph.index[name] for name in dict.fromkeys(names) if name in graph.index]
        for at in range(0, len(numbers), LARGEST_BATCH):
            await explaining.explain(numbers[at : at + LARGEST_BATCH])
        return explaining.executions

    async def _graph(self, conn: AsyncConnection, run: Run) -> PlanGraph | None:
        if run.total_nodes < FROM_NODES or run.parent_run_id is not None:
            return None
        if len(await list_revisions(conn, run.tenant_id, run.run_id)) > 1:
            return None  # which edges there were depends on when
        return await self._graphs.get(conn, run.tenant_id, run.plan_digest)


class _Explaining:
    """Nodes of a run that are explained by their part of its plan, and by what happened to them."""

    def __init__(self, conn: AsyncConnection, run: Run, graph: PlanGraph) -> None:
        self.conn, self.run, self.graph = conn, run, graph
        self.executions: list[Execution] = []
        self.is_cut = False

    async def explain(self, batch: Sequence[int]) -> Provenance:
        """Add the executions of some nodes; return what was told of them and of those around them."""
        conn, run, graph = self.conn, self.run, self.graph
        edges, cut = graph.edges_into(batch)
        parts = await read_parts(conn, run.tenant_id, run.plan_digest, graph, batch, edges)
        program = await asyncio.to_thread(lambda: Program(compile_plan(Plan.model_validate(excerpt(graph, parts)))))
        page = await list_events_of_nodes(conn, run.tenant_id, run.run_id, program.ids, types=OF_RUN, limit=MAX_EVENTS)
        bodies, _ = await with_values(conn, run.tenant_id, [event.body for event in page], MAX_VALUE_BYTES)
        provenance = Provenance(about_run(run, run.plan_digest), {run.plan_digest: program}.get)
        events = [happened(event, body) for event, body in zip(page, bodies, strict=True)]
        await asyncio.to_thread(provenance.tell, events)
        names = {graph.ids[one] for one in batch}
        await add_attempts(conn, run, provenance, names)
        for one in provenance.executions:
            if one["nodeId"] in names:
                self.executions.append(one)
                if one["nodeId"] in cut and "inputs" in one:
                    one["inputs"]["edgesLeftOut"] = cut[one["nodeId"]]
        self.executions.sort(key=began)
        self.is_cut = self.is_cut or bool(cut) or len(page) == MAX_EVENTS
        return provenance


class _Walk(_Explaining):
    """What is known of a run's nodes while one goes from one to the next."""

    def __init__(self, conn: AsyncConnection, run: Run, graph: PlanGraph, node_id: str, limit: int) -> None:
        super().__init__(conn, run, graph)
        self.node_id, self.limit = node_id, limit
        self.known: dict[int, None] = {}

    async def go(self) -> Near:
        """Explain as much as there is to tell, or as anybody looks at."""
        back = forward = [self.graph.index[self.node_id]]
        size, walked = BATCH, 0
        while True:
            batch = await asyncio.to_thread(self._batch, back, forward, size)
            provenance = await self.explain(batch)
            found = await asyncio.to_thread(self._around, provenance)
            back, forward = self._missing(found)
            is_enough = len(self.known) >= MAX_EXPLAINED
            if is_enough or not (back or forward):
                break
            come = len(found.back.executions) + len(found.forward.executions)
            if 4 * (come - walked) > len(batch):  # elsewhere few of those that may have given did
                size = min(2 * size, LARGEST_BATCH)
            walked = come
        is_full = found.back.is_full or found.forward.is_full
        is_cut = self.is_cut or is_full or bool(back or forward)
        return Near(Told(self.run, provenance), found, is_cut)

    def _batch(self, back: Sequence[int], forward: Sequence[int], size: int) -> list[int]:
        givers = self.graph.nearest(back, size, self.known, forward=False)
        takers = self.graph.nearest(forward, size, self.known, forward=True)
        batch = list(dict.fromkeys((*givers, *takers)))
        self.known.update(dict.fromkeys(batch))
        return batch

    def _around(self, provenance: Provenance) -> Around:
        return around(self.executions, provenance.outputs, self.node_id, self.limit)

    def _missing(self, found: Around) -> tuple[list[int], list[int]]:
        """Return what has to be explained to go on back, and forward: who may have taken is seen by the plan alone."""
        back = [] if found.back.is_full else [self.graph.index[one.rpartition("@")[0]] for one in found.back.missing]
        if found.forward.is_full:
            return back, []
        reached = dict.fromkeys(one["nodeId"] for one in (*found.executions, *found.forward.executions))
        takers = (taker for name in reached for taker in self.graph.takers(self.graph.index[name]))
        return back, [one for one in dict.fromkeys(takers) if one not in self.known]
