"""What the worker of a node is told: from a step of the state machine to the input of the node's activity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dalang.events import Start
from dalang.program import Program
from dalang.wire import NodeTask, idempotency_key

_COPIED = ("name", "handler", "capabilities", "metadata", "implementation", "resources", "memory", "secrets")


def node_task(
    program: Program, step: Start, run_id: str, tenant_id: str, about: dict[str, Any], key_root: str
) -> NodeTask:
    """Return the input of the activity of a node that begins."""
    node = program.nodes[step.node]
    task: NodeTask = {
        "runId": run_id,
        "tenantId": tenant_id,
        "nodeId": step.node_id,
        "type": step.type,
        "inputs": dict(step.inputs),
        "key": idempotency_key(key_root, step.node_id, 0, step.generation),
        "generation": step.generation,
        "startToCloseMs": node["timeouts"][0],
        "retry": program.retries[node["retry"]],
        "run": about,
    }
    if "compensation" in node:
        task["undoable"] = True
    if "callback" in node:
        task["callback"] = True
    if "evaluator" in node:
        task["evaluator"] = True
    if step.lease is not None or step.attempt > 1:
        task["attempt"] = step.attempt
    if step.agent is not None:
        task["agent"] = step.agent
    take_fields(task, node, _COPIED)
    if step.starts:
        task["starts"] = step.starts
    if step.checkpoint is not None:
        task["checkpoint"] = step.checkpoint
    if step.answer is not None:
        task["answer"] = step.answer
    return task


def take_fields(task: NodeTask, source: Mapping[str, Any], fields: tuple[str, ...]) -> None:
    """Copy those of the fields that are there."""
    for field in fields:
        if field in source:
            task[field] = source[field]  # type: ignore[literal-required]  # the names are those of NodeTask
