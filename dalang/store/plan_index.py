"""Which nodes a plan has, in plan order: read once per plan, since lists of 100,000 nodes are asked for by pages."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, overload

from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.recently_used import RecentlyUsed
from dalang.store.plan_parts import read_nodes

CACHED_NODES = 500_000
_NOTHING: Mapping[str, Any] = {"ids": [], "names": None, "kinds": [], "kindOf": []}


class PlannedNode(NamedTuple):
    """A node as the plan has it."""

    node_id: str
    name: str
    type: str


class PlannedNodes(Sequence[PlannedNode]):
    """The nodes of a plan in its order, in columns: each is made when somebody looks at it."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.ids: Sequence[str] = columns["ids"]
        self._names: Sequence[str | None] | None = columns["names"]
        self._kinds: Sequence[str] = columns["kinds"]
        self._kind_of: Sequence[int] = columns["kindOf"]

    @overload
    def __getitem__(self, place: int) -> PlannedNode: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[PlannedNode]: ...

    def __getitem__(self, place: int | slice) -> PlannedNode | Sequence[PlannedNode]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self.ids)))]
        node_id = self.ids[place]
        name = None if self._names is None else self._names[place]
        return PlannedNode(node_id, name or node_id, self._kinds[self._kind_of[place]])

    def __len__(self) -> int:
        return len(self.ids)


class PlanIndex:
    """The nodes of one plan, by place and by id."""

    def __init__(self, columns: Mapping[str, Any], elements: int | None = None) -> None:
        if elements is not None:
            # The run of a map: one node of the plan stands for all, which are called by their place in the list.
            kind = columns["kinds"][columns["kindOf"][0]] if columns["ids"] else "unknown"
            columns = {
                "ids": [str(place) for place in range(elements)],
                "names": None,
                "kinds": [kind],
                "kindOf": bytes(elements),
            }
        self.nodes: Sequence[PlannedNode] = PlannedNodes(columns)
        self.places = {node_id: place for place, node_id in enumerate(columns["ids"])}

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
        return PlanIndex(_NOTHING, elements) if found is None else found


async def _read_index(conn: AsyncConnection, tenant_id: str, digest: str, elements: int | None) -> PlanIndex | None:
    columns = await read_nodes(conn, tenant_id, digest)
    return None if columns is None else await asyncio.to_thread(PlanIndex, columns, elements)


def _size(index: PlanIndex | None) -> int:
    return 0 if index is None else len(index.nodes)
