"""Parts of stored plans: of one of 23 MB nobody wants to read all for some nodes' sake.

Those of large plans are read from their pieces, which are made now if the plan was stored before there were any.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import and_, any_, bindparam, or_, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Integer

from dalang.plan_graph import Document, Parts, PlanGraph, nodes_of
from dalang.recently_used import RecentlyUsed
from dalang.store import plan_pieces as pieces
from dalang.store.engine import sql_state
from dalang.store.plan_pieces import EDGES, NODES, SIZES, listed, put_pieces
from dalang.store.plan_tables import plan_graphs, plan_pieces
from dalang.store.plans import get_document

CACHED_NODES = 500_000
_SERIALIZATION_FAILURE = "40001"
_graphs, _pieces = plan_graphs.c, plan_pieces.c


async def read_nodes(conn: AsyncConnection, tenant_id: str, digest: str) -> Mapping[str, Any] | None:
    """Which nodes has a plan: ``ids``, ``names`` or None, ``kinds``, and ``kindOf`` each? None: it is not stored."""
    found = select(_graphs.nodes).where(_graphs.tenant_id == tenant_id, _graphs.digest == digest)
    text = (await conn.execute(found)).scalar_one_or_none()
    if text is not None:
        return dict(await asyncio.to_thread(json.loads, text))
    plan = await _document(conn, tenant_id, digest)
    return None if plan is None else await asyncio.to_thread(listed, plan)


async def read_graph(conn: AsyncConnection, tenant_id: str, digest: str) -> PlanGraph | None:
    """Which node of this plan may give to which? None: it is not stored."""
    of_plan = _graphs.tenant_id == tenant_id, _graphs.digest == digest
    row = (await conn.execute(select(_graphs.nodes, _graphs.lines, _graphs.numbers).where(*of_plan))).first()
    if row is not None:
        return await asyncio.to_thread(
            lambda: PlanGraph.unpacked(json.loads(row.nodes)["ids"], json.loads(row.lines), row.numbers)
        )
    plan = await _document(conn, tenant_id, digest)
    return None if plan is None else await asyncio.to_thread(PlanGraph.of, plan)


async def _document(conn: AsyncConnection, tenant_id: str, digest: str) -> Document | None:
    """Return a plan without pieces, after they were made if it has many nodes."""
    plan = await get_document(conn, tenant_id, digest)
    if plan is not None:
        try:
            async with conn.begin_nested():
                await put_pieces(conn, tenant_id, digest, plan)
        except DBAPIError as error:
            if sql_state(error.orig or error) != _SERIALIZATION_FAILURE:
                raise
            # somebody else made them since this transaction began to see, which does not see them
    return plan


async def read_parts(
    conn: AsyncConnection, tenant_id: str, digest: str, graph: PlanGraph, nodes: Sequence[int], edges: Sequence[int]
) -> Parts:
    """How are these nodes and edges of a plan written?"""
    found = None if len(graph.ids) < pieces.MANY else await _parts(conn, tenant_id, digest, graph, nodes, edges)
    if found is not None:
        return found
    plan = await get_document(conn, tenant_id, digest)
    all_ = {NODES: nodes_of(plan or {"nodes": ()}), EDGES: (plan or {}).get("edges") or ()}
    return Parts({one: all_[NODES][one] for one in nodes}, {one: all_[EDGES][one] for one in edges})


async def _parts(
    conn: AsyncConnection, tenant_id: str, digest: str, graph: PlanGraph, nodes: Sequence[int], edges: Sequence[int]
) -> Parts | None:
    """Return what is in pieces; None: not all of them are seen, as whoever made them is not done, or was given up."""
    places = {NODES: {node: node for node in nodes}, EDGES: {edge: graph.place_of_edge(edge) for edge in edges}}
    wanted = [
        and_(_pieces.kind == kind, _pieces.number == any_(bindparam(kind, numbers, ARRAY(Integer))))
        for kind, of_kind in places.items()
        if (numbers := sorted({place // SIZES[kind] for place in of_kind.values()}))
    ]
    of_plan = _pieces.tenant_id == tenant_id, _pieces.digest == digest
    query = select(_pieces.kind, _pieces.number, _pieces.content).where(*of_plan, or_(*wanted))
    rows = (await conn.execute(query)).all() if wanted else []
    found = {(row.kind, row.number): json.loads(row.content) for row in rows}
    if any((kind, place // SIZES[kind]) not in found for kind, of_kind in places.items() for place in of_kind.values()):
        return None
    nodes_found, edges_found = (
        {one: found[kind, place // SIZES[kind]][place % SIZES[kind]] for one, place in of_kind.items()}
        for kind, of_kind in places.items()
    )
    return Parts(nodes_found, edges_found)


class PlanGraphs:
    """Graphs of plans by tenant and digest, the least recently used dropped."""

    def __init__(self) -> None:
        self._kept: RecentlyUsed[tuple[str, str], PlanGraph | None] = RecentlyUsed(CACHED_NODES, _size)

    async def get(self, conn: AsyncConnection, tenant_id: str, digest: str) -> PlanGraph | None:
        """Return the graph of a plan; None: it is not stored."""
        return await self._kept.made((tenant_id, digest), lambda: read_graph(conn, tenant_id, digest))


def _size(graph: PlanGraph | None) -> int:
    return 0 if graph is None else len(graph.ids)
