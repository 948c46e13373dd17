"""Proving that nobody rewrote a run's events: the chain is computed again and compared with what is stored.

What it finds needs no secret: a change of any event, body or link shows in a hash, a removed or added event in the
numbers and the head. Somebody who rewrites everything *and* the head in ``execution_runs`` is found by the signature of
the head, which takes a key to make (give ``keys``), and by the heads that anchors and Temporal's history hold (give
those as ``recorded``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import any_, bindparam, func, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from dalang.errors import NotFound
from dalang.signing import Keyring, SignatureState, head_document
from dalang.store import chain
from dalang.store.anchors import anchored_heads
from dalang.store.chain import Transition
from dalang.store.engine import across_tenants
from dalang.store.paging import Page, read_cursor, write_cursor
from dalang.store.references import references
from dalang.store.tables import bodies, execution_runs, run_events
from dalang.store.told_bodies import told, told_events
from dalang.wire import EventType, Head

_CHUNK = 2000
_events = run_events.c
Place = tuple[int, int]


class Tampering(StrEnum):
    """What was done to an event."""

    CHANGED = "CHANGED"
    """It, or its body, does not have the hash it is stored with, or its successor follows another hash."""
    REMOVED = "REMOVED"
    """It is not there, although what follows it, or the head, says so."""
    INSERTED = "INSERTED"
    """It is there behind the head, or a body is where there was none."""
    REORDERED = "REORDERED"
    """It stands in the place of another event."""
    MARK_CHANGED = "MARK_CHANGED"
    """It is marked as superseded and belongs to the current chain, or the other way round."""
    HEAD_CHANGED = "HEAD_CHANGED"
    """The run's row, an anchor, or Temporal holds another hash for it than it has."""
    UNSIGNED = "UNSIGNED"
    """It is the head, and not signed."""
    FORGED = "FORGED"
    """It is the head, and its signature is not that of this head by a known key: whatever leads to it may be false."""


@dataclass(frozen=True)
class Finding:
    """The first event, in the order (epoch, seq), that something was done to."""

    what: Tampering
    epoch: int
    seq: int
    message: str


@dataclass(frozen=True)
class Verification:
    """The result: ``finding`` is None when the chain is as it was written. Erased bodies are no finding."""

    run_id: UUID
    head: Head
    events: int
    erased_bodies: int
    finding: Finding | None
    signature: SignatureState = SignatureState.NOT_CHECKED
    anchored: int = 0

    @property
    def valid(self) -> bool:
        """Whether nothing was found."""
        return self.finding is None


@dataclass
class _Epoch:
    """What the events so far say about an epoch: where it begins, after which event, and where it ends."""

    first: int
    parent: Place | None
    last: int = 0


@dataclass
class _Audit:
    """One verification under way."""

    run_id: UUID
    hashes: set[str]
    epochs: dict[int, _Epoch] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    marks: list[tuple[Place, bool]] = field(default_factory=list)
    referred: dict[str, Place] = field(default_factory=dict)
    previous: tuple[Place, str] | None = None
    erased: int = 0

    def check(self, row: Any) -> Finding | None:
        """Take the next event in the order (epoch, seq) and say what is wrong with it."""
        finding = self._numbers(row) or self._hash(row) or self._link(row) or self._body(row)
        place = (row.epoch, row.seq)
        if row.epoch not in self.epochs:
            self.epochs[row.epoch] = _Epoch(row.seq, self.places.get(row.previous_hash))
        self.epochs[row.epoch].last = row.seq
        self.places[row.hash] = place
        self.marks.append((place, row.superseded))
        self.previous = (place, row.hash)
        return finding

    def _numbers(self, row: Any) -> Finding | None:
        if row.epoch in self.epochs:
            missing = self.epochs[row.epoch].last + 1
        elif row.type == EventType.CHAIN_GAP:
            return None
        elif row.previous_hash == "":
            missing = 1
        else:
            found = self.places.get(row.previous_hash)
            missing = row.seq if found is None else found[1] + 1
        if row.seq == missing:
            return None
        return Finding(Tampering.REMOVED, row.epoch, missing, f"Event {row.epoch}.{row.seq} stands where it should be.")

    def _hash(self, row: Any) -> Finding | None:
        event = Transition(row.seq, row.type, row.node_id, row.at, row.data, None, audit=row.audit)
        try:
            own = chain.event_hash(self.run_id, row.tenant_id, row.epoch, event, row.body_digest, row.previous_hash)
        except (ValueError, TypeError, OverflowError):
            own = ""
        if own == row.hash and chain.to_time(chain.to_milliseconds(row.at)) == row.at:
            return None
        same_epoch = row.epoch in self.epochs and self.previous is not None
        moved = same_epoch and self.previous is not None and row.previous_hash != self.previous[1]
        if moved and row.previous_hash in self.hashes:
            return Finding(Tampering.REORDERED, row.epoch, row.seq, "Its link leads to another place of the chain.")
        return Finding(Tampering.CHANGED, row.epoch, row.seq, "Its hash is not that of its content.")

    def _link(self, row: Any) -> Finding | None:
        if row.epoch in self.epochs:
            assert self.previous is not None
            place, hash_ = self.previous
            if row.previous_hash == hash_:
                return None
            message = f"Event {row.epoch}.{row.seq} was made after an event with another hash."
            return Finding(Tampering.CHANGED, *place, message)
        if row.previous_hash == "" or row.previous_hash in self.places:
            return None
        return Finding(Tampering.REMOVED, row.epoch, row.seq - 1, f"Epoch {row.epoch} follows an event that is gone.")

    def _body(self, row: Any) -> Finding | None:
        if row.salt is None:
            self.erased += row.body_digest is not None
            return None
        if row.body_digest is None:
            return Finding(Tampering.INSERTED, row.epoch, row.seq, "It was written without a body and has one.")
        for digest in references(row.body):
            self.referred.setdefault(digest, (row.epoch, row.seq))
        try:
            same = chain.salted_digest(row.salt, row.body) == row.body_digest
        except (ValueError, TypeError, OverflowError):
            same = False
        return None if same else Finding(Tampering.CHANGED, row.epoch, row.seq, "Its body is not the one it had.")

    def ends_at(self, head: Head) -> Finding | None:
        """Compare the last event with the head in the run's row."""
        (epoch, seq), hash_ = self.previous or ((0, 0), "")
        if (head["epoch"], head["seq"]) > (epoch, seq):
            first = seq + 1 if head["epoch"] == epoch else head["seq"]
            return Finding(Tampering.REMOVED, head["epoch"], first, "The head of the run is behind the last event.")
        if (head["epoch"], head["seq"]) < (epoch, seq):
            first = head["seq"] + 1 if head["epoch"] == epoch else self.epochs[epoch].first
            return Finding(Tampering.INSERTED, epoch, first, "It stands behind the head of the run.")
        return (
            None if head["hash"] == hash_ else Finding(Tampering.HEAD_CHANGED, epoch, seq, "The head has another hash.")
        )

    def marks_changed(self) -> Finding | None:
        """Compare the marks of superseded events with what leads to the last event."""
        current: dict[int, int] = {}
        place: Place | None = self.previous[0] if self.previous else None
        while place is not None and place[0] not in current:
            current[place[0]] = place[1]
            place = self.epochs[place[0]].parent
        for (epoch, seq), superseded in self.marks:
            if superseded == (seq <= current.get(epoch, 0)):
                return Finding(Tampering.MARK_CHANGED, epoch, seq, f"It is wrongly marked {superseded=}.")
        return None


async def verify_run(
    conn: AsyncConnection,
    tenant_id: str,
    run_id: UUID,
    *,
    recorded: Head | None = None,
    keys: Keyring | None = None,
) -> Verification:
    """Has anything of this run's events been changed, removed, added or moved? Says the first thing that was.

    ``recorded`` is a head that somebody else kept (Temporal's history); it may be an older one. Where ``keys`` are
    known the head has to be signed by one of them. Call it in a transaction of isolation REPEATABLE READ while the run
    goes on, or it may meet a flush half-way. Raises :class:`NotFound`.
    """
    runs = execution_runs.c
    query = select(runs.head_epoch, runs.head_seq, runs.head_hash, runs.head_signature)
    row = (await conn.execute(query.where(runs.tenant_id == tenant_id, runs.run_id == run_id))).first()
    if row is None:
        raise NotFound(f"There is no run {run_id}.")
    head: Head = {"epoch": row.head_epoch, "seq": row.head_seq, "hash": row.head_hash}
    async with across_tenants(conn):
        hashes = set((await conn.execute(select(_events.hash).where(_events.run_id == run_id))).scalars())
    audit = _Audit(run_id, hashes)
    first: Finding | None = None
    position: Place = (-1, 0)
    while chunk := await _chunk(conn, run_id, position):
        for event in chunk:
            first = first or audit.check(event)
        position = (chunk[-1].epoch, chunk[-1].seq)
        if first is not None:
            break
    anchored = await anchored_heads(conn, tenant_id, run_id)
    finding = first or audit.ends_at(head) or audit.marks_changed()
    finding = finding or _recorded_differs(audit, [*([] if recorded is None else [recorded]), *anchored])
    finding = finding or await _changed_reference(conn, tenant_id, audit.referred)
    signature = SignatureState.NOT_CHECKED
    if keys is not None and head["seq"] > 0:
        signature = keys.check(head_document(tenant_id, run_id, head), row.head_signature)
        finding = finding or not_signed(head, signature)
    return Verification(run_id, head, len(hashes), audit.erased, finding, signature, len(anchored))


def not_signed(head: Head, signature: SignatureState) -> Finding | None:
    """Return what a signature's state says of the head."""
    place = head["epoch"], head["seq"]
    match signature:
        case SignatureState.MISSING:
            return Finding(Tampering.UNSIGNED, *place, "Nobody signed it: it may have been written by anybody.")
        case SignatureState.WRONG:
            return Finding(
                Tampering.FORGED, *place, "The signature is not of this head: what leads to it may be false."
            )
        case SignatureState.UNKNOWN_KEY:
            return Finding(Tampering.FORGED, *place, "It is signed with a key that is not known here.")
    return None


async def runs_to_verify(conn: AsyncConnection, tenant_id: str, *, limit: int, cursor: str | None) -> Page[UUID]:
    """All runs of a tenant, by id. Raises :class:`InvalidCursor`."""
    query = select(execution_runs.c.run_id).where(execution_runs.c.tenant_id == tenant_id)
    if cursor is not None:
        query = query.where(execution_runs.c.run_id > read_cursor(cursor, UUID)[0])
    found = list((await conn.execute(query.order_by(execution_runs.c.run_id).limit(limit + 1))).scalars())
    return Page(found[:limit], write_cursor(found[limit - 1]) if len(found) > limit else None)


def _recorded_differs(audit: _Audit, recorded: Iterable[Head]) -> Finding | None:
    """The first of these heads that is no event of the chain."""
    for head in sorted(recorded, key=lambda one: (one["epoch"], one["seq"])):
        place = head["epoch"], head["seq"]
        if head["seq"] > 0 and audit.places.get(head["hash"]) != place:
            message = "The head that was recorded elsewhere has another hash, or is not there."
            return Finding(Tampering.HEAD_CHANGED, *place, message)
    return None


async def _chunk(conn: AsyncConnection, run_id: UUID, position: Place) -> list[Any]:
    """The next events of a run, with bodies, whatever tenant they claim."""
    query = select(run_events, told.c.salt, told.c.body).select_from(told_events)
    query = query.where(_events.run_id == run_id, tuple_(_events.epoch, _events.seq) > tuple_(*position))
    async with across_tenants(conn):
        return list(await conn.execute(query.order_by(_events.epoch, _events.seq).limit(_CHUNK)))


async def _changed_reference(conn: AsyncConnection, tenant_id: str, referred: dict[str, Place]) -> Finding | None:
    """The first event that refers to a large body which is not what its digest says."""
    changed: Iterable[str] = ()
    if referred:
        is_wanted = bodies.c.digest == any_(bindparam("digests", sorted(referred), ARRAY(Text)))
        own = func.encode(func.sha256(func.convert_to(bodies.c.body, "UTF8")), "hex")
        query = select(bodies.c.digest).where(bodies.c.tenant_id == tenant_id, is_wanted, own != bodies.c.digest)
        changed = (await conn.execute(query)).scalars().all()
    place = min((referred[digest] for digest in changed), default=None)
    return None if place is None else Finding(Tampering.CHANGED, *place, "A large value of its body was changed.")
