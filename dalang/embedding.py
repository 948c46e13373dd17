"""Stored plans that a plan names: looked up when a run of it starts, and put into it.

What a run runs is decided at its start, once: the plan with all it names in it is stored by digest, so that the
workflow looks nothing up, and later versions of what is named change nothing for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from dalang.canonical import compact_json, pointer
from dalang.errors import InvalidDocument, Problem
from dalang.launch import Preparations, Prepared
from dalang.nesting import CONTAINER_TYPES, MAX_DEPTH, body_of, is_node, is_reference, with_body
from dalang.plan import MAX_BYTES, Node, Plan, with_derived_ids
from dalang.store.engine import transaction
from dalang.store.plans import StoredPlan, find_plan, get_plan

MAX_PLANS = 1_000
"""Stored plans that are put into one plan, each place counted."""

Version = tuple[UUID, str]
Steps = tuple[str | int, ...]


async def with_stored_plans(
    engine: AsyncEngine, preparations: Preparations, tenant_id: str, document: Plan | Mapping[str, Any]
) -> tuple[Plan, Prepared]:
    """Return a valid plan with the stored plans it names in it, ready to be started.

    Raises:
        InvalidDocument: one is not there, is in itself, or the whole is refused; pointers lead into ``document``.
    """
    plan = document if isinstance(document, Plan) else await asyncio.to_thread(Plan.model_validate, document)
    plan = with_derived_ids(plan)
    assert plan.plan_id is not None
    async with transaction(engine, tenant_id) as conn:
        embedding = _Embedding(conn, tenant_id)
        whole = await embedding.into(plan, (), ((plan.plan_id, plan.version),))
    if embedding.problems:
        raise InvalidDocument(embedding.problems)
    wire, digest = await asyncio.to_thread(lambda: (whole.wire(), whole.digest()))
    size = len(compact_json(wire))
    if size > MAX_BYTES:
        message = f"The plan with all stored plans it names has {size:,} bytes; at most {MAX_BYTES:,} are taken."
        raise InvalidDocument([Problem(pointer="", code="TOO_LARGE", message=message)])
    return whole, await preparations.of_document(digest, wire)


class _Embedding:
    """One look-up: what was found, what is wrong."""

    def __init__(self, conn: AsyncConnection, tenant_id: str) -> None:
        self._conn = conn
        self._tenant_id = tenant_id
        self._found: dict[tuple[str, str | None], StoredPlan | None] = {}
        self._places = 0
        self.problems: list[Problem] = []

    async def into(self, plan: Plan, steps: Steps, within: tuple[Version, ...]) -> Plan:
        """Return ``plan``, which stands at ``steps`` and in these stored plans, with what it names in it."""
        parts = {}
        for field, name, nodes in (("nodes", "nodes", plan.nodes), ("finally_", "finally", plan.finally_)):
            if any(node.type in CONTAINER_TYPES for node in nodes):
                parts[field] = tuple(
                    [await self._node(node, (*steps, name, number), within) for number, node in enumerate(nodes)]
                )
        return plan.model_copy(update=parts) if parts else plan

    async def _node(self, node: Node, steps: Steps, within: tuple[Version, ...]) -> Node:
        body = body_of(node)
        if body is None:
            return node
        place = (*steps, "plan") if node.type == "plan" else (*steps, node.type, "body")
        if is_node(body):
            inner = await self._node(Node.model_validate({"nodeId": "body", **body}), place, within)
            return with_body(node, inner.model_dump(mode="json", by_alias=True, exclude_defaults=True))
        if not is_reference(body):
            plan = Plan.model_validate({"name": node.node_id, **body})
            return with_body(node, (await self.into(plan, place, within)).wire())
        stored = await self._look_up(body, node, place, within)
        if stored is None:
            return node
        version = (stored.plan_id, stored.version)
        plan = Plan.model_validate(stored.document)
        return with_body(node, (await self.into(plan, place, (*within, version))).wire())

    async def _look_up(
        self, body: Mapping[str, Any], node: Node, place: Steps, within: tuple[Version, ...]
    ) -> StoredPlan | None:
        name, version = str(body.get("planId", body.get("name"))), body.get("version")
        key = (("planId:" if "planId" in body else "name:") + name, version)
        if key not in self._found:
            self._found[key] = (
                await get_plan(self._conn, self._tenant_id, UUID(name), version)
                if "planId" in body
                else await find_plan(self._conn, self._tenant_id, name, version)
            )
        stored = self._found[key]
        shown = f"plan {name}" if "planId" in body else f"plan called {name!r}"
        if stored is None:
            which = f" in version {version!r}" if version is not None else ""
            self._refuse("UNKNOWN_PLAN", place, f"There is no stored {shown}{which}.", node)
            return None
        self._places += 1
        if (stored.plan_id, stored.version) in within:
            self._refuse("RECURSIVE_PLAN", place, f"The {shown} {stored.version} is in itself.", node)
        elif len(within) >= MAX_DEPTH:
            self._refuse("NESTED_TOO_DEEP", place, f"Plans are nested more than {MAX_DEPTH} deep here.", node)
        elif self._places > MAX_PLANS:
            self._refuse("TOO_LARGE", place, f"More than {MAX_PLANS:,} stored plans are put into this plan.", node)
        else:
            return stored
        return None

    def _refuse(self, code: str, place: Steps, message: str, node: Node) -> None:
        if len(self.problems) < 100:
            self.problems.append(Problem(pointer=pointer(*place), code=code, message=message, node_id=node.node_id))
