"""Which nodes a plan has, in plan order: read once per plan, since lists of 100,000 nodes are asked for by pages."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store.plans import get_document

CACHED_NODES = 500_000


@dataclass(frozen=True)
class PlannedNode:
    """A node as the plan has it."""

    node_id: str
    name: str
    type: str


class PlanIndex:
    """The nodes of one plan, by place and by id."""

    def __init__(self, document: Mapping[str, Any], elements: int | None = None) -> None:
        raw = [*document.get("nodes", ()), *document.get("finally", ())]
        self.nodes = [PlannedNode(one["nodeId"], one.get("name") or one["nodeId"], one["type"]) for one in raw]
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
        self._indexes: OrderedDict[tuple[str, str, int | None], PlanIndex] = OrderedDict()
        self._nodes = 0

    async def get(self, conn: AsyncConnection, tenant_id: str, digest: str, elements: int | None = None) -> PlanIndex:
        """Return the index of a plan; an empty one when the document is gone (a restored backup).

        ``elements`` is a number for the run of a map.
        """
        key = tenant_id, digest, elements
        found = self._indexes.get(key)
        if found is not None:
            self._indexes.move_to_end(key)
            return found
        document = await get_document(conn, tenant_id, digest)
        if document is None:
            return PlanIndex({}, elements)
        index = await asyncio.to_thread(PlanIndex, document, elements)
        if key not in self._indexes:
            self._nodes += len(index.nodes)
        self._indexes[key] = index
        while self._nodes > CACHED_NODES and len(self._indexes) > 1:
            _, dropped = self._indexes.popitem(last=False)
            self._nodes -= len(dropped.nodes)
        return index
