"""Erasing a tenant: everything goes but the heads of its chains, and a signed certificate says what went.

The certificate can be checked with the public audit key alone. What stays are hashes, anchors, and the tenant's system
events: who was refused, and who administered what, this erasure included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import cast, column, func, insert, literal, select, table, union_all
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.types import Text

from dalang.errors import Conflict
from dalang.signing import Keyring, NoSigningKey
from dalang.store.audit_tables import audit_anchors, system_heads, tenant_erasures
from dalang.store.chain import to_milliseconds
from dalang.store.engine import system_transaction, transaction
from dalang.store.fates import FATES, Fate
from dalang.store.retention import delete_finished_runs
from dalang.store.schema import metadata
from dalang.store.tables import execution_runs, retired_runs

AT_ONCE = 100
"""Runs deleted in one transaction."""
_erasures = tenant_erasures.c


@dataclass(frozen=True)
class Erasure:
    """That a tenant was erased: ``certificate`` is what ``signature`` is of."""

    number: int
    at: datetime
    certificate: Mapping[str, Any]
    signature: str


async def last_erasure(conn: AsyncConnection, tenant_id: str) -> Erasure | None:
    """When, and of what, was this tenant erased last?"""
    query = select(_erasures.number, _erasures.at, _erasures.certificate, _erasures.signature)
    query = query.where(_erasures.tenant_id == tenant_id).order_by(_erasures.number.desc()).limit(1)
    row = (await conn.execute(query)).first()
    return None if row is None else Erasure(*row)


async def open_runs(conn: AsyncConnection, tenant_id: str) -> Sequence[UUID]:
    """Which runs of the tenant go on, but for those below nodes of others?"""
    runs = execution_runs.c
    query = select(runs.run_id).where(runs.tenant_id == tenant_id, runs.completed_at.is_(None))
    return (await conn.execute(query.where(runs.parent_run_id.is_(None)).order_by(runs.run_id))).scalars().all()


async def count_rows(conn: AsyncConnection, tenant_id: str) -> dict[str, int]:
    """How much is there of the tenant that an erasure takes, by table? Tables that hold nothing are left out."""
    counts = []
    for name, fate in FATES.items():
        if fate in (Fate.RUN, Fate.TENANT):
            of = table(name, column("tenant_id"))
            counts.append(select(literal(name), func.count()).select_from(of).where(of.c.tenant_id == tenant_id))
    rows = await conn.execute(union_all(*counts))
    return {str(name): int(count) for name, count in sorted((row[0], row[1]) for row in rows) if count}


async def erase_tenant(
    engine: AsyncEngine, tenant_id: str, by: str, keys: Keyring, *, kept_token: UUID | None, had: Mapping[str, int]
) -> Erasure:
    """Erase a tenant whose runs have all ended, and certify it; ``had`` is what there was when it began.

    Files of artifacts have to be deleted before. ``kept_token`` stays: who asked can still ask whether it was done.

    Raises:
        NoSigningKey: nobody could prove it.
        Conflict: a run goes on.
    """
    if keys.own_id is None:
        raise NoSigningKey("This process has no private key to sign a certificate with (DALANG_AUDIT_KEY_FILE).")
    async with transaction(engine, tenant_id) as conn:
        if running := len(await open_runs(conn, tenant_id)):
            raise Conflict(f"{running} runs go on; they have to end, or be cancelled, before.")
    deleted = AT_ONCE
    while deleted:
        async with system_transaction(engine) as conn:
            deleted = await delete_finished_runs(conn, datetime.now(UTC), tenant_id=tenant_id, limit=AT_ONCE)
    victims = [one.name for one in reversed(metadata.sorted_tables) if FATES[one.name] is Fate.TENANT]
    async with system_transaction(engine) as conn:
        arguments = tenant_id, cast(victims, ARRAY(Text)), kept_token
        await conn.execute(select(func.dalang_erase_tenant(*arguments)))
        left = await count_rows(conn, tenant_id)
        gone = {name: count - left.get(name, 0) for name, count in had.items()}
        last = await last_erasure(conn, tenant_id)
        certificate = {
            "kind": "dalang.erasure",
            "tenantId": tenant_id,
            "number": 1 if last is None else last.number + 1,
            "at": to_milliseconds((await conn.execute(select(func.now()))).scalar_one()),
            "by": by,
            "erased": {name: count for name, count in gone.items() if count > 0},
            "kept": await _kept(conn, tenant_id),
        }
        signature = keys.sign(certificate)
        new = {"tenant_id": tenant_id, "number": certificate["number"], "certificate": certificate}
        await conn.execute(insert(tenant_erasures).values(**new, signature=signature))
        done = await last_erasure(conn, tenant_id)
    assert done is not None
    return done


async def _kept(conn: AsyncConnection, tenant_id: str) -> dict[str, Any]:
    """What stays of the tenant: how many heads, the last anchor, and the head of the chain of system events."""
    heads = select(func.count()).where(retired_runs.c.tenant_id == tenant_id)
    of_anchors = audit_anchors.c
    newest = select(of_anchors.number, of_anchors.digest).where(of_anchors.tenant_id == tenant_id)
    anchor = (await conn.execute(newest.order_by(of_anchors.number.desc()).limit(1))).first()
    system = select(system_heads.c.seq, system_heads.c.hash).where(system_heads.c.tenant_id == tenant_id)
    head = (await conn.execute(system)).first()
    return {
        "heads": (await conn.execute(heads)).scalar_one(),
        "anchor": None if anchor is None else {"number": anchor.number, "digest": anchor.digest},
        "system": None if head is None else {"seq": head.seq, "hash": head.hash},
    }
