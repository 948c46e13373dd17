"""Runs that stand in several lists at once: with two labels, or a label and a status, however long these lists are.

Theory of operation. Each list - the runs with a label, of a status, of a plan, of a person - is in an index in the
order of pages, whose entries hold all that is needed to find what lists have in common. So PostgreSQL goes along two of
them side by side and visits no run: an entry costs a tenth of a microsecond; a run, which lies anywhere on the disk,
thirty times as much. The sparsest lists come first; where these have nothing in common, no other is read. What the
indexes do not know is asked of what is left.

Left to itself PostgreSQL goes by how many runs it expects, as though labels and statuses had nothing to do with one
another, and reads one list again for each entry of the other when it expects one: so it is told to go along them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Select,
    Table,
    Uuid,
    any_,
    bindparam,
    desc,
    func,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store.tables import execution_runs

SHORT = 1_000
"""So many runs are visited one by one; and so many entries are looked at to see how sparse a list is."""
MOST_KEYS = 5_000
"""So many are asked for at once, where what the indexes do not know leaves few of them."""
_runs = execution_runs.c
Keys: TypeAlias = Select[Any] | CompoundSelect[Any]


class Within(Protocol):
    """The conditions on the key of a run, two columns: after another key, if there is one, and others."""

    def __call__(self, created_at: Any, run_id: Any, key: Sequence[Any] | None) -> Sequence[ColumnElement[bool]]:
        """Return them."""
        ...


@dataclass(frozen=True)
class Look:
    """How many of its first entries a list has, up to :data:`SHORT`, and from when the first and the last of these are
    (None where there are none): the older the last, the sparser the list."""

    count: int
    newest: datetime
    oldest: datetime


class RunList:
    """A list of runs: those that meet one of some conditions, for each of which an index has them.

    ``in_order``: in the order of pages.
    """

    def __init__(self, table: Table, conditions: Sequence[ColumnElement[bool]], *, in_order: bool = True) -> None:
        self.table = table
        self.in_order = in_order
        self._conditions = conditions

    async def look(self, conn: AsyncConnection, tenant_id: str, within: Within) -> Look:
        """Look at its first entries, or at any where they are not in order."""
        first = self.keys(tenant_id, within, None).limit(SHORT).subquery()
        of_first = func.count(), func.max(first.c.created_at), func.min(first.c.created_at)
        return Look(*(await conn.execute(select(*of_first))).one())

    def keys(self, tenant_id: str, within: Within, after: Sequence[Any] | None) -> Keys:
        """Return the query of the keys of its runs."""
        own = self.table.c
        conditions = own.tenant_id == tenant_id, *within(own.created_at, own.run_id, after)
        parts = [select(own.created_at, own.run_id).where(*conditions, one) for one in self._conditions]
        if not self.in_order:
            return union_all(*parts)
        merged = [select(_in_order(part).subquery()) for part in parts]  # one by one, or all of them would be sorted
        return _in_order(merged[0] if len(merged) == 1 else union_all(*merged))


async def overlap(
    conn: AsyncConnection, tenant_id: str, lists: Mapping[RunList, Look], query: Select[Any], within: Within, limit: int
) -> Sequence[Any]:
    """Return the first rows of ``query``, which asks for runs, that stand in all of these lists, none of them empty.

    One that is not in order is not gone along: ``query`` asks for it.
    """
    found = list[Any]()
    in_order = {one: look for one, look in lists.items() if one.in_order}
    sparsest = sorted(in_order, key=lambda one: in_order[one].oldest)
    newest = min(look.newest for look in in_order.values())
    count, after = limit, (newest + timedelta(microseconds=1), UUID(int=0))
    while True:
        first, *others = [one.keys(tenant_id, within, after) for one in sparsest]
        keys = first
        for other in others:
            one, two = keys.subquery(), other.subquery()
            same = (one.c.created_at == two.c.created_at) & (one.c.run_id == two.c.run_id)
            keys = _in_order(select(one.c.created_at, one.c.run_id).join_from(one, two, same))
        await conn.execute(_ALONG, {"other": "off"})
        chosen = (await conn.execute(keys.limit(count))).all()
        await conn.execute(_ALONG, {"other": "on"})
        among = bindparam("among", [key.run_id for key in chosen], ARRAY(Uuid()))
        rows = query.where(_runs.run_id == any_(among))
        rows = rows.order_by(_runs.created_at.desc(), _runs.run_id.desc()).limit(limit - len(found))
        found += (await conn.execute(rows)).all()
        if len(found) == limit or len(chosen) < count:
            return found
        count, after = min(4 * count, MOST_KEYS), tuple(chosen[-1])


def _in_order(keys: Keys) -> Keys:
    """Return the query in the order of pages; set apart by the offset, or PostgreSQL would take two looks at the same
    run for one, and visit it."""
    return keys.order_by(*map(desc, keys.selected_columns)).offset(0)


_ALONG = text(
    "SELECT set_config('enable_nestloop', :other, true), set_config('enable_hashjoin', :other, true),"
    " set_config('enable_sort', :other, true)"
)
