"""Large bodies: kept once per content and tenant, and referred to as ``{"$ref": "sha256:<digest>", "size": n}``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import any_, bindparam, delete, exists, func, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from dalang.canonical import body_reference
from dalang.store.engine import load_json
from dalang.store.projection import PART
from dalang.store.tables import bodies, body_references

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
KEY = "$ref"
_KEYS = frozenset({KEY, "size", PART})


def referred_digest(value: Any) -> str | None:
    """Return the digest that ``value`` refers to, or None when it is no reference."""
    if not isinstance(value, Mapping) or "$ref" not in value or not _KEYS.issuperset(value):
        return None
    found = _DIGEST.fullmatch(value["$ref"]) if isinstance(value["$ref"], str) else None
    return found and found[1]


def references(value: Any) -> set[str]:
    """Return the digests of all bodies that ``value`` refers to, at any depth."""
    found: set[str] = set()
    stack = [value]
    while stack:
        item = stack.pop()
        one = referred_digest(item)
        if one is not None:
            found.add(one)
        elif isinstance(item, Mapping):
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return found


async def put_body(conn: AsyncConnection, tenant_id: str, encoded: bytes) -> dict[str, Any]:
    """Store a body, given as ``canonical.compact_json``, and return the reference to it; a known one is touched."""
    reference = body_reference(encoded)
    key = reference["$ref"].removeprefix("sha256:")
    statement = insert(bodies).values(tenant_id=tenant_id, digest=key, body=encoded.decode(), size=len(encoded))
    touched = {"touched_at": func.now()}
    await conn.execute(statement.on_conflict_do_update(index_elements=["tenant_id", "digest"], set_=touched))
    return reference


async def get_bodies(conn: AsyncConnection, tenant_id: str, digests: Iterable[str]) -> dict[str, Any]:
    """Which of these bodies are there, by digest?"""
    wanted = sorted(set(digests))
    if not wanted:
        return {}
    is_wanted = bodies.c.digest == any_(bindparam("digests", wanted, ARRAY(Text)))
    rows = await conn.execute(select(bodies.c.digest, bodies.c.body).where(bodies.c.tenant_id == tenant_id, is_wanted))
    return {row.digest: load_json(row.body) for row in rows}


async def resolve(conn: AsyncConnection, tenant_id: str, value: Any) -> Any:
    """Return ``value`` with every reference in it replaced by its body; one that is gone stays a reference."""
    found = await get_bodies(conn, tenant_id, references(value))
    return replaced(value, found) if found else value


async def add_references(conn: AsyncConnection, tenant_id: str, run_id: UUID, digests: Iterable[str]) -> None:
    """Note that events of the run refer to these bodies, so that they stay as long as the run."""
    rows = [{"tenant_id": tenant_id, "digest": one, "run_id": run_id} for one in sorted(set(digests))]
    if rows:
        await conn.execute(insert(body_references).on_conflict_do_nothing(), rows)


async def delete_unreferenced_bodies(conn: AsyncConnection, unused_seconds: float, *, limit: int = 1000) -> int:
    """Delete bodies of all tenants that no run refers to and nobody stored for a while; return how many."""
    same = (body_references.c.tenant_id == bodies.c.tenant_id) & (body_references.c.digest == bodies.c.digest)
    old = bodies.c.touched_at < func.now() - func.make_interval(0, 0, 0, 0, 0, 0, unused_seconds)
    chosen = select(bodies.c.tenant_id, bodies.c.digest).where(old, ~exists().where(same)).limit(limit)
    victims = chosen.with_for_update(skip_locked=True).cte("victims")
    gone = (bodies.c.tenant_id == victims.c.tenant_id) & (bodies.c.digest == victims.c.digest)
    return int((await conn.execute(delete(bodies).where(gone))).rowcount)


def replaced(value: Any, found: Mapping[str, Any]) -> Any:
    """Return ``value`` with references to the bodies in ``found`` replaced by them."""
    key = referred_digest(value)
    if key is not None:
        body = found.get(key, value)
        part = value.get(PART)
        return body.get(part) if part is not None and key in found and isinstance(body, Mapping) else body
    if isinstance(value, Mapping):
        return {name: replaced(child, found) for name, child in value.items()}
    return [replaced(child, found) for child in value] if isinstance(value, list) else value
