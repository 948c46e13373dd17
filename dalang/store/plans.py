"""Plans and their versions; a stored version never changes (Wayang: PlanStore)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Integer, Select, Text, bindparam, case, cast, func, literal, select
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.canonical import digest as digest_of
from dalang.errors import Conflict
from dalang.large_objects import undisturbed
from dalang.plan import Plan, derived_plan_id, with_derived_ids
from dalang.store.engine import load_json, load_large_json
from dalang.store.paging import Page, after, read_cursor, write_cursor
from dalang.store.plan_pieces import put_pieces
from dalang.store.tables import plan_documents, plans

_plans, _documents = plans.c, plan_documents.c
_READ_AT_ONCE = 200_000
"""Characters of a document: up to so many reading it takes less than a few milliseconds."""
_SEMANTIC = re.compile(r"v?(\d+(?:\.\d+)*)(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+.*)?", re.ASCII)


@dataclass(frozen=True)
class PlanVersion:
    """One version of a plan, without its document."""

    tenant_id: str
    plan_id: UUID
    version: str
    name: str
    digest: str
    node_count: int
    edge_count: int
    created_by: str
    created_at: datetime


@dataclass(frozen=True)
class StoredPlan(PlanVersion):
    """One version of a plan with its document in wire form."""

    document: dict[str, Any]


def version_order(version: str) -> str:
    """Return a text whose byte order is the precedence of semantic versions; other versions come before all of those.

    ``1.10.0`` is after ``1.9.0``, ``2.0.0-rc.1`` before ``2.0.0``; any count of numbers, and a leading v, are taken.
    """
    found = _SEMANTIC.fullmatch(version)
    if found is None:
        return "0" + version
    numbers = [_number(one) for one in found[1].split(".")]
    numbers += [_number("0")] * (3 - len(numbers))
    if found[2] is None:
        return "1" + ".".join(numbers) + "-"  # after "!" of a pre-release, before "." of one more number
    parts = ("0" + _number(one) if one.isdigit() else "1" + one for one in found[2].split("."))
    return "1" + ".".join(numbers) + "!" + "!".join(parts)


async def put_plan(conn: AsyncConnection, tenant_id: str, plan: Plan, *, created_by: str) -> tuple[StoredPlan, bool]:
    """Store a version of a plan; return it and whether it is new.

    The same version with the same content is what is there already; with other content it raises :class:`Conflict`.
    """
    digest = await put_document(conn, tenant_id, plan)
    plan_id = plan.plan_id or derived_plan_id(plan.name)
    version = {
        "tenant_id": tenant_id,
        "plan_id": plan_id,
        "version": plan.version,
        "version_order": version_order(plan.version),
        "name": plan.name,
        "digest": digest,
        "created_by": created_by,
    }
    made = await conn.execute(insert(plans).values(version).on_conflict_do_nothing().returning(_plans.plan_id))
    new = made.first() is not None
    stored = await get_plan(conn, tenant_id, plan_id, plan.version)
    assert stored is not None
    if stored.digest != digest:
        raise Conflict(
            f"Version {plan.version} of plan {plan.name!r} is stored with other content, and a version never changes; "
            f"give the plan another version."
        )
    return stored, new


async def get_plan(
    conn: AsyncConnection, tenant_id: str, plan_id: UUID, version: str | None = None
) -> StoredPlan | None:
    """Which plan is this? Without a version: its highest."""
    query = _versions(StoredPlan, tenant_id).where(_plans.plan_id == plan_id)
    return await _one(conn, query, version)


async def get_digest(conn: AsyncConnection, tenant_id: str, plan_id: UUID, version: str | None = None) -> str | None:
    """Which document is this plan? Without a version: its highest."""
    query = _HIGHEST if version is None else _OF_VERSION
    found = await conn.execute(query, {"tenant": tenant_id, "plan": plan_id, "version": version})
    digest: str | None = found.scalar_one_or_none()
    return digest


async def find_plan(conn: AsyncConnection, tenant_id: str, name: str, version: str | None = None) -> StoredPlan | None:
    """Which plan has this name? Without a version: its highest. Of several plans of one name, the newest."""
    newest = select(_plans.plan_id).where(_plans.tenant_id == tenant_id, _plans.name == name)
    newest = newest.order_by(_plans.created_at.desc(), _plans.plan_id).limit(1)
    query = _versions(StoredPlan, tenant_id).where(_plans.plan_id == newest.scalar_subquery())
    return await _one(conn, query, version)


async def get_written(conn: AsyncConnection, tenant_id: str, digest: str) -> str | None:
    """How is the plan document with this digest written, in JSON?"""
    query = select(cast(_documents.document, Text)).where(_documents.tenant_id == tenant_id)
    text: str | None = (await conn.execute(query.where(_documents.digest == digest))).scalar_one_or_none()
    return text


async def get_document(conn: AsyncConnection, tenant_id: str, digest: str) -> Mapping[str, Any] | None:
    """Which plan document has this digest?"""
    text = await get_written(conn, tenant_id, digest)
    if text is None:
        return None
    document: Mapping[str, Any]
    # That of 100,000 nodes takes a second to read, in which the event loop would answer nobody else.
    document = load_json(text) if len(text) < _READ_AT_ONCE else await asyncio.to_thread(_read_large, text)
    return document


def _read_large(text: str) -> Any:
    with undisturbed():
        return load_large_json(text)


async def get_part(conn: AsyncConnection, tenant_id: str, digest: str, name: str) -> Any:
    """What does a plan say under this name? None: nothing, or it is not stored."""
    query = select(_documents.document[name]).where(_documents.tenant_id == tenant_id, _documents.digest == digest)
    return (await conn.execute(query)).scalar_one_or_none()


async def get_planned_node(conn: AsyncConnection, tenant_id: str, digest: str, place: int) -> Mapping[str, Any] | None:
    """Which node stands at this place of a plan, its ``finally`` nodes after the others, as the document has it?"""
    nodes = _documents.document["nodes"]
    count = func.jsonb_array_length(nodes)
    final = _documents.document["finally"][literal(place, Integer) - count]
    found = case((count > place, nodes[place]), else_=final)
    query = select(found).where(_documents.tenant_id == tenant_id, _documents.digest == digest)
    node: Mapping[str, Any] | None = (await conn.execute(query)).scalar_one_or_none()
    return node


async def put_document(conn: AsyncConnection, tenant_id: str, plan: Plan) -> str:
    """Keep the document of a plan and return its digest; by itself for a plan that is run once and gets no version."""
    # In a thread: with 100,000 nodes it takes seconds, in which the event loop would answer nobody else.
    content, digest = await asyncio.to_thread(_stored_form, plan)
    counts = {"node_count": len(plan.all_nodes()), "edge_count": len(plan.edges)}
    document = {"tenant_id": tenant_id, "digest": digest, "document": content, **counts}
    new = insert(plan_documents).values(document).on_conflict_do_nothing().returning(_documents.digest)
    if (await conn.execute(new)).first() is not None:
        await put_pieces(conn, tenant_id, digest, content)
    return digest


async def list_plans(
    conn: AsyncConnection, tenant_id: str, *, text: str | None = None, limit: int = 50, cursor: str | None = None
) -> Page[PlanVersion]:
    """Which plans are there, each in its highest version, by name? ``text`` is a part of the name, in any case."""
    highest = _versions(PlanVersion, tenant_id).ext(distinct_on(_plans.plan_id))
    listed = highest.order_by(_plans.plan_id, _plans.version_order.desc(), _plans.created_at.desc()).subquery()
    query = select(listed).order_by(listed.c.name, listed.c.plan_id).limit(limit + 1)
    if text:
        query = query.where(listed.c.name.icontains(text, autoescape=True))
    if cursor is not None:
        name, plan_id = read_cursor(cursor, str, UUID)
        query = query.where(after((listed.c.name, name), (listed.c.plan_id, plan_id)))
    found = [PlanVersion(*row) for row in await conn.execute(query)]
    more = write_cursor(found[limit - 1].name, found[limit - 1].plan_id) if len(found) > limit else None
    return Page(found[:limit], more)


async def list_versions(
    conn: AsyncConnection, tenant_id: str, plan_id: UUID, *, limit: int = 1000
) -> list[PlanVersion]:
    """Which versions of a plan are there, the highest first?"""
    query = _highest_first(_versions(PlanVersion, tenant_id).where(_plans.plan_id == plan_id))
    return [PlanVersion(*row) for row in await conn.execute(query.limit(limit))]


async def count_plans(conn: AsyncConnection, tenant_id: str) -> int:
    """How many plans are there, whatever their versions?"""
    query = select(func.count(_plans.plan_id.distinct())).where(_plans.tenant_id == tenant_id)
    return int((await conn.execute(query)).scalar_one())


def _stored_form(plan: Plan) -> tuple[dict[str, Any], str]:
    """Return a plan's wire form with all ids, and its digest (that of ``Plan.digest``)."""
    content = with_derived_ids(plan).wire()
    return content, digest_of(content)


def _number(digits: str) -> str:
    """Return digits so that the order of texts is that of numbers: their count comes first."""
    digits = digits.lstrip("0") or "0"
    return f"{len(digits):03d}{digits}"


def _versions(kind: type[PlanVersion], tenant_id: str) -> Select[Any]:
    columns = [_plans[one.name] if one.name in _plans else _documents[one.name] for one in fields(kind)]
    same = (_documents.tenant_id == _plans.tenant_id) & (_documents.digest == _plans.digest)
    return select(*columns).select_from(plans.join(plan_documents, same)).where(_plans.tenant_id == tenant_id)


def _highest_first(query: Select[Any]) -> Select[Any]:
    return query.order_by(_plans.version_order.desc(), _plans.created_at.desc(), _plans.version.desc())


async def _one(conn: AsyncConnection, query: Select[Any], version: str | None) -> StoredPlan | None:
    if version is not None:
        query = query.where(_plans.version == version)
    row = (await conn.execute(_highest_first(query).limit(1))).first()
    return None if row is None else StoredPlan(*row)


_OF_PLAN = select(_plans.digest).where(_plans.tenant_id == bindparam("tenant"), _plans.plan_id == bindparam("plan"))
_HIGHEST = _highest_first(_OF_PLAN).limit(1)
_OF_VERSION = _OF_PLAN.where(_plans.version == bindparam("version"))
