"""Anchors: what the runs of a tenant had come to, in one hash that is numbered, chained, signed, and kept elsewhere.

An anchor holds the Merkle root (RFC 9162) over the heads of all runs that have moved since the anchor before. Who keeps
an anchor, anywhere outside, can later prove of each of these runs that what led to its head was not rewritten, and of
a run that is gone that it was there. The leaf of a run is the same document that the signature of its head is of.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    func,
    insert,
    literal,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang import merkle
from dalang.canonical import canonical_bytes
from dalang.errors import NotFound
from dalang.signing import Keyring, NoSigningKey, SignatureState, head_document
from dalang.store import chain
from dalang.store.audit_tables import audit_anchor_heads, audit_anchors, system_events, system_heads
from dalang.store.bulk import insert_rows
from dalang.store.paging import Page, read_cursor, write_cursor
from dalang.store.runs import tenants_with_runs
from dalang.store.tables import execution_runs, retired_runs, run_events
from dalang.wire import Head

MAX_HEADS = 10_000
"""In one anchor: that many hashes are made for the proof of one of them."""
_LOCK = "hashtextextended('dalang anchors ' || :tenant, 0)"
SYSTEM = UUID(int=0)
"""Stands for the tenant's chain of system events where others have a run."""
_anchors, _heads, _runs = audit_anchors.c, audit_anchor_heads.c, execution_runs.c


@dataclass(frozen=True)
class Anchor:
    """One anchor; ``previous`` is the digest of the one before, empty for the first."""

    number: int
    at: datetime
    heads: int
    root: str
    previous: str
    digest: str
    signature: str

    def document(self, tenant_id: str) -> dict[str, Any]:
        """Return what is hashed and signed."""
        return _document(tenant_id, self.number, self.at, self.heads, self.root, self.previous)


@dataclass(frozen=True)
class Inclusion:
    """The proof that a head is in an anchor: the hashes from its leaf to the root, the nearest first."""

    anchor: Anchor
    head: Head
    index: int
    path: Sequence[str]


@dataclass(frozen=True)
class AnchorFinding:
    """The first anchor, or the first head in it, that something was done to; ``what`` as of ``Tampering``."""

    what: str
    number: int
    message: str
    run_id: UUID | None = None
    epoch: int | None = None
    seq: int | None = None


def _document(tenant_id: str, number: int, at: datetime, heads: int, root: str, previous: str) -> dict[str, Any]:
    document = {"kind": "dalang.anchor", "tenantId": tenant_id, "number": number, "at": chain.to_milliseconds(at)}
    return {**document, "heads": heads, "root": root, "previous": previous}


def leaf(tenant_id: str, run_id: UUID, head: Any) -> bytes:
    """Return the leaf of a run with this head."""
    return merkle.leaf_hash(canonical_bytes(head_document(tenant_id, run_id, head)))


def _leaves(tenant_id: str, rows: Sequence[Any]) -> list[bytes]:
    return [leaf(tenant_id, row.run_id, row._mapping) for row in rows]


async def make_anchor(
    conn: AsyncConnection, tenant_id: str, keys: Keyring, among: Sequence[UUID] | None = None
) -> Anchor | None:
    """Anchor the heads that are in no anchor yet, some at a time; None: there are none.

    ``among`` are the runs that may have such heads (``unanchored.py``); None: all of the tenant are looked through.

    Raises:
        NoSigningKey: there is no private key here.
    """
    if keys.own_id is None:
        raise NoSigningKey("This process has no private key to sign an anchor with (DALANG_AUDIT_KEY_FILE).")
    await conn.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"), {"tenant": tenant_id})
    last = (await conn.execute(_select(tenant_id).order_by(_anchors.number.desc()).limit(1))).first()
    head = _runs.head_epoch.label("epoch"), _runs.head_seq.label("seq"), _runs.head_hash.label("hash")
    new = select(_runs.run_id, *head).where(*is_new(tenant_id))
    if among is not None:
        new = new.where(_runs.run_id == any_(bindparam("among", list(among), ARRAY(Uuid()))))
    runs = (await conn.execute(new.order_by(_runs.run_id).limit(MAX_HEADS - 1))).all()
    rows = [*(await conn.execute(_new_system_head(tenant_id))).all(), *runs]
    if not rows:
        return None
    root = (await asyncio.to_thread(lambda: merkle.root(_leaves(tenant_id, rows)))).hex()
    number, previous = (1, "") if last is None else (last.number + 1, last.digest)
    at = chain.to_time(chain.to_milliseconds((await conn.execute(select(func.now()))).scalar_one()))
    document = _document(tenant_id, number, at, len(rows), root, previous)
    signature = keys.sign(document)
    assert signature is not None
    made = Anchor(number, at, len(rows), root, previous, _digest(document), signature)
    await conn.execute(insert(audit_anchors).values(tenant_id=tenant_id, **vars(made)))
    of_anchor = {"tenant_id": tenant_id, "number": number}
    await insert_rows(
        conn,
        audit_anchor_heads,
        [{**of_anchor, "position": at, **row._mapping} for at, row in enumerate(rows)],
    )
    return made


def is_new(tenant_id: str) -> tuple[ColumnElement[bool], ...]:
    """The conditions that a run is the tenant's, and its head in no anchor."""
    of_run = (_heads.tenant_id == tenant_id) & (_heads.run_id == _runs.run_id)
    known = select(_heads.number).where(of_run, _heads.hash == _runs.head_hash)
    return _runs.tenant_id == tenant_id, _runs.head_seq > 0, ~known.exists()


async def due_tenants(conn: AsyncConnection, seconds: float) -> list[str]:
    """Tenants whose last anchor is older than this, or who have none."""
    names = bindparam("tenants", await tenants_with_runs(conn), ARRAY(Text()))
    tenant = func.unnest(names).column_valued("tenant")
    last = select(_anchors.at).where(_anchors.tenant_id == tenant).order_by(_anchors.number.desc()).limit(1)
    recent = last.scalar_subquery() > func.now() - timedelta(seconds=seconds)
    return list((await conn.execute(select(tenant).where(recent.is_not(True)))).scalars())


def _new_system_head(tenant_id: str) -> Select[Any]:
    """The head of the tenant's system events, unless an anchor holds it already."""
    heads = system_heads.c
    known = select(_heads.number).where(
        _heads.tenant_id == tenant_id, _heads.run_id == SYSTEM, _heads.hash == heads.hash
    )
    columns = literal(SYSTEM, Uuid).label("run_id"), literal(0).label("epoch"), heads.seq, heads.hash
    return select(*columns).where(heads.tenant_id == tenant_id, heads.seq > 0, ~known.exists())


async def list_anchors(conn: AsyncConnection, tenant_id: str, *, limit: int, cursor: str | None = None) -> Page[Anchor]:
    """Anchors from the first on. Raises :class:`InvalidCursor`."""
    after = read_cursor(cursor, int)[0] if cursor is not None else 0
    query = _select(tenant_id).where(_anchors.number > after).order_by(_anchors.number).limit(limit + 1)
    found = [Anchor(*row) for row in await conn.execute(query)]
    more = len(found) > limit
    return Page(found[:limit], write_cursor(found[limit - 1].number) if more else None)


async def get_anchor(conn: AsyncConnection, tenant_id: str, number: int) -> Anchor:
    """Return an anchor. Raises :class:`NotFound`."""
    row = (await conn.execute(_select(tenant_id).where(_anchors.number == number))).first()
    if row is None:
        raise NotFound(f"There is no anchor {number}.")
    return Anchor(*row)


async def inclusion(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> Inclusion | None:
    """Prove that the newest anchored head of a run is in its anchor; None: no anchor has one."""
    of_run = (_heads.tenant_id == tenant_id) & (_heads.run_id == run_id)
    newest = select(_heads.number).where(of_run).order_by(_heads.number.desc()).limit(1)
    number = (await conn.execute(newest)).scalar_one_or_none()
    if number is None:
        return None
    rows = await _heads_of(conn, tenant_id, number)
    index = next(at for at, row in enumerate(rows) if row.run_id == run_id)
    path = await asyncio.to_thread(lambda: merkle.proof(_leaves(tenant_id, rows), index))
    found = rows[index]
    head: Head = {"epoch": found.epoch, "seq": found.seq, "hash": found.hash}
    return Inclusion(await get_anchor(conn, tenant_id, number), head, index, [one.hex() for one in path])


async def anchored_heads(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> list[Head]:
    """The heads of a run that anchors hold."""
    query = select(_heads.epoch, _heads.seq, _heads.hash).where(_heads.tenant_id == tenant_id, _heads.run_id == run_id)
    return [{"epoch": row[0], "seq": row[1], "hash": row[2]} for row in await conn.execute(query)]


async def verify_anchors(
    conn: AsyncConnection, tenant_id: str, keys: Keyring, *, limit: int, cursor: str | None = None
) -> tuple[int, AnchorFinding | None, str | None]:
    """Check some anchors: return how many, the first finding, and the cursor for what follows.

    Their numbers, links, hashes and signatures, their roots over the heads, and that each head is still an event of its
    run, or the run was deleted as a whole later. Raises :class:`InvalidCursor`.
    """
    number, previous = read_cursor(cursor, int, str) if cursor is not None else (0, "")
    query = _select(tenant_id).where(_anchors.number > number).order_by(_anchors.number).limit(limit + 1)
    found = [Anchor(*row) for row in await conn.execute(query)]
    for anchor in found[:limit]:
        finding = _broken(tenant_id, anchor, number + 1, previous, keys)
        finding = finding or await _heads_changed(conn, tenant_id, anchor)
        if finding is not None:
            return anchor.number, finding, None
        number, previous = anchor.number, anchor.digest
    orphan = select(func.max(_heads.number)).where(_heads.tenant_id == tenant_id)
    last = (await conn.execute(orphan)).scalar_one() or 0
    if len(found) <= limit and last > number:
        return number, AnchorFinding("REMOVED", number + 1, "Its heads are there, and it is not."), None
    return len(found[:limit]), None, write_cursor(number, previous) if len(found) > limit else None


def _broken(tenant_id: str, anchor: Anchor, expected: int, previous: str, keys: Keyring) -> AnchorFinding | None:
    if anchor.number != expected:
        return AnchorFinding("REMOVED", expected, f"Anchor {anchor.number} stands where it should be.")
    document = anchor.document(tenant_id)
    if _digest(document) != anchor.digest:
        return AnchorFinding("CHANGED", anchor.number, "Its digest is not that of its content.")
    if anchor.previous != previous:
        return AnchorFinding("CHANGED", anchor.number, "It follows an anchor with another digest.")
    match keys.check(document, anchor.signature):
        case SignatureState.VALID | SignatureState.NOT_CHECKED:
            return None
        case SignatureState.UNKNOWN_KEY:
            return AnchorFinding("FORGED", anchor.number, "It is signed with a key that is not known here.")
    return AnchorFinding("FORGED", anchor.number, "The signature is not of this anchor.")


async def _heads_changed(conn: AsyncConnection, tenant_id: str, anchor: Anchor) -> AnchorFinding | None:
    rows = await _heads_of(conn, tenant_id, anchor.number)
    root = (await asyncio.to_thread(lambda: merkle.root(_leaves(tenant_id, rows)))).hex()
    if len(rows) != anchor.heads or root != anchor.root:
        return AnchorFinding("CHANGED", anchor.number, "Its root is not that of the heads in it.")
    events, retired = run_events.c, retired_runs.c
    same = (events.run_id == _heads.run_id) & (events.epoch == _heads.epoch) & (events.seq == _heads.seq)
    later = or_(
        retired.head_epoch > _heads.epoch,
        and_(retired.head_epoch == _heads.epoch, retired.head_seq > _heads.seq),
        retired.head_hash == _heads.hash,
    )
    gone = select(retired.run_id).where(retired.tenant_id == tenant_id, retired.run_id == _heads.run_id, later)
    system = system_events.c
    of_system = (_heads.run_id == SYSTEM) & (system.tenant_id == _heads.tenant_id) & (system.seq == _heads.seq)
    hash_ = func.coalesce(events.hash, system.hash)
    query = (
        select(_heads.run_id, _heads.epoch, _heads.seq, hash_.label("hash"))
        .select_from(audit_anchor_heads.outerjoin(run_events, same).outerjoin(system_events, of_system))
        .where(_heads.tenant_id == tenant_id, _heads.number == anchor.number)
        .where(hash_.is_distinct_from(_heads.hash), ~gone.exists())
    )
    row = (await conn.execute(query.order_by(_heads.position).limit(1))).first()
    if row is None:
        return None
    what = "REMOVED" if row.hash is None else "HEAD_CHANGED"
    message = f"Event {row.epoch}.{row.seq} of run {row.run_id} is " + ("gone." if row.hash is None else "another one.")
    return AnchorFinding(what, anchor.number, message, row.run_id, row.epoch, row.seq)


def _select(tenant_id: str) -> Select[Any]:
    return select(*(_anchors[one.name] for one in fields(Anchor))).where(_anchors.tenant_id == tenant_id)


async def _heads_of(conn: AsyncConnection, tenant_id: str, number: int) -> Sequence[Any]:
    query = select(_heads.run_id, _heads.epoch, _heads.seq, _heads.hash)
    query = query.where(_heads.tenant_id == tenant_id, _heads.number == number)
    return (await conn.execute(query.order_by(_heads.position))).all()


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_bytes(document)).hexdigest()
