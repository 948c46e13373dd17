"""Who did what an event tells, how grave it is, and what it belongs to: the actor, level and tags of the seeds' audit.

It follows from what the event holds anyway, so most events store nothing of it: :func:`audit_of` returns what differs
from :data:`ORCHESTRATOR` and ``INFO``. That is hashed with the event, so a later version of these rules does not change
what was. The metadata of the seeds are an event's ``data``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dalang.event_types import EventType

ORCHESTRATOR: Mapping[str, str] = {"type": "system", "id": "orchestrator"}
LEVELS = ("INFO", "WARN", "ERROR", "CRITICAL")
_NO_PEOPLE = ("parent run", "temporal", "planner")
_SCHEDULE, _UNKNOWN = "schedule:", "unauthenticated"

_GRAVE: Mapping[str, str] = {
    EventType.NODE_RETRYING: "WARN",
    EventType.NODE_ERROR: "WARN",
    EventType.CONDITION_FAILED: "WARN",
    EventType.EVENT_DROPPED: "WARN",
    EventType.REQUEST_REJECTED: "WARN",
    EventType.PLAN_REPLAN_FAILED: "WARN",
    EventType.PLAN_CANCEL_REQUESTED: "WARN",
    EventType.PLAN_CANCELLED: "WARN",
    EventType.HITL_TASK_ESCALATED: "WARN",
    EventType.HITL_TASK_EXPIRED: "WARN",
    EventType.PLAN_FAILING: "ERROR",
    EventType.PLAN_FAILED: "ERROR",
    EventType.NODE_FAILED: "ERROR",
    EventType.NODE_COMPENSATION_FAILED: "CRITICAL",
    EventType.CHAIN_GAP: "CRITICAL",
}
_FAMILIES = (
    ("PLAN_REPL", ("run", "replanning")),
    ("PLAN_REVISED", ("run", "replanning")),
    ("PLAN_COMPENSAT", ("run", "compensation")),
    ("PLAN_", ("run",)),
    ("NODE_COMPENSAT", ("node", "compensation")),
    ("NODE_", ("node",)),
    ("CONDITION_", ("node", "edge")),
    ("HITL_", ("human-task",)),
    ("CALLBACK_", ("node", "external")),
    ("EVENT_", ("external",)),
    ("REQUEST_", ("request",)),
    ("BUDGET_", ("run", "budget")),
    ("CHAIN_", ("integrity",)),
)
_BEGUN_BY_AGENT = ("NODE_STARTED", "NODE_COMPLETED", "NODE_FAILED", "NODE_ERROR")


def audit_of(kind: str, data: Mapping[str, Any], created_by: str, run_status: str) -> dict[str, Any]:
    """Return what is stored, and hashed, of a new event: ``actor``, ``level`` and ``context`` where they are not the
    ordinary ones. ``run_status`` is the run's before the event."""
    found: dict[str, Any] = {}
    actor = _actor(kind, data, created_by)
    if actor != ORCHESTRATOR:
        found["actor"] = dict(actor)
    level = _GRAVE.get(kind, "INFO")
    if level != "INFO":
        found["level"] = level
    if found:
        found["context"] = {"runStatus": run_status}
    return found


def seen(kind: str, data: Mapping[str, Any], stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return actor, level, tags and context of an event; of one that stored none (None) as far as it tells them."""
    known = audit_of(kind, data, "", "") | {"context": None} if stored is None else stored
    return {
        "actor": dict(known.get("actor", ORCHESTRATOR)),
        "level": known.get("level", "INFO"),
        "tags": list(next((tags for start, tags in _FAMILIES if kind.startswith(start)), ())),
        "context": known.get("context"),
    }


def _actor(kind: str, data: Mapping[str, Any], created_by: str) -> Mapping[str, str]:
    for name in ("completedBy", "operator"):
        if isinstance(data.get(name), str) and data[name]:
            return _person(data[name], "approver" if kind.startswith("HITL_") else "operator")
    if kind == EventType.PLAN_VALIDATED and created_by:
        return _person(created_by, "operator")
    agent = data.get("agent")
    if isinstance(agent, str) and agent and kind in _BEGUN_BY_AGENT:
        return {"type": "agent", "id": agent, "role": "agent"}
    return ORCHESTRATOR


def _person(name: str, role: str) -> Mapping[str, str]:
    if name in _NO_PEOPLE or name.startswith(_SCHEDULE):
        return {"type": "system", "id": name}
    is_unknown = name == _UNKNOWN or name.startswith(f"{_UNKNOWN}:")
    return {"type": "human", "id": name, "role": _UNKNOWN if is_unknown else role}
