"""Which nodes a plan has, in plan order: read once per plan, since lists of 100,000 nodes are asked for by pages."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.recently_used import RecentlyUsed

CACHED_NODES = 500_000


class PlannedNode(NamedTuple):
    """A node as the plan has it."""

    node_id: str
    name: str
    type: str


class PlanIndex:
    """The nodes of one plan, by place and by id."""

    def __init__(self, nodes: list[PlannedNode], elements: int | None = None) -> None:
        self.nodes = nodes
        if elements is not None:
            # The run of a map: one node of the plan stands for all, which are called by their place in the list.
            kind = self.nodes[0].type if self.nodes else "unknown"
            self.nodes = [PlannedNode(str(place), str(place), kind) for place in range(elements)]
        self.places = {node.node_id: place for place, node in enumerate(self.nodes)}

    def node(self, node_id: str) -> PlannedNode | None:
        """Return the node with this id."""
        place = self.places.get(node_id)
        return None if place is None else self.nodes[place]


class PlanIndexes:
    """Indexes by tenant and digest, the least recently used dropped."""

    def __init__(self) -> None:
        self._kept: RecentlyUsed[tuple[str, str, int | None], PlanIndex | None] = RecentlyUsed(CACHED_NODES, _size)

    async def get(self, conn: AsyncConnection, tenant_id: str, digest: str, elements: int | None = None) -> PlanIndex:
        """Return the index of a plan; an empty one when the document is gone (a restored backup).

        ``elements`` is a number for the run of a map.
        """
        key = tenant_id, digest, elements
        found = await self._kept.made(key, lambda: _read_index(conn, *key))
        return PlanIndex([], elements) if found is None else found


async def _read_index(conn: AsyncConnection, tenant_id: str, digest: str, elements: int | None) -> PlanIndex | None:
    columns = []
    for part in ("nodes", "finally"):
        of_plan = {"tenant": tenant_id, "digest": digest, "part": part}
        columns.append((await conn.execute(_NODES, of_plan)).one())
    if all(ids is None for ids, *_ in columns):
        return None
    return await asyncio.to_thread(lambda: PlanIndex([one for row in columns for one in _planned(row)], elements))


def _size(index: PlanIndex | None) -> int:
    return 0 if index is None else len(index.nodes)


# Not read from the document: of 100,000 nodes that has 23 MB, and this four.
_NODES = text("""
    SELECT array_agg(one ->> 'nodeId' ORDER BY nr), array_agg(one ->> 'name' ORDER BY nr),
      array_agg(one ->> 'type' ORDER BY nr)
    FROM plan_documents, jsonb_array_elements(document -> CAST(:part AS text)) WITH ORDINALITY AS nodes (one, nr)
    WHERE tenant_id = :tenant AND digest = :digest
    """)


def _planned(row: Row[Any]) -> Iterator[PlannedNode]:
    return (PlannedNode(one, name or one, kind) for one, name, kind in zip(*(each or () for each in row), strict=True))
