"""What agents that ask for work are given, and how it ended: the hand-over between a node's activity and an agent.

Theory of operation
    The activity of a node opens an assignment for the agent that the lease names: PENDING. The agent asks, and it is
    TAKEN; with a token, which nobody else knows. With the token it tells how far it is, which also says that it is
    still at work, and how it ended: COMPLETED or FAILED. The activity, which waits, gives that to the run and marks it
    delivered. If the agent is silent for ``alive_seconds``, or the work is not wanted any more, the activity makes it
    WITHDRAWN: then the token is worth nothing, and the agent is told so at its next word.

    There is one open assignment for each idempotency key. An activity whose process died is followed by another one,
    which finds the assignment and goes on waiting for it, or finds how it ended: the work is not done twice. It is
    when an agent was given up.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import case, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.errors import Conflict, NotFound
from dalang.store.admission_tables import agents
from dalang.store.agents import Agent, is_there
from dalang.store.assignment_tables import OPEN_STATES, agent_assignments
from dalang.store.tables import execution_runs

ASSIGNED = "dalang_assigned"
"""Notified with ``tenant/agent`` when there is something for that agent."""
CHANGED = "dalang_assignment"
"""Notified with an assignment's id when its agent said something, or was told that it is withdrawn."""
PREFIX = "dalang_as_"
"""Every token begins with it, so that scanners find leaked ones."""
MAX_TOKEN = 200

_a, _agents, _runs = agent_assignments.c, agents.c, execution_runs.c


@dataclass(frozen=True)
class Assignment:
    """What an agent is given, as it stands. ``outcome`` is ``{outputs}`` or ``{error}``."""

    assignment_id: UUID
    tenant_id: str
    run_id: UUID
    node_id: str
    key: str
    agent_tenant: str
    agent_id: str
    state: str
    task: Mapping[str, Any] | None
    alive_seconds: int
    progress: Mapping[str, Any] | None
    outcome: Mapping[str, Any] | None
    reason: str | None


@dataclass(frozen=True)
class Look:
    """An assignment as whoever waits for it sees it.

    ``silent_seconds`` is how long nothing was heard of its agent about it; ``agent_takes`` whether its agent is there
    and takes new work; ``told`` whether the agent knows that it was withdrawn.
    """

    state: str
    progress: Mapping[str, Any] | None
    outcome: Mapping[str, Any] | None
    reason: str | None
    silent_seconds: float
    agent_takes: bool
    told: bool


_ROW = [_a[one.name] for one in fields(Assignment)]
_OPEN = _a.state.in_(OPEN_STATES)


def address(agent_tenant: str, agent_id: str) -> str:
    """Return the payload with which an agent's work is notified."""
    return f"{agent_tenant}/{agent_id}"


async def open_assignment(
    conn: AsyncConnection, agent: Agent, task: Mapping[str, Any], alive_seconds: int
) -> Assignment:
    """Return the assignment of a node: the open one, an ended one that nobody was told of, or a new one for ``agent``.

    One that nobody has taken yet, and that is another agent's, is withdrawn.
    """
    tenant_id, run_id, key = task["tenantId"], UUID(task["runId"]), task["key"]
    of_work = (_a.tenant_id == tenant_id) & (_a.run_id == run_id) & (_a.key == key)
    await conn.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"{tenant_id}/{key}", 0))))
    wanted = or_(_OPEN, _a.state.in_(("COMPLETED", "FAILED")) & _a.delivered_at.is_(None))
    query = select(*_ROW).where(of_work, wanted).order_by(_a.created_at.desc()).limit(1).with_for_update()
    row = (await conn.execute(query)).first()
    found = None if row is None else Assignment(*row)
    if found is not None:
        own = (found.agent_tenant, found.agent_id) == (agent.tenant_id, agent.agent_id)
        if found.state != "PENDING" or own:
            return found
        await withdraw(conn, found.assignment_id, "another agent was chosen")
    values = {
        "assignment_id": uuid4(),
        "tenant_id": tenant_id,
        "run_id": run_id,
        "node_id": task["nodeId"],
        "key": key,
        "agent_tenant": agent.tenant_id,
        "agent_id": agent.agent_id,
        "task": dict(task),
        "alive_seconds": alive_seconds,
    }
    made = await conn.execute(insert(agent_assignments).values(values).returning(*_ROW))
    await conn.execute(select(func.pg_notify(ASSIGNED, address(agent.tenant_id, agent.agent_id))))
    return Assignment(*made.one())


async def take_assignment(conn: AsyncConnection, agent_tenant: str, agent_id: str) -> tuple[Assignment, str] | None:
    """Give an agent the oldest thing that waits for it, with its token; None when there is none.

    Not what was left behind by a run that has ended.
    """
    goes_on = select(literal(1)).where(
        _runs.tenant_id == _a.tenant_id, _runs.run_id == _a.run_id, _runs.completed_at.is_(None)
    )
    is_meant = (_a.agent_tenant == agent_tenant) & (_a.agent_id == agent_id) & (_a.state == "PENDING")
    oldest = select(_a.assignment_id).where(is_meant, goes_on.exists()).order_by(_a.created_at, _a.assignment_id)
    found = (await conn.execute(oldest.limit(1).with_for_update(skip_locked=True))).scalar()
    if found is None:
        return None
    token = PREFIX + secrets.token_urlsafe(32)
    changes = {"state": "TAKEN", "taken_at": func.now(), "alive_at": func.now(), "token_hash": _hash(token)}
    taken = await conn.execute(
        update(agent_assignments).where(_a.assignment_id == found).values(changes).returning(*_ROW)
    )
    return Assignment(*taken.one()), token


async def tell_progress(conn: AsyncConnection, assignment_id: UUID, token: str, progress: Mapping[str, Any]) -> bool:
    """Note that an agent is at work, and how far it is; False when it is not wanted any more."""
    return await _say(conn, assignment_id, token, {"alive_at": func.now(), "progress": dict(progress) or None})


async def end_assignment(
    conn: AsyncConnection, assignment_id: UUID, token: str, state: str, outcome: Mapping[str, Any]
) -> bool:
    """Keep how it ended, COMPLETED or FAILED, for whoever waits; False when it is not wanted any more.

    Saying the same again changes nothing, as when the answer to the first was lost.
    """
    changes = {"state": state, "outcome": dict(outcome), "ended_at": func.now(), "progress": None, "task": None}
    return await _say(conn, assignment_id, token, changes, again=state)


async def _say(
    conn: AsyncConnection, assignment_id: UUID, token: str, changes: Mapping[str, Any], again: str | None = None
) -> bool:
    of_token = (_a.assignment_id == assignment_id) & (_a.token_hash == _hash(token))
    row = (await conn.execute(select(_a.state).where(of_token).with_for_update())).first()
    if row is None:
        raise NotFound("There is no such assignment, or the token is not its.")
    if row.state == again:
        return True
    if row.state == "TAKEN":
        await conn.execute(update(agent_assignments).where(of_token).values(changes))
    elif row.state == "WITHDRAWN":
        await conn.execute(
            update(agent_assignments).where(of_token, _a.delivered_at.is_(None)).values(delivered_at=func.now())
        )
    else:
        raise Conflict(f"The assignment has ended: it is {row.state}.")
    await conn.execute(select(func.pg_notify(CHANGED, str(assignment_id))))
    return bool(row.state == "TAKEN")


async def look(conn: AsyncConnection, assignment_id: UUID) -> Look | None:
    """How does an assignment stand?"""
    silent = func.extract("epoch", func.now() - func.coalesce(_a.alive_at, _a.created_at))
    its_agent = (_agents.tenant_id == _a.agent_tenant) & (_agents.agent_id == _a.agent_id)
    takes = func.coalesce(~_agents.draining & is_there(), False)
    told = (_a.state == "WITHDRAWN") & _a.delivered_at.is_not(None)
    query = (
        select(_a.state, _a.progress, _a.outcome, _a.reason, silent, takes, told)
        .select_from(agent_assignments.outerjoin(agents, its_agent))
        .where(_a.assignment_id == assignment_id)
    )
    row = (await conn.execute(query)).first()
    return None if row is None else Look(row[0], row[1], row[2], row[3], float(row[4]), row[5], row[6])


async def withdraw(conn: AsyncConnection, assignment_id: UUID, reason: str, *, silent: float | None = None) -> bool:
    """Give an agent up; ``silent``: only if nothing was heard of it for so many seconds. Tell whether that is done.

    One that has ended meanwhile stays as it ended.
    """
    is_meant = (_a.assignment_id == assignment_id) & _OPEN
    if silent is not None:
        heard = func.coalesce(_a.alive_at, _a.created_at)
        is_meant &= heard + func.make_interval(0, 0, 0, 0, 0, 0, silent) <= func.now()
    never_taken = case((_a.state == "PENDING", func.now()))  # nobody has to be told
    changes = {"state": "WITHDRAWN", "reason": reason[:500], "ended_at": func.now(), "delivered_at": never_taken}
    gone = await conn.execute(
        update(agent_assignments).where(is_meant).values({**changes, "task": None, "progress": None})
    )
    return gone.rowcount > 0


async def mark_delivered(conn: AsyncConnection, assignment_id: UUID) -> None:
    """The run gets the outcome, so it is not kept here."""
    is_meant = (_a.assignment_id == assignment_id) & _a.delivered_at.is_(None)
    await conn.execute(
        update(agent_assignments).where(is_meant).values(delivered_at=func.now(), outcome=None, task=None)
    )


async def erase_assignments(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> None:
    """Erase what agents were given and what they answered."""
    nothing = {"task": None, "outcome": None, "progress": None, "reason": None}
    of_run = (_a.tenant_id == tenant_id) & (_a.run_id == run_id)
    await conn.execute(update(agent_assignments).where(of_run).values(nothing))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
