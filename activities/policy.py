"""Asking policies before an attempt of a node begins."""

from __future__ import annotations

from typing import Any

from dalang.enforcement import Enforcer
from dalang.nodes import PolicyViolation
from dalang.policies import denied_by
from dalang.wire import NodeTask


async def permit(enforcer: Enforcer, task: NodeTask, attempt: int) -> dict[str, Any] | None:
    """Return what the event tells of the decision, or None where nothing had to be decided.

    Raises:
        PolicyViolation: a rule denies it; nothing has happened yet.
    """
    if not enforcer.active:
        return None
    decision = await enforcer.check_node(subject_of(task, attempt))
    if decision.allowed:
        return decision.data() if decision.rule is not None else None
    raise PolicyViolation(
        denied_by(decision, f"node {task['nodeId']}"),
        details=decision.data(),
        # While the service is away the same question may be answered otherwise later; a plan says so by retryOn.
        retryable=decision.away,
        no_effect=True,
    )


def subject_of(task: NodeTask, attempt: int) -> dict[str, Any]:
    """Return what rules see of a node; ``undo`` says that it is the compensation of the node."""
    run = task["run"]
    return {
        "tenant": task["tenantId"],
        "plan": {"id": run.get("planId"), "name": run.get("plan"), "version": run.get("planVersion")},
        "run": {"id": task["runId"], "priority": run.get("priority"), "metadata": run.get("metadata", {})},
        "node": {
            "id": task["nodeId"],
            "name": task.get("name", task["nodeId"]),
            "type": task["type"],
            "handler": task.get("handler"),
            "agent": task.get("agent"),
            "inputs": task["inputs"],
            "capabilities": task.get("capabilities", []),
            "implementation": task.get("implementation", {}),
            "metadata": task.get("metadata", {}),
            "attempt": attempt,
            "undo": "undoes" in task,
        },
        "inputs": task["inputs"],
        "requester": run.get("createdBy"),
        "roles": [],
    }
