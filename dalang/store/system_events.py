"""The second chain of a tenant: what happened at the API and belongs to no run - refusals, and acts of administration.

An event's hash is ``SHA-256(JCS({kind, tenantId, seq, type, at, level, actor, data}) + previousHash)``, as in the
chains of runs (``chain.py``). The head is signed, and anchored, as that of the run :data:`SYSTEM` would be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import any_, bindparam, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text, Uuid

from dalang.canonical import canonical_bytes, find_unsafe, safe_text
from dalang.signing import Keyring, SignatureState, head_document
from dalang.store import chain
from dalang.store.anchors import SYSTEM, anchored_heads
from dalang.store.audit_tables import system_events, system_heads
from dalang.store.bulk import insert_rows
from dalang.store.paging import Page, read_cursor, write_cursor
from dalang.store.people_tables import api_tokens, human_tasks
from dalang.store.tables import execution_runs
from dalang.store.verification import Finding, Tampering, not_signed
from dalang.wire import Head

_events, _heads = system_events.c, system_heads.c
_CHUNK = 2000
_COLUMNS = ("seq", "type", "at", "level", "actor", "data", "previous_hash", "hash")


class SystemEventType(StrEnum):
    """What an event of this chain tells."""

    AUTHENTICATION_FAILED = "AUTHENTICATION_FAILED"
    """Somebody came with a token that was revoked, or has expired. Of a token that never was nothing is recorded."""
    FORBIDDEN = "FORBIDDEN"
    """A token's roles, or a policy, did not allow what it was used for."""
    FOREIGN_TENANT = "FOREIGN_TENANT"
    """Somebody of another tenant asked for a run or task of this one; he was told that it is not there."""
    DECISION_REFUSED = "DECISION_REFUSED"
    """Somebody may not decide a human task, or decided about what it did not show any more."""
    ADMINISTRATION = "ADMINISTRATION"
    """Tokens, limits, agents, schedules, webhooks, breakers were changed; data.what says which."""


@dataclass(frozen=True)
class SystemEvent:
    """An event that is stored. ``actor`` is ``{type, id, role}``."""

    seq: int
    type: str
    at: datetime
    level: str
    actor: dict[str, Any]
    data: dict[str, Any]
    previous_hash: str
    hash: str


@dataclass(frozen=True)
class Happening:
    """What is to be recorded; ``at`` in milliseconds since the epoch."""

    type: SystemEventType
    at: int
    level: str
    actor: Mapping[str, Any]
    data: Mapping[str, Any]


@dataclass(frozen=True)
class SystemVerification:
    """Whether the chain is as it was written."""

    events: int
    head: Head
    finding: Finding | None
    signature: SignatureState
    anchored: int


def system_document(tenant_id: str, event: Any) -> dict[str, Any]:
    """Return what is hashed of an event."""
    document = {"kind": "dalang.system", "tenantId": tenant_id, "seq": event.seq, "type": event.type}
    at = chain.to_milliseconds(event.at)
    return {**document, "at": at, "level": event.level, "actor": event.actor, "data": event.data}


async def append(conn: AsyncConnection, tenant_id: str, happenings: Sequence[Happening], keys: Keyring) -> None:
    """Record what happened, in this order, and sign the new head where there is a key."""
    if not happenings:
        return
    await conn.execute(insert(system_heads).values(tenant_id=tenant_id).on_conflict_do_nothing())
    mine = _heads.tenant_id == tenant_id
    head = (await conn.execute(select(_heads.seq, _heads.hash).where(mine).with_for_update())).one()
    rows, seq, previous = [], head.seq, head.hash
    for one in happenings:
        seq += 1
        actor, data = _storable(one.actor), _storable(one.data)
        event = SystemEvent(seq, str(one.type), chain.to_time(one.at), one.level, actor, data, previous, "")
        own = _hash(tenant_id, event)
        rows.append({**vars(event), "tenant_id": tenant_id, "hash": own})
        previous = own
    await insert_rows(conn, system_events, rows)
    signature = keys.sign(_head_document(tenant_id, {"epoch": 0, "seq": seq, "hash": previous}))
    await conn.execute(update(system_heads).where(mine).values(seq=seq, hash=previous, signature=signature))


async def list_system_events(
    conn: AsyncConnection, tenant_id: str, *, types: Sequence[str] = (), limit: int, cursor: str | None = None
) -> Page[SystemEvent]:
    """What happened, the newest first. Raises :class:`InvalidCursor`."""
    query = select(*(_events[name] for name in _COLUMNS)).where(_events.tenant_id == tenant_id)
    if types:
        query = query.where(_events.type.in_(types))
    if cursor is not None:
        query = query.where(_events.seq < read_cursor(cursor, int)[0])
    found = [SystemEvent(*row) for row in await conn.execute(query.order_by(_events.seq.desc()).limit(limit + 1))]
    return Page(found[:limit], write_cursor(found[limit - 1].seq) if len(found) > limit else None)


async def verify_system(conn: AsyncConnection, tenant_id: str, keys: Keyring) -> SystemVerification:
    """Has anything of this chain been changed, removed, added or moved? Call it in a REPEATABLE READ transaction."""
    row = (await conn.execute(select(system_heads).where(_heads.tenant_id == tenant_id))).first()
    head: Head = {"epoch": 0, "seq": row.seq if row else 0, "hash": row.hash if row else ""}
    finding: Finding | None = None
    seq, previous, hashes = 0, "", {0: ""}
    while finding is None and (rows := await _chunk(conn, tenant_id, seq)):
        for event in rows:
            finding = _wrong(tenant_id, event, seq + 1, previous)
            if finding is not None:
                break
            seq, previous = event.seq, event.hash
            hashes[seq] = previous
    anchored = await anchored_heads(conn, tenant_id, SYSTEM)
    finding = finding or _ends_elsewhere(seq, previous, head) or _anchored_differently(anchored, hashes)
    signature = SignatureState.NOT_CHECKED
    if head["seq"]:
        signature = keys.check(_head_document(tenant_id, head), row.signature if row else None)
        finding = finding or not_signed(head, signature)
    return SystemVerification(seq, head, finding, signature, len(anchored))


async def owners_of(conn: AsyncConnection, hashes: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Whose are these tokens, by their hash: tenant and subject, also of those that are not valid any more."""
    tokens = api_tokens.c
    wanted = tokens.token_hash == any_(bindparam("hashes", list(hashes), ARRAY(Text)))
    rows = await conn.execute(select(tokens.token_hash, tokens.tenant_id, tokens.subject).where(wanted))
    return {row.token_hash: (row.tenant_id, row.subject) for row in rows}


async def tenants_of(conn: AsyncConnection, ids: Sequence[UUID]) -> dict[UUID, str]:
    """Which tenant has a run or a human task with such an id, of all tenants?"""
    found: dict[UUID, str] = {}
    for column, tenant in (
        (execution_runs.c.run_id, execution_runs.c.tenant_id),
        (human_tasks.c.task_id, human_tasks.c.tenant_id),
    ):
        wanted = column == any_(bindparam("ids", list(ids), ARRAY(Uuid)))
        found |= {row[0]: row[1] for row in await conn.execute(select(column, tenant).where(wanted))}
    return found


def _wrong(tenant_id: str, event: Any, expected: int, previous: str) -> Finding | None:
    if event.seq != expected:
        return Finding(Tampering.REMOVED, 0, expected, f"System event {event.seq} stands where it should be.")
    if event.previous_hash != previous:
        last = max(expected - 1, 1)
        return Finding(Tampering.CHANGED, 0, last, f"System event {expected} was made after one with another hash.")
    try:
        same = _hash(tenant_id, event) == event.hash
    except (ValueError, TypeError, OverflowError):
        same = False
    return None if same else Finding(Tampering.CHANGED, 0, expected, "Its hash is not that of its content.")


def _ends_elsewhere(seq: int, hash_: str, head: Head) -> Finding | None:
    if seq < head["seq"]:
        return Finding(Tampering.REMOVED, 0, seq + 1, "The head of the chain is behind the last event.")
    if seq > head["seq"]:
        return Finding(Tampering.INSERTED, 0, head["seq"] + 1, "It stands behind the head of the chain.")
    return None if hash_ == head["hash"] else Finding(Tampering.HEAD_CHANGED, 0, seq, "The head has another hash.")


def _anchored_differently(anchored: Sequence[Head], hashes: Mapping[int, str]) -> Finding | None:
    for head in sorted(anchored, key=lambda one: one["seq"]):
        if hashes.get(head["seq"]) != head["hash"]:
            message = "An anchor holds another hash for it, or it is not there."
            return Finding(Tampering.HEAD_CHANGED, 0, head["seq"], message)
    return None


async def _chunk(conn: AsyncConnection, tenant_id: str, after: int) -> Sequence[Any]:
    query = select(system_events).where(_events.tenant_id == tenant_id, _events.seq > after)
    return (await conn.execute(query.order_by(_events.seq).limit(_CHUNK))).all()


def _hash(tenant_id: str, event: Any) -> str:
    document = canonical_bytes(system_document(tenant_id, event))
    return hashlib.sha256(document + event.previous_hash.encode("ascii")).hexdigest()


def _head_document(tenant_id: str, head: Head) -> dict[str, Any]:
    return head_document(tenant_id, SYSTEM, head)


def _storable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return small texts and numbers that any store takes: names and addresses come from outside."""
    found = {}
    for key, value in values.items():
        text = safe_text(value, 1_000) if isinstance(value, str) else value
        found[key] = safe_text(repr(text), 1_000) if find_unsafe(text) is not None else text
    return found
