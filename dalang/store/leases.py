"""Leases: asking, granting, releasing; one decision over pools, quotas, rates and agents (DESIGN section 7).

Theory of operation
    A row of ``leases`` waits, is granted, and ends. What is in use is never stored: it is the sum over the granted
    rows, so nothing can drift, and releasing is one update of the row itself, which happens once however often it is
    tried. Asking and releasing commit by themselves; then a *grant pass*, one at a time (an advisory lock), loads what
    is limited, what is held and who waits, lets :class:`~dalang.admission.Admission` decide, and writes the grants.

    Who is granted something by another one's pass is told by a signal (``wake_up.py``); ``told_at`` says that Temporal
    has it. Until then the row is found again and again, so a crash between the two loses nothing.

    Loading one pass costs time in the kinds of what is held and waited for, not in the number of nodes: rows with
    equal demands are counted together, and of those that wait equally only the first :data:`LOOK_AHEAD` are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Update, any_, bindparam, case, cast, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Float, Text, Uuid

from dalang.admission import AGING_MS
from dalang.store.admission_tables import leases
from dalang.store.agents import placed, route_of
from dalang.store.assignment_tables import agent_assignments
from dalang.store.bulk import arguments, insert_all
from dalang.store.limits import Limits, load_limits, save_buckets
from dalang.store.tables import execution_runs

LOOK_AHEAD = 200
AGING = timedelta(milliseconds=AGING_MS)
MAX_AGED = 1000
GRANT_LOCK = 0x44414C414E47
CHANNEL = "dalang_grant"
"""What a pass notifies when it granted something to others than the one who ran it."""
_NEWS = ("GRANTED", "REFUSED")
NEVER_MS = 366 * 86_400_000

_l, _work = leases.c, agent_assignments.c


@dataclass(frozen=True)
class Ask:
    """What one node needs: ``amounts`` by pool (``name`` or ``name/key``), and an agent with all ``capabilities``.

    ``lease_id`` derives from run, node and ask, so that asking twice is asking once. ``lasts_ms`` is how long the node
    may hold it at most: a lease of a run that is gone is given back after that.
    """

    lease_id: UUID
    node_id: str
    ask: int
    amounts: Mapping[str, float] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    priority: int = 0
    rank: int = 0
    sticky: bool = False
    lasts_ms: int = NEVER_MS


_ASK = tuple(one.name for one in fields(Ask))


@dataclass(frozen=True)
class Answer:
    """What became of an ask: WAITING (``short`` says for what), GRANTED (with its ``agent_id``), or REFUSED.

    ``route`` says where the work of its agent is begun, if not as ever.
    """

    lease_id: UUID
    node_id: str
    ask: int
    state: str
    agent_id: str | None = None
    short: tuple[str, ...] = ()
    reason: str | None = None
    route: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Pass:
    """What a grant pass did; ``again_at`` is when a rate lets somebody through who waits now.

    ``waited`` is for how many seconds each of those waited who were granted something.
    """

    granted: int
    again_at: datetime | None
    waited: Sequence[float] = ()


@dataclass(frozen=True)
class Asker:
    """The run for which something is asked."""

    tenant_id: str
    run_id: UUID
    workflow_id: str


async def ask(conn: AsyncConnection, asks: Sequence[tuple[Asker, Ask]]) -> None:
    """Let nodes wait for what they need; those that were asked for before are left as they are."""
    if not asks:
        return
    rows = [
        {
            **vars(asker),
            **{name: getattr(one, name) for name in _ASK},
            "amounts": dict(one.amounts),
            "capabilities": sorted(one.capabilities),
        }
        for _, (asker, one) in sorted({one.lease_id: (asker, one) for asker, one in asks}.items())
    ]
    names = tuple(rows[0])
    statement = insert_all(leases, names).on_conflict_do_nothing()
    await conn.execute(statement, arguments(leases, names, rows))


async def release(conn: AsyncConnection, done: Iterable[tuple[str, UUID]]) -> int:
    """End leases, (tenantId, leaseId), that are held or waited for; return how many that changed.

    Ending one again changes nothing.
    """
    by_tenant: dict[str, list[UUID]] = {}
    for tenant_id, lease_id in done:
        by_tenant.setdefault(tenant_id, []).append(lease_id)
    changed = 0
    for tenant_id, wanted in sorted(by_tenant.items()):
        meant = (_l.tenant_id == tenant_id, _among(wanted), _l.ended_at.is_(None))
        ended = await conn.execute(_changing(meant, {"state": _ended_state(), "ended_at": func.now()}))
        changed += ended.rowcount
    return changed


def _among(lease_ids: Iterable[UUID]) -> ColumnElement[bool]:
    return _l.lease_id == any_(bindparam("ids", list(lease_ids), ARRAY(Uuid)))


def _changing(meant: Sequence[ColumnElement[bool]], changes: Mapping[str, Any], *, skipping: bool = False) -> Update:
    """Return the update of the leases that are ``meant``.

    Their rows are locked in one order whoever does it, so that two who change the same rows wait for each other only
    one way. A grant pass changes several rows by several statements: it is ``skipping`` those that somebody is ending,
    and so waits for nobody.
    """
    locked = select(_l.lease_id).where(*meant).order_by(_l.lease_id).with_for_update(of=leases, skip_locked=skipping)
    rows = locked.cte("locked")
    return update(leases).where(_l.lease_id == rows.c.lease_id).values(changes)


def _ended_state() -> Any:
    return case((_l.state == "GRANTED", "RELEASED"), else_="WITHDRAWN")


async def answers(conn: AsyncConnection, lease_ids: Sequence[UUID]) -> dict[UUID, Answer]:
    """What became of these asks? Whoever is answered GRANTED or REFUSED has been told."""
    is_meant = _among(lease_ids)
    await conn.execute(_changing((is_meant, _l.state.in_(_NEWS), _l.told_at.is_(None)), {"told_at": func.now()}))
    rows = await conn.execute(
        select(_l.lease_id, _l.node_id, _l.ask, _l.state, _l.agent_id, _l.short, _l.reason, placed()).where(is_meant)
    )
    return {row.lease_id: Answer(*row[:5], tuple(row.short), row.reason, route_of(row[7])) for row in rows}


async def untold(conn: AsyncConnection, limit: int = 500) -> list[tuple[str, str, Answer]]:
    """Who was granted something and has not been told? (tenantId, workflowId, answer), locked against other tellers."""
    rows = await conn.execute(
        select(_l.tenant_id, _l.workflow_id, _l.lease_id, _l.node_id, _l.ask, _l.state, _l.agent_id, placed())
        .where(_l.state.in_(_NEWS), _l.told_at.is_(None))
        .order_by(_l.granted_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [(row.tenant_id, row.workflow_id, Answer(*row[2:7], route=route_of(row[7]))) for row in rows]


async def mark_told(conn: AsyncConnection, lease_ids: Sequence[UUID]) -> None:
    """Temporal has the news."""
    is_meant = _l.lease_id == any_(bindparam("ids", list(lease_ids), ARRAY(Uuid)))
    await conn.execute(update(leases).where(is_meant).values(told_at=func.now()))


async def grant(conn: AsyncConnection) -> Pass:
    """Grant what can be granted now. Others' passes are waited for; the caller's transaction should do nothing else."""
    await conn.execute(select(func.pg_advisory_xact_lock(GRANT_LOCK)))
    # A statement of its own after the lock: it sees what was committed while the lock was waited for.
    limits = await load_limits(conn)
    await _load_held(conn, limits)
    waiting = await _load_waiting(conn, limits)
    granted = []
    for lease_id, lease in limits.admission.grants():
        granted.append({"id": lease_id, "agent": limits.agent_id(lease.agent)})
    done = {one["id"] for one in granted}
    waited: Sequence[float] = ()
    if granted:
        waited = await _write_grants(conn, granted)
        await save_buckets(conn, limits)
    await _write_short(conn, limits, {key: demand for key, demand in waiting.items() if key not in done})
    again_at = limits.again_at([demand for key, demand in waiting.items() if key not in done])
    return Pass(len(granted), again_at, waited)


async def _load_held(conn: AsyncConnection, limits: Limits) -> None:
    held = await conn.execute(
        select(_l.tenant_id, _l.amounts, _l.agent_id, func.count().label("times"))
        .where(_l.state == "GRANTED")
        .group_by(_l.tenant_id, _l.amounts, _l.agent_id)
    )
    for row in held:
        limits.hold(row.tenant_id, row.amounts, row.agent_id, row.times)


def _urgency() -> Any:
    """Return the priority that a wait has come to."""
    age = func.extract("epoch", func.now() - _l.asked_at) / AGING.total_seconds()
    return _l.priority + func.least(func.floor(age), MAX_AGED)


def service_order() -> tuple[Any, ...]:
    """Return the order in which those who wait are served, but for the turns that tenants take."""
    return _urgency().desc(), _l.rank.desc(), _l.asked_at, _l.lease_id


async def _load_waiting(conn: AsyncConnection, limits: Limits) -> dict[UUID, Any]:
    """Put those who wait into the admission, in order; return the demand of each."""
    urgency = _urgency().label("urgency")
    order = service_order()
    place = func.row_number().over(partition_by=(_l.tenant_id, _l.amounts, _l.capabilities, _l.sticky), order_by=order)
    asked = (_l.lease_id, _l.tenant_id, _l.run_id, _l.node_id, _l.ask, _l.rank, _l.asked_at)
    needed = (_l.amounts, _l.capabilities, _l.sticky)
    inner = select(*asked, *needed, urgency, place.label("place")).where(_l.state == "WAITING").subquery()
    rows = (await conn.execute(select(inner).where(inner.c.place <= LOOK_AHEAD))).all()
    used_before = await _agents_of_runs(conn, [row.run_id for row in rows if row.sticky])
    tried = await _agents_of_nodes(conn, [row.run_id for row in rows if row.ask > 1 and row.capabilities])
    demands: dict[UUID, Any] = {}
    refused: dict[UUID, str] = {}
    for row in rows:
        before = tried.get((row.run_id, row.node_id), Tried())
        stays_with = before.working or used_before.get(row.run_id)
        demand = limits.demand(row.tenant_id, row.amounts, row.capabilities, stays_with, before.failed)
        never = limits.never(demand)
        if never is not None:
            refused[row.lease_id] = never
            continue
        demands[row.lease_id] = demand
        order_key = (-int(row.urgency), -row.rank, row.asked_at, row.lease_id)
        limits.admission.request(row.lease_id, order_key, demand, row.tenant_id)
    for lease_id, reason in refused.items():
        changes = {"state": "REFUSED", "reason": reason, "ended_at": func.now(), "granted_at": func.now()}
        await conn.execute(_changing((_among([lease_id]), _waits()), changes, skipping=True))
    return demands


async def _agents_of_runs(conn: AsyncConnection, run_ids: Sequence[UUID]) -> dict[UUID, str]:
    """The agent that each run used last."""
    if not run_ids:
        return {}
    rows = await conn.execute(
        select(_l.run_id, _l.agent_id)
        .where(_l.run_id == any_(bindparam("runs", list(set(run_ids)), ARRAY(Uuid))), _l.agent_id.is_not(None))
        .order_by(_l.granted_at)
    )
    return {row.run_id: row.agent_id for row in rows}


@dataclass(frozen=True)
class Tried:
    """Who had a node before: ``failed`` did not end it; ``working`` is still at work, though nobody waits for it."""

    failed: str | None = None
    working: str | None = None


async def _agents_of_nodes(conn: AsyncConnection, run_ids: Sequence[UUID]) -> dict[tuple[UUID, str], Tried]:
    """Who had the nodes of these runs last, by run and node?"""
    if not run_ids:
        return {}
    wanted = bindparam("runs", list(set(run_ids)), ARRAY(Uuid))
    query = select(_l.run_id, _l.node_id, _l.agent_id).where(_l.run_id == any_(wanted), _l.agent_id.is_not(None))
    found = {
        (row.run_id, row.node_id): Tried(row.agent_id) for row in await conn.execute(query.order_by(_l.granted_at))
    }
    at_work = select(_work.run_id, _work.node_id, _work.agent_id)
    for row in await conn.execute(at_work.where(_work.run_id == any_(wanted), _work.state == "TAKEN")):
        found[row.run_id, row.node_id] = Tried(working=row.agent_id)
    return found


async def _write_grants(conn: AsyncConnection, granted: Sequence[Mapping[str, Any]]) -> list[float]:
    ids = bindparam("granted", [one["id"] for one in granted], ARRAY(Uuid))
    chosen = bindparam("agents", [one["agent"] for one in granted], ARRAY(Text))
    given = func.unnest(ids, chosen).table_valued("id", "agent", name="given").render_derived()
    changes = {"state": "GRANTED", "granted_at": func.now(), "agent_id": given.c.agent, "short": []}
    meant = (_among([one["id"] for one in granted]), _waits())
    statement = _changing(meant, changes, skipping=True).where(_l.lease_id == given.c.id)
    # Since it was asked for on the clock of the database, which both times are of; a transaction's now() is its begin.
    waited = func.greatest(func.extract("epoch", func.clock_timestamp() - _l.asked_at), 0)
    rows = await conn.execute(statement.returning(cast(waited, Float)))
    await conn.execute(select(func.pg_notify(CHANNEL, "")))
    return [row[0] for row in rows]


async def _write_short(conn: AsyncConnection, limits: Limits, waiting: Mapping[UUID, Any]) -> None:
    """Note what those wait for who have not been told yet, so that people can be told."""
    by_reason: dict[tuple[str, ...], list[UUID]] = {}
    for lease_id, demand in waiting.items():
        by_reason.setdefault(limits.short(demand), []).append(lease_id)
    for reason, ids in by_reason.items():
        texts = cast(literal(list(reason), ARRAY(Text)), ARRAY(Text))
        await conn.execute(_changing((_among(ids), _waits(), _l.short != texts), {"short": texts}, skipping=True))


def _waits() -> ColumnElement[bool]:
    return _l.state == "WAITING"


async def reap(conn: AsyncConnection) -> int:
    """End what runs that have ended still wait for, or hold past the time their nodes may take.

    A run gives everything back itself; this is for one that was terminated. Until its nodes must have stopped, they
    may still be at work.
    """
    past = _l.granted_at + func.make_interval(0, 0, 0, 0, 0, 0, _l.lasts_ms / 1000.0) < func.now()
    meant = (
        _l.ended_at.is_(None),
        execution_runs.c.tenant_id == _l.tenant_id,
        execution_runs.c.run_id == _l.run_id,
        execution_runs.c.completed_at.is_not(None),
        or_(_waits(), past),
    )
    ended = await conn.execute(_changing(meant, {"state": _ended_state(), "ended_at": func.now()}))
    return ended.rowcount
