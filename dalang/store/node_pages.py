"""Rows of chosen nodes: a page of a run's nodes in the order of its plan, which only the plan knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from uuid import UUID

from sqlalchemy import any_, bindparam, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from dalang.store.nodes import NodeState
from dalang.store.tables import node_executions

_nodes = node_executions.c


async def nodes_among(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, node_ids: Sequence[str], *, statuses: Sequence[str] = ()
) -> dict[str, NodeState]:
    """Which of these nodes has something happened to, by node id? ``statuses``: only nodes in one of these."""
    if not node_ids:
        return {}
    is_wanted = _nodes.node_id == any_(bindparam("nodes", list(node_ids), ARRAY(Text)))
    query = select(*(_nodes[one.name] for one in fields(NodeState)))
    query = query.where(_nodes.tenant_id == tenant_id, _nodes.run_id == run_id, is_wanted)
    if statuses:
        query = query.where(_nodes.status.in_(statuses))
    return {row.node_id: NodeState(*row) for row in await conn.execute(query)}
