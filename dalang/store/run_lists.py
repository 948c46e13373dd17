"""Lists of runs: narrowed by anything, the newest first, and as quick with a million runs as with ten.

Theory of operation. A page is what comes first in an index that ends with ``(created_at, run_id)``, so its cost is that
of its rows. Where several statuses or plans are wanted, each has such a list of its own, and the pages of these are
merged; one query over all of them would sort everything they match. So are the runs that somebody started and those
below their nodes, since lists mostly show only the former. A part of a plan's name is looked for among the
names that there are, which are few, and not in every run; besides, under row level security no condition but equality
or order may look into an index before a row is known to be the tenant's own, so no index for parts of texts or of JSON
would be used. For the same reason labels stand in a table of their own (``run_labels``), in the order of lists. With
labels and more, the shortest list leads; where none is short, ``run_overlaps.py`` finds what they have in common.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import product
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Text, and_, bindparam, func, or_, select, text, true, union_all
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.statuses import RunStatus
from dalang.store.engine import load_json
from dalang.store.paging import Page, after, read_cursor, write_cursor
from dalang.store.run_overlaps import SHORT, RunList, overlap
from dalang.store.runs import SUMMARY, RunSummary
from dalang.store.tables import execution_runs, run_labels

MAX_NAMES = 1_000
"""Names of plans that are looked through; of a tenant that has more, runs are."""
MAX_MERGED = 200
"""Lists that are merged."""
INDEXED = 200
"""Characters of a label's name, and of its value, that the index knows."""

_runs, _labels = execution_runs.c, run_labels.c
_PLAIN = re.compile(r"true|false|null|-?(0|[1-9]\d{0,14})(\.\d{1,9})?", re.ASCII)
"""Labels that may be meant as JSON values, not as texts."""


@dataclass(frozen=True)
class RunFilter:
    """What a list is narrowed to; None and empty mean: any. ``text`` is a part of the plan's name, in any case.

    ``labels`` are pairs that stand in the run's metadata, each as a text or as the JSON value that the text is.
    Runs below nodes are listed with ``parent_run_id``, or where ``children`` asks for all runs.
    """

    statuses: Sequence[str] = ()
    plan_id: UUID | None = None
    plan_name: str | None = None
    created_from: datetime | None = None
    created_until: datetime | None = None
    text: str | None = None
    created_by: str | None = None
    parent_run_id: UUID | None = None
    parent_node_id: str | None = None
    children: bool = True
    labels: Sequence[tuple[str, str]] = ()

    @property
    def is_narrow(self) -> bool:
        """Whether it asks for what has an index of its own, and few statuses among what that finds."""
        return bool(self.created_by or self.parent_run_id)


async def list_runs(
    conn: AsyncConnection,
    tenant_id: str,
    wanted: RunFilter = RunFilter(),
    *,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[RunSummary]:
    """Which runs are there, the newest first? Raises :class:`paging.InvalidCursor`."""
    last = None if cursor is None else read_cursor(cursor, datetime, UUID)
    query = select(*SUMMARY).where(_runs.tenant_id == tenant_id, *_conditions(wanted))
    if last is not None:
        query = query.where(_before(_runs.created_at, _runs.run_id, last))
    names = None if wanted.plan_name is None else [wanted.plan_name]
    if wanted.text and names is None:
        names = await _names(conn, tenant_id, wanted.text)
    if names == []:
        return Page([], None)
    if wanted.labels:
        rows = await _labelled(conn, tenant_id, query, wanted, names, last, limit + 1)
    else:
        rows = (await conn.execute(_page(query, wanted, names, limit + 1))).all()
    found = [RunSummary(*row) for row in rows]
    more = write_cursor(found[limit - 1].created_at, found[limit - 1].run_id) if len(found) > limit else None
    return Page(found[:limit], more)


def _page(query: Select[Any], wanted: RunFilter, names: Sequence[str] | None, limit: int) -> Select[Any]:
    """Return the query of a page: one list, or several that are merged."""
    by_plan = names is not None or wanted.plan_id is not None
    statuses = wanted.statuses or (list(RunStatus) if by_plan else [])
    keys = list(product([str(one) for one in statuses], names or [""]))
    if wanted.is_narrow or not 1 < len(keys) <= MAX_MERGED:
        query = _of(query, wanted, names)
        if wanted.created_by is None or wanted.parent_run_id is not None or not wanted.children:
            return _newest(query).limit(limit)
        below = _runs.parent_run_id.is_not(None), _runs.parent_run_id.is_(None)
        both = union_all(*(select(_newest(query.where(one)).limit(limit).subquery()) for one in below)).subquery()
        return select(both).order_by(both.c.created_at.desc(), both.c.run_id.desc()).limit(limit)
    key = _keys(keys, "status", "plan_name")
    query = query.where(_runs.status == key.c.status)
    if names is not None:
        query = query.where(_runs.plan_name == key.c.plan_name)
    return _merged(key, _newest(query).limit(limit), limit)


async def _labelled(
    conn: AsyncConnection,
    tenant_id: str,
    query: Select[Any],
    wanted: RunFilter,
    names: Sequence[str] | None,
    last: Sequence[Any] | None,
    limit: int,
) -> Sequence[Any]:
    """Return a page of runs with labels: of the shortest list that they are in; of all of these where none is short."""

    def within(created_at: Any, run_id: Any, key: Sequence[Any] | None) -> list[ColumnElement[bool]]:
        return [*_in_time(wanted, created_at), *(_before(created_at, run_id, one) for one in (last, key) if one)]

    lists = [*map(_with_label, wanted.labels), *_other_lists(wanted, names)]
    looks = {one: await one.look(conn, tenant_id, within) for one in lists} if len(lists) > 1 else {}
    counts = [look.count for look in looks.values()] or [0]
    if min(counts) >= SHORT and sum(one.in_order for one in lists) > 1:
        return await overlap(conn, tenant_id, looks, _of(query, wanted, names), within, limit)
    shortest = counts.index(min(counts))
    if shortest < len(wanted.labels):
        query = query.where(*within(_labels.created_at, _labels.run_id, None))
        page = _led(query, wanted, names, wanted.labels[shortest], limit)
    else:
        page = _page(query, wanted, names, limit)
    rows: Sequence[Any] = (await conn.execute(page)).all()
    return rows


def _other_lists(wanted: RunFilter, names: Sequence[str] | None) -> list[RunList]:
    """Return the lists, besides those of labels, that runs are in."""
    found = []
    statuses = [_runs.status == str(one) for one in wanted.statuses]
    plans = [_runs.plan_name == name for name in names or ()]
    if wanted.plan_id is not None:
        plans = [_runs.plan_id == wanted.plan_id]
    both = [and_(plan, status) for plan, status in product(plans, statuses)] if plans and statuses else plans + statuses
    if 0 < len(both) <= MAX_MERGED:
        found.append(RunList(execution_runs, both, in_order=bool(statuses)))
    if wanted.parent_run_id is not None:
        found.append(RunList(execution_runs, [_runs.parent_run_id == wanted.parent_run_id], in_order=False))
    if wanted.created_by is not None:
        roots, below = _runs.parent_run_id.is_(None), _runs.parent_run_id.is_not(None)
        of_person = _runs.created_by == wanted.created_by
        kinds = [roots, below] if wanted.children else [roots]
        found.append(RunList(execution_runs, [and_(of_person, kind) for kind in kinds]))
    return found


def _with_label(label: tuple[str, str]) -> RunList:
    name, value = label
    named = _labels.name == name[:INDEXED]
    return RunList(run_labels, [and_(named, _labels.value == one) for one in sorted(_meant(value))])


def _led(
    query: Select[Any], wanted: RunFilter, names: Sequence[str] | None, label: tuple[str, str], limit: int
) -> Select[Any]:
    """Return the query of a page of runs with labels, led by this one of them."""
    key = _keys([(value,) for value in sorted(_meant(label[1]))], "value")
    same = (_labels.tenant_id == _runs.tenant_id) & (_labels.run_id == _runs.run_id)
    query = _of(query, wanted, names).join(run_labels, same & (_labels.created_at == _runs.created_at))
    query = query.where(_labels.name == label[0][:INDEXED], _labels.value == key.c.value)
    return _merged(key, query.order_by(_labels.created_at.desc(), _labels.run_id.desc()).limit(limit), limit)


def _of(query: Select[Any], wanted: RunFilter, names: Sequence[str] | None) -> Select[Any]:
    if wanted.statuses:
        query = query.where(_runs.status.in_(wanted.statuses))
    if names is not None:
        query = query.where(_runs.plan_name.in_(names))
    elif wanted.text:
        query = query.where(_runs.plan_name.icontains(wanted.text, autoescape=True))
    return query


def _keys(keys: Sequence[Sequence[str]], *names: str) -> Any:
    columns = [bindparam(None, list(values), ARRAY(Text())) for values in zip(*keys, strict=True)]
    return func.unnest(*columns).table_valued(*names, name="key").render_derived()


def _merged(key: Any, of_key: Select[Any], limit: int) -> Select[Any]:
    """Return the first of all lists, of which there is one for each key."""
    own = of_key.correlate(key).lateral("own")
    merged = select(*own.c).select_from(key.join(own, true()))
    return merged.order_by(own.c.created_at.desc(), own.c.run_id.desc()).limit(limit)


def _newest(query: Select[Any]) -> Select[Any]:
    return query.order_by(_runs.created_at.desc(), _runs.run_id.desc())


def _meant(value: str) -> set[str]:
    """Return as what a label may stand in ``run_labels``: a number stands there without needless zeros."""
    found = {value[:INDEXED]}
    if _PLAIN.fullmatch(value) and value[-1].isdigit():
        number = format(Decimal(value) + 0, "f")  # of -0 that is 0
        found.add(number.rstrip("0").rstrip(".") if "." in number else number)
    return found


async def _names(conn: AsyncConnection, tenant_id: str, part: str) -> list[str] | None:
    """Return the names of plans with this part in them; None: there are more names than one wants to look through."""
    values = {"tenant": tenant_id, "part": part, "limit": MAX_NAMES + 1}
    rows = (await conn.execute(_NAMES, values)).all()
    return None if len(rows) > MAX_NAMES else [row.name for row in rows if row.matches]


_NAMES = text(  # from name to name through the index, however many runs have it
    """
    WITH RECURSIVE names (name) AS (
      (SELECT plan_name FROM execution_runs WHERE tenant_id = :tenant ORDER BY plan_name LIMIT 1)
      UNION ALL
      SELECT (
        SELECT plan_name FROM execution_runs WHERE tenant_id = :tenant AND plan_name > names.name
        ORDER BY plan_name LIMIT 1
      ) FROM names WHERE name IS NOT NULL
    )
    SELECT name, strpos(lower(name), lower(:part)) > 0 AS matches FROM names WHERE name IS NOT NULL LIMIT :limit
    """
)


def _conditions(wanted: RunFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.plan_id is not None:
        conditions.append(_runs.plan_id == wanted.plan_id)
    conditions += _in_time(wanted, _runs.created_at)
    if wanted.created_by is not None:
        conditions.append(_runs.created_by == wanted.created_by)
    if wanted.parent_run_id is not None:
        conditions.append(_runs.parent_run_id == wanted.parent_run_id)
    elif not wanted.children:
        conditions.append(_runs.parent_run_id.is_(None))
    if wanted.parent_node_id is not None:
        conditions.append(_runs.parent_node_id == wanted.parent_node_id)
    conditions += [_has_label(name, value) for name, value in wanted.labels]
    return conditions


def _in_time(wanted: RunFilter, created_at: Any) -> list[ColumnElement[bool]]:
    since = [] if wanted.created_from is None else [created_at >= wanted.created_from]
    return since if wanted.created_until is None else [*since, created_at < wanted.created_until]


def _before(created_at: Any, run_id: Any, key: Sequence[Any]) -> ColumnElement[bool]:
    return after((created_at, key[0]), (run_id, key[1]), descending=True)


def _has_label(name: str, value: str) -> ColumnElement[bool]:
    meant = [value, load_json(value)] if _PLAIN.fullmatch(value) else [value]
    return or_(*(_runs.metadata.contains({name: one}) for one in meant))
