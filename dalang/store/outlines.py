"""What is drawn of large plans, by their digest: made once, by whoever is asked first, and read by all."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.plan_outline import FORM, PackedOutline
from dalang.store.outline_tables import plan_outlines

_outlines = plan_outlines.c


async def get_outline(conn: AsyncConnection, tenant_id: str, digest: str) -> PackedOutline | None:
    """What is drawn of this plan? None: nobody has made that yet."""
    query = select(_outlines.nodes, _outlines.edges, _outlines.picture)
    query = query.where(_outlines.tenant_id == tenant_id, _outlines.digest == digest, _outlines.form == FORM)
    row = (await conn.execute(query)).first()
    return None if row is None else PackedOutline(*row)


async def put_outline(conn: AsyncConnection, tenant_id: str, digest: str, packed: PackedOutline) -> None:
    """Keep what is drawn of a stored plan; whoever was faster has kept the same."""
    row = {"tenant_id": tenant_id, "digest": digest, "form": FORM, **asdict(packed)}
    await conn.execute(insert(plan_outlines).values(row).on_conflict_do_nothing())
