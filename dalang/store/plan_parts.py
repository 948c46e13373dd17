"""Parts of stored plans, cut out by the database: of one of 23 MB nobody wants to read all for some nodes' sake."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.plan_graph import Document, Parts, PlanGraph, names_read
from dalang.recently_used import RecentlyUsed
from dalang.store.engine import load_json

CACHED_NODES = 500_000
_LINES = text("""
    SELECT jsonb_path_query_array(document, '$.nodes[*].nodeId')::text AS nodes,
      jsonb_path_query_array(document, '$.finally[*].nodeId')::text AS final,
      jsonb_path_query_array(document, '$.edges[*].sourceNodeId')::text AS sources,
      jsonb_path_query_array(document, '$.edges[*].targetNodeId')::text AS targets,
      jsonb_path_query_array(document, '$.edges[*] ? (exists(@.condition))')::text AS conditional,
      jsonb_path_query_array(document, '$.nodes[*] ? (@.type == "human").nodeId')::text AS people,
      (document -> 'outputs')::text AS outputs, to_jsonb(document::text LIKE '%${%')::text AS templated
    FROM plan_documents WHERE tenant_id = :tenant AND digest = :digest
    """)
_READING = text("""
    SELECT one ->> 'nodeId' AS node_id, one::text AS written
    FROM plan_documents, LATERAL (
      SELECT jsonb_path_query(document, '$.nodes[*]') UNION ALL SELECT jsonb_path_query(document, '$.finally[*]')
    ) AS every (one)
    WHERE tenant_id = :tenant AND digest = :digest AND one::text LIKE '%${%nodes%'
    """)
# A subquery of what is unpacked once: joined with the places, 20 MB would be copied for each of them.
_PARTS = text("""
    SELECT (
      SELECT jsonb_agg(whole.parts -> wanted.place ORDER BY nr)
      FROM unnest(CAST(:places AS int[])) WITH ORDINALITY AS wanted (place, nr)
    )::text
    FROM (
      SELECT document #> :path AS parts FROM plan_documents WHERE tenant_id = :tenant AND digest = :digest OFFSET 0
    ) AS whole
    """)


async def read_lines(conn: AsyncConnection, tenant_id: str, digest: str) -> PlanGraph | None:
    """Which node of this plan may give to which? None: it is not stored."""
    of_plan = {"tenant": tenant_id, "digest": digest}
    row = (await conn.execute(_LINES, of_plan)).first()
    if row is None:
        return None
    reading = (await conn.execute(_READING, of_plan)).all() if load_json(row.templated) else ()
    return await asyncio.to_thread(_graph, row, reading)


def _graph(row: Row[Any], reading: Sequence[Row[Any]]) -> PlanGraph:
    found: dict[str, Any] = {}
    for name, written in row._mapping.items():
        found[name] = None if written is None else load_json(written)
    ids = [*found["nodes"], *found["final"]]
    index = {node_id: number for number, node_id in enumerate(ids)}

    def reads() -> Iterator[tuple[int, int]]:
        for one in reading:
            names = names_read(one.written)
            yield from ((index[one.node_id], index[name]) for name in names if name in index)
        for edge in found["conditional"]:
            names = names_read(edge["condition"])
            yield from ((index[edge["targetNodeId"]], index[name]) for name in names if name in index)

    more = {"people": found["people"], "outputs": found["outputs"], "final": len(found["final"])}
    return PlanGraph(ids, found["sources"], found["targets"], reads=reads(), **more)


async def read_parts(
    conn: AsyncConnection, tenant_id: str, digest: str, graph: PlanGraph, nodes: Sequence[int], edges: Sequence[int]
) -> Parts:
    """How are these nodes and edges of a plan written?"""
    main = [number for number in nodes if number < graph.first_final]
    final = [number for number in nodes if number >= graph.first_final]
    wanted = {
        "nodes": main,
        "finally": [number - graph.first_final for number in final],
        "edges": edges,
    }
    found: dict[str, list[Document]] = {}
    for path, places in wanted.items():
        values = {"tenant": tenant_id, "digest": digest, "path": [path], "places": list(places)}
        written = (await conn.execute(_PARTS, values)).scalar_one() if places else None
        found[path] = load_json(written) if written is not None else []
    documents = dict(zip((*main, *final), (*found["nodes"], *found["finally"]), strict=True))
    return Parts(documents, dict(zip(edges, found["edges"], strict=True)))


class PlanGraphs:
    """Graphs of plans by tenant and digest, the least recently used dropped."""

    def __init__(self) -> None:
        self._kept: RecentlyUsed[tuple[str, str], PlanGraph | None] = RecentlyUsed(CACHED_NODES, _size)

    async def get(self, conn: AsyncConnection, tenant_id: str, digest: str) -> PlanGraph | None:
        """Return the graph of a plan; None: it is not stored."""
        return await self._kept.made((tenant_id, digest), lambda: read_lines(conn, tenant_id, digest))


def _size(graph: PlanGraph | None) -> int:
    return 0 if graph is None else len(graph.ids)
