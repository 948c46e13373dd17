"""Large plans in pieces: an outline of all nodes and edges, and the documents of nodes and of edges by some hundred.

They are stored with the document, for whoever asks for a few nodes, or for what lists say of all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.plan_graph import Document, PlanGraph, nodes_of
from dalang.store.engine import dump_json
from dalang.store.plan_tables import plan_graphs, plan_pieces

MANY = 1_000
"""Plans of so many nodes are stored in pieces."""
NODES, EDGES = "nodes", "edges"
SIZES = {NODES: 128, EDGES: 256}
"""Documents of one piece."""


async def put_pieces(conn: AsyncConnection, tenant_id: str, digest: str, plan: Document) -> None:
    """Store the pieces of a plan, if it has many nodes; those that are there stay."""
    if len(plan["nodes"]) + len(plan.get("finally") or ()) < MANY:
        return
    of_plan = {"tenant_id": tenant_id, "digest": digest}
    outline, pieces = await asyncio.to_thread(_made, plan)
    new = insert(plan_graphs).values(**of_plan, **outline).on_conflict_do_nothing()
    if (await conn.execute(new.returning(plan_graphs.c.digest))).first() is not None:
        await conn.execute(plan_pieces.insert(), [{**of_plan, **piece} for piece in pieces])


def listed(plan: Document) -> dict[str, Any]:
    """Return what lists of nodes say of all nodes of a plan, in columns; ``names`` is None where nobody has one."""
    nodes = nodes_of(plan)
    kinds = {kind: number for number, kind in enumerate(dict.fromkeys(node["type"] for node in nodes))}
    names = [node.get("name") for node in nodes]
    return {
        "ids": [node["nodeId"] for node in nodes],
        "names": names if any(name is not None for name in names) else None,
        "kinds": list(kinds),
        "kindOf": [kinds[node["type"]] for node in nodes],
    }


def _made(plan: Document) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    graph = PlanGraph.of(plan)
    said, numbers = graph.packed()
    outline = {"nodes": dump_json(listed(plan)), "lines": dump_json(said), "numbers": numbers}
    documents: Mapping[str, Sequence[Any]] = {
        NODES: nodes_of(plan),
        EDGES: [plan["edges"][edge] for edge in graph.edges_by_target],
    }
    return outline, [
        {"kind": kind, "number": number, "content": dump_json(part)}
        for kind, all_ in documents.items()
        for number, part in _cut(all_, SIZES[kind])
    ]


def _cut(all_: Sequence[Any], size: int) -> Iterator[tuple[int, Sequence[Any]]]:
    return ((number, all_[at : at + size]) for number, at in enumerate(range(0, len(all_), size)))
