"""Who did what an event tells, how grave it is, and what it belongs to."""

from __future__ import annotations

from typing import Any

import pytest

from dalang.event_actors import LEVELS, ORCHESTRATOR, audit_of, seen
from dalang.event_types import EventType


@pytest.mark.parametrize(
    ("kind", "data", "actor", "level"),
    [
        ("NODE_STARTED", {}, ORCHESTRATOR, "INFO"),
        ("NODE_STARTED", {"agent": "coder-1"}, {"type": "agent", "id": "coder-1", "role": "agent"}, "INFO"),
        ("NODE_FAILED", {}, ORCHESTRATOR, "ERROR"),
        ("HITL_TASK_COMPLETED", {"completedBy": "ann"}, {"type": "human", "id": "ann", "role": "approver"}, "INFO"),
        ("PLAN_PAUSED", {"operator": "kim"}, {"type": "human", "id": "kim", "role": "operator"}, "INFO"),
        ("PLAN_PAUSED", {"operator": None}, ORCHESTRATOR, "INFO"),
        ("PLAN_CANCEL_REQUESTED", {"operator": "schedule:x"}, {"type": "system", "id": "schedule:x"}, "WARN"),
        (
            "PLAN_PAUSED",
            {"operator": "unauthenticated:ann"},
            {"type": "human", "id": "unauthenticated:ann", "role": "unauthenticated"},
            "INFO",
        ),
        ("PLAN_VALIDATED", {}, {"type": "human", "id": "starter", "role": "operator"}, "INFO"),
        ("CHAIN_GAP", {}, ORCHESTRATOR, "CRITICAL"),
    ],
)
def test_actors_and_levels(kind: str, data: dict[str, Any], actor: Any, level: str) -> None:
    """What is ordinary is not stored; what is stored is what is shown, whatever the rules say later."""
    stored = audit_of(kind, data, "starter", "RUNNING")
    shown = seen(kind, data, stored)
    assert (shown["actor"], shown["level"]) == (actor, level)
    assert bool(stored) == ((actor, level) != (ORCHESTRATOR, "INFO"))
    assert shown["context"] == ({"runStatus": "RUNNING"} if stored else None)
    assert seen(kind, {}, {**stored, "actor": {"type": "agent", "id": "x"}})["actor"]["id"] == "x"


@pytest.mark.parametrize("kind", EventType)
def test_every_type_has_tags_and_a_level(kind: EventType) -> None:
    """Also of events that were written before there was any of this."""
    shown = seen(kind, {"operator": "ann"}, None)
    assert shown["tags"]
    assert shown["level"] in LEVELS
    assert shown["actor"] == {
        "type": "human",
        "id": "ann",
        "role": "approver" if kind.startswith("HITL_") else "operator",
    }
    assert shown["context"] is None
