"""Facts about human tasks, as the workflow numbers them."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid5

from dalang.wire import Fact
from tests.store.world import START, fact


def task_id(run_id: UUID, node: str, number: int = 0) -> UUID:
    """The id of a node's task."""
    return uuid5(run_id, f"{node}:0:{number}")


def happened(seq: int, what: str, run_id: UUID, node: str, now: str, body: Any = None, **data: Any) -> Fact:
    """``HITL_TASK_<what>`` of the first task of ``node``."""
    given = {"task": str(task_id(run_id, node)), "taskStatus": now, **data}
    return fact(seq, f"HITL_TASK_{what}", node, body, **given)


def created(seq: int, run_id: UUID, node: str, body: Any = None, **data: Any) -> Fact:
    """A task that is asked, with everything that can be said about one."""
    said = {
        "kind": "approval",
        "priority": 0,
        "assignee": None,
        "group": None,
        "dueAt": START + 3_600_000,
        "quorum": 1,
        "fourEyes": False,
        "digest": "d" * 64,
        "actions": ["approve", "reject", "edit"],
        "status": "AWAITING_HITL",
        **data,
    }
    shown = {"title": f"Approve {node}", "description": "**Look** at it", "context": {"amount": 17}, **(body or {})}
    return happened(seq, "CREATED", run_id, node, "PENDING", shown, **said)


def completed(seq: int, run_id: UUID, node: str, action: str = "approve", by: str = "bob", **data: Any) -> Fact:
    """A task that was decided."""
    decision = {"action": action, "values": {"ok": True}, "notes": "fine"}
    return happened(
        seq, "COMPLETED", run_id, node, "COMPLETED", {"decision": decision}, action=action, completedBy=by, **data
    )
