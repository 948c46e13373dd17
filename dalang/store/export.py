"""A run as JSON Lines with all that is needed to check it elsewhere, without this database (``docs/audit.md``).

What was hashed and signed is given as the very text, so that who checks needs no canonical JSON.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.canonical import canonical_bytes
from dalang.errors import NotFound
from dalang.signing import Keyring, head_document
from dalang.store import chain
from dalang.store.anchors import inclusion
from dalang.store.chain import Transition
from dalang.store.engine import dump_json
from dalang.store.tables import bodies, body_references, execution_runs, run_events
from dalang.store.told_bodies import told, told_events

_CHUNK = 500


async def export_run(conn: AsyncConnection, tenant_id: str, run_id: UUID, keys: Keyring) -> AsyncIterator[str]:
    """Write a run line by line: the head, events, large values, the newest anchor, and how many lines there were.

    Call it in a transaction of isolation REPEATABLE READ. Raises :class:`NotFound`.
    """
    runs = execution_runs.c
    query = select(runs.head_epoch, runs.head_seq, runs.head_hash, runs.head_signature)
    row = (await conn.execute(query.where(runs.tenant_id == tenant_id, runs.run_id == run_id))).first()
    if row is None:
        raise NotFound(f"There is no run {run_id}.")
    head = {"epoch": row.head_epoch, "seq": row.head_seq, "hash": row.head_hash}
    yield _line(
        kind="run",
        format=1,
        runId=str(run_id),
        tenantId=tenant_id,
        head=head,
        signed=_text(head_document(tenant_id, run_id, head)),
        signature=row.head_signature,
        keys=keys.public_keys,
    )
    count = 2
    async for line in _events(conn, run_id):
        yield line
        count += 1
    used = select(body_references.c.digest).where(
        body_references.c.tenant_id == tenant_id, body_references.c.run_id == run_id
    )
    for digest in (await conn.execute(used.order_by(body_references.c.digest))).scalars().all():
        one = select(bodies.c.body).where(bodies.c.tenant_id == tenant_id, bodies.c.digest == digest)
        text = (await conn.execute(one)).scalar_one_or_none()
        if text is not None:
            yield _line(kind="value", digest=digest, text=text)
            count += 1
    proof = await inclusion(conn, tenant_id, run_id)
    if proof is not None:
        yield _line(
            kind="anchor",
            signed=_text(proof.anchor.document(tenant_id)),
            signature=proof.anchor.signature,
            leaf=_text(head_document(tenant_id, run_id, proof.head)),
            index=proof.index,
            path=list(proof.path),
        )
        count += 1
    yield _line(kind="end", lines=count)


async def _events(conn: AsyncConnection, run_id: UUID) -> AsyncIterator[str]:
    events = run_events.c
    query = select(run_events, told.c.salt, told.c.body).select_from(told_events)
    query = query.where(events.run_id == run_id).order_by(events.epoch, events.seq).limit(_CHUNK)
    place = (-1, 0)
    while rows := (await conn.execute(query.where(tuple_(events.epoch, events.seq) > tuple_(*place)))).all():
        for row in rows:
            event = Transition(row.seq, row.type, row.node_id, row.at, row.data, None, audit=row.audit)
            document = chain.event_document(run_id, row.tenant_id, row.epoch, event, row.body_digest)
            body = {} if row.salt is None else {"salt": row.salt.hex(), "body": _text(row.body)}
            yield _line(
                kind="event",
                hashed=_text(document),
                previousHash=row.previous_hash,
                hash=row.hash,
                superseded=row.superseded,
                **body,
            )
        place = rows[-1].epoch, rows[-1].seq


def _text(value: Any) -> str:
    try:
        return canonical_bytes(value).decode()
    except (ValueError, TypeError, OverflowError):  # nobody but an intruder wrote that: let it show in the hash
        return dump_json(value)


def _line(**values: Any) -> str:
    return dump_json(values) + "\n"
