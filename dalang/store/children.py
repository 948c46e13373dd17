"""Runs below nodes: the row of one, from what its first batch says, and which there are below a run."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.canonical import safe_text
from dalang.store.tables import execution_runs
from dalang.wire import RunIdentity

_runs = execution_runs.c


def row_of_child(identity: RunIdentity) -> dict[str, Any]:
    """Return the columns that say what a run below a node is; what it was given comes with its first events."""
    return {
        "plan_id": UUID(identity["planId"]),
        "plan_name": safe_text(identity["planName"]),
        "plan_version": safe_text(identity["planVersion"]),
        "plan_digest": identity["planDigest"],
        "created_by": identity["createdBy"],
        "priority": identity["priority"],
        "metadata": dict(identity["metadata"]),
        "total_nodes": identity["totalNodes"],
        "parent_run_id": UUID(identity["parentRunId"]),
        "parent_node_id": identity["parentNodeId"],
        "top_run_id": UUID(identity["topRunId"]),
        "iteration": identity["iteration"],
        "key_root": safe_text(identity["keyRoot"]) if identity.get("keyRoot") else None,
        "elements": identity["elements"],
        **({"undo_of": UUID(identity["undoOf"])} if "undoOf" in identity else {}),
    }


async def children_of_node(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, node_id: str, *, limit: int = 1000
) -> list[UUID]:
    """Which runs were started below a node, the oldest first?"""
    query = select(_runs.run_id).where(
        _runs.tenant_id == tenant_id, _runs.parent_run_id == run_id, _runs.parent_node_id == node_id
    )
    query = query.order_by(_runs.created_at, _runs.run_id).limit(limit)
    return list((await conn.execute(query)).scalars())


async def open_below(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> bool:
    """Has a run right below this one not ended?"""
    query = select(_runs.run_id).where(
        _runs.tenant_id == tenant_id, _runs.parent_run_id == run_id, _runs.completed_at.is_(None)
    )
    return (await conn.execute(query.limit(1))).first() is not None
