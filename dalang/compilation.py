"""From a valid plan to the compact document that the engine runs (:mod:`dalang.program`)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from dalang.errors import ErrorType
from dalang.graph import critical_path
from dalang.implementations import carried_out_as, implementation_document
from dalang.local_execution import is_local, start_to_close_ms
from dalang.nesting import CONTAINER_TYPES, body_plan, is_node
from dalang.plan import (
    Node,
    Plan,
    Port,
    RetryPolicy,
    Timeouts,
    with_derived_ids,
)
from dalang.plan_memory import MemorySpec
from dalang.plan_planner import DEFAULT_MAX_REPLANS, Planner
from dalang.plan_undo import Compensation
from dalang.program import JOIN_WORDS
from dalang.program_columns import packed
from dalang.secret_references import written_places

PROGRAM_VERSION = 1
DEFAULT_MAX_ATTEMPTS = 3
DEFAULT_START_TO_CLOSE_MS = 600_000
DEFAULT_HEARTBEAT_MS = 5_000
MIN_START_TO_CLOSE_MS = 60_000
RETRIED: tuple[ErrorType, ...] = RetryPolicy().retry_on
ALSO_RETRIED: Mapping[str, tuple[ErrorType, ...]] = {"llm": (ErrorType.LLM_ERROR,)}
"""What is worth another attempt by default beside what is for all types: providers of models limit rates."""


def compile_plan(plan: Plan, light: Collection[str] = ()) -> dict[str, Any]:
    """Return the program document of a plan that ``validation.validate`` accepted: plain JSON, defaults resolved.

    ``light`` are the functions that are registered as such: the document says which nodes they make light, so that a
    run never depends on what a worker has registered.
    """
    plan = with_derived_ids(plan)
    nodes = plan.all_nodes()
    index = {node.node_id: number for number, node in enumerate(nodes)}
    retries: dict[str, int] = {}
    retry_documents: list[dict[str, Any]] = []
    node_documents: list[dict[str, Any]] = []
    for node in nodes:
        once = RetryPolicy(max_attempts=1) if node.type in CONTAINER_TYPES else None
        number = _number(node.retry_policy or once, node.type, plan, retries, retry_documents)
        node_document = _node_document(node, number)
        if node.type in CONTAINER_TYPES:
            node_document["container"] = _container_document(plan, node, light)
            if "estimate" not in node_document and (estimate := _estimate(node_document["container"].get("body"))):
                node_document["estimate"] = estimate
        if node.compensation is not None:
            undo = node.compensation
            written = _inputs_of(node) if undo.inputs is None else undo.inputs
            number = _number(undo.retry_policy, undo.type, plan, retries, retry_documents)
            node_document["compensation"] = _compensation_document(undo, number, written)
        if len(node_documents) < len(plan.nodes) and is_local(plan, node, light):
            node_document["light"] = True
            if node.timeouts.start_to_close is None:
                node_document["timeouts"][0] = start_to_close_ms(node, light)
        node_documents.append(node_document)
    document: dict[str, Any] = {
        "v": PROGRAM_VERSION,
        "planId": str(plan.plan_id),
        "name": plan.name,
        "version": plan.version,
        "priority": plan.priority,
        "policy": plan.failure_policy.value,
        "timeout": plan.timeout,
        "maxInFlight": plan.max_in_flight,
        "nodes": node_documents,
        "finally": len(plan.nodes),
        "edges": [
            [
                edge.edge_id,
                index[edge.source_node_id],
                edge.source_port,
                index[edge.target_node_id],
                edge.target_port,
                edge.mapping or None,  # Wayang writes {} where it means that there is none
                edge.condition,
            ]
            for edge in plan.edges
        ],
        "retries": retry_documents,
    }
    if plan.outputs is not None:
        document["outputs"] = plan.outputs
    budget = _budget_document(plan)
    if budget:
        document["budget"] = budget
    if plan.compensate is not None:
        document["compensate"] = plan.compensate.value
    if plan.planner is not None:
        document["planner"] = _planner_document(plan, plan.planner)
        document["maxReplans"] = plan.max_replans or DEFAULT_MAX_REPLANS
    return document


def compile_packed(plan: Plan, light: Collection[str] = ()) -> dict[str, Any]:
    """Return the same in the form that is sent to workers."""
    return packed(compile_plan(plan, light))


def _budget_document(plan: Plan) -> dict[str, Any]:
    """Return the limits of the plan's budget by measure; the time in milliseconds."""
    budget = plan.budget
    if budget is None:
        return {}
    limits = {"tokens": budget.tokens, "cost": budget.cost, "nodes": budget.nodes, "wallTime": budget.wall_time}
    return {measure: limit for measure, limit in limits.items() if limit is not None}


def _number(
    policy: RetryPolicy | None, node_type: str, plan: Plan, numbers: dict[str, int], documents: list[dict[str, Any]]
) -> int:
    """Return the number of a retry policy among ``documents``, each of which stands there once."""
    document = _retry_document(policy, node_type, plan)
    key = repr(sorted(document.items()))
    if key not in numbers:
        numbers[key] = len(documents)
        documents.append(document)
    return numbers[key]


def _node_document(node: Node, retry: int) -> dict[str, Any]:
    resources = node.requirements.resources
    descriptor = node.descriptor
    capabilities = node.requirements.capabilities + (descriptor.capabilities if descriptor else ())
    optional = {
        "name": node.name,
        "handler": node.handler,
        "inputs": node.inputs or None,
        "secrets": written_places(_inputs_of(node)) or None,
        "fallback": node.fallback,
        "task": _task_document(node),
        "interruptible": node.interruptible,
        "callback": {"timeout": node.callback.timeout} if node.callback else None,
        "memory": _memory_document(node.memory),
        "priority": node.priority,
        "pivot": node.pivot or None,
        "evaluator": node.evaluator or None,
        "join": None if node.join == JOIN_WORDS[0] else node.join,
        "estimate": node.requirements.estimated_duration,
        "capabilities": list(dict.fromkeys(capabilities)) or None,
        "resources": resources.model_dump(by_alias=True) if resources else None,
        "pools": {name: [need.amount, need.key] for name, need in node.requirements.pools.items()} or None,
        "sticky": node.requirements.sticky or None,
        "metadata": node.metadata or None,
        "ports": [_port_document(port) for port in descriptor.inputs] if descriptor and descriptor.inputs else None,
        "outputPorts": [_port_document(port) for port in descriptor.outputs]
        if descriptor and descriptor.outputs
        else None,
        "implementation": implementation_document(node),
    }
    document: dict[str, Any] = {"id": node.node_id, "type": carried_out_as(node), "retry": retry}
    document["timeouts"] = _timeouts(node.timeouts, node.requirements.estimated_duration)
    document.update({key: value for key, value in optional.items() if value is not None})
    return document


def _memory_document(memory: MemorySpec | None) -> dict[str, Any] | None:
    if memory is None:
        return None
    document = memory.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return {**document, "episodes": memory.episodes}


def _inputs_of(node: Node) -> dict[str, Any]:
    """Return what the plan itself writes of a node's inputs."""
    ports = node.descriptor.inputs if node.descriptor else ()
    given = node.inputs if isinstance(node.inputs, Mapping) else {}
    return {**{port.name: port.default_value for port in ports}, **given}


def _compensation_document(undo: Compensation, retry: int, written: Mapping[str, Any]) -> dict[str, Any]:
    optional = {
        "handler": undo.handler,
        "inputs": undo.inputs,
        "capabilities": list(undo.capabilities) or None,
        "secrets": written_places(written) or None,
    }
    document = {"type": undo.type, "retry": retry, "timeouts": _timeouts(undo.timeouts, None)}
    return {**document, **{key: value for key, value in optional.items() if value is not None}}


def _planner_document(plan: Plan, planner: Planner) -> dict[str, Any]:
    optional = {
        "handler": planner.handler,
        "capabilities": list(planner.capabilities) or None,
        "secrets": written_places(planner.inputs) or None,
    }
    document = {
        "type": planner.type,
        "inputs": planner.inputs,
        "retry": _retry_document(planner.retry_policy, planner.type, plan),
        "timeouts": _timeouts(planner.timeouts, None),
    }
    return {**document, **{key: value for key, value in optional.items() if value is not None}}


def _container_document(plan: Plan, node: Node, light: Collection[str]) -> dict[str, Any]:
    """Return what a container needs to start what is in it; without ``body`` when a stored plan was not looked up."""
    document: dict[str, Any] = {}
    inner = body_plan(plan, node)
    if inner is not None:
        body = compile_plan(inner, light)
        if node.loop is not None and is_node(node.loop.body):
            body["outputs"] = f"${{nodes[{json.dumps(inner.nodes[0].node_id)}].outputs}}"
        if node.map is not None and not is_node(node.map.body):
            body["nodes"][0]["inputs"] = "${inputs}"  # what the element is given is what its plan is given
        schema = {} if inner.inputs is None else {"schema": inner.inputs}
        document = {"digest": inner.digest(), "body": body, **schema}
    if node.map is not None:
        document["items"] = node.map.items
        document["maxConcurrency"] = node.map.max_concurrency
        document["tolerated"] = node.map.tolerated_failures
    elif node.loop is not None:
        document["until"] = node.loop.until
        document["maxIterations"] = node.loop.max_iterations
    return document


def _task_document(node: Node) -> dict[str, Any] | None:
    task = node.task
    if task is None:
        return None
    document = task.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    # A plan writes durations as texts; the state machine adds them to times.
    document.update({name: value for name in ("due", "reminder") if (value := getattr(task, name)) is not None})
    if task.escalation is not None:
        document["escalation"] = {"after": task.escalation.after, "to": task.escalation.to}
    return document or None


def _estimate(body: Mapping[str, Any] | None) -> int:
    """Return how long a body takes at least, once: its longest chain of estimates."""
    if body is None:
        return 0
    numbers = range(body["finally"])
    edges = [(edge[1], edge[3]) for edge in body["edges"] if edge[1] in numbers]
    return round(critical_path(numbers, edges, lambda number: body["nodes"][number].get("estimate") or 0).length)


def _timeouts(timeouts: Timeouts, estimate: int | None) -> list[int | None]:
    # Twice the estimate is the seed's rule; a floor keeps an optimistic estimate of a second from killing real work.
    default = max(2 * estimate, MIN_START_TO_CLOSE_MS) if estimate else DEFAULT_START_TO_CLOSE_MS
    start = timeouts.start_to_close if timeouts.start_to_close is not None else default
    return [start, timeouts.schedule_to_close, timeouts.heartbeat or DEFAULT_HEARTBEAT_MS]


def _port_document(port: Port) -> list[Any]:
    return [port.name, port.required, port.default_value]


def _retry_document(given: RetryPolicy | None, node_type: str, plan: Plan) -> dict[str, Any]:
    policy = given or RetryPolicy(max_attempts=plan.max_retries or DEFAULT_MAX_ATTEMPTS)
    also = ALSO_RETRIED.get(node_type, ()) if policy.retry_on == RETRIED else ()
    return {
        "attempts": policy.max_attempts,
        "strategy": policy.backoff_strategy.value,
        "delay": policy.initial_delay,
        "maxDelay": policy.max_delay,
        "multiplier": policy.backoff_multiplier,
        "jitter": policy.jitter,
        "retryOn": [error.value for error in (*policy.retry_on, *also)],
    }
