"""The program: a validated plan in the compact form that the engine runs.

A plan's pydantic models are for people; parsing 100,000 nodes takes seconds, far longer than a workflow task may.
:func:`compile_plan` turns a *valid* plan into plain lists once, at the API; the workflow is given that document and
:class:`Program` only indexes it. Everything here is a pure function of the document: the same bytes give the
same program in every process, so a worker may keep programs by digest.

Nodes and edges are numbered in plan order (``finally`` nodes after the others); the engine works on these numbers.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock
from typing import Any

from dalang.errors import ErrorType
from dalang.expressions import Expression
from dalang.expressions import compile as compile_expression
from dalang.graph import critical_path
from dalang.implementations import carried_out_as, implementation_document
from dalang.joins import JoinExpression, parse_join
from dalang.nesting import CONTAINER_TYPES, body_plan, is_node
from dalang.plan import (
    ERROR_PORT,
    REJECTED_PORT,
    SUCCESS_PORT,
    Node,
    Plan,
    Port,
    RetryPolicy,
    Timeouts,
    with_derived_ids,
)
from dalang.plan_containers import MAX_ELEMENTS
from dalang.plan_memory import MemorySpec
from dalang.plan_planner import DEFAULT_MAX_REPLANS, Planner
from dalang.plan_undo import Compensation
from dalang.secret_references import written_places
from dalang.templates import Template, compile_template

PROGRAM_VERSION = 1
DEFAULT_MAX_ATTEMPTS = 3
DEFAULT_START_TO_CLOSE_MS = 600_000
DEFAULT_HEARTBEAT_MS = 5_000
MIN_START_TO_CLOSE_MS = 60_000
RETRIED: tuple[ErrorType, ...] = RetryPolicy().retry_on
ALSO_RETRIED: Mapping[str, tuple[ErrorType, ...]] = {"llm": (ErrorType.LLM_ERROR,)}
"""What is worth another attempt by default beside what is for all types: providers of models limit rates."""

TASK_TEXTS = ("title", "description", "assignee", "candidateGroup")
"""Fields of a human node's task that are templates."""

WAITING_TYPES = frozenset({"sleep", "timer", "event", "human", "plan", "map", "loop"})
"""Node types without a handler: they wait, or are runs of their own."""
DRAINED_TYPES = WAITING_TYPES.union(
    ("noop", "http", "callback", "a2a", "mcp", "llm", "wasm", "container", "runtime-hub", "evaluator", "planner")
)
"""Node types that a pause lets end: their effect may be under way where nothing can stop it, they only wait, or they
are runs that are paused themselves. All others are functions in a worker, which are told."""

JOIN_WORDS = ("allLive", "all", "any", "allDone")


def compile_plan(plan: Plan) -> dict[str, Any]:
    """Return the program document of a plan that ``validation.validate`` accepted: plain JSON, defaults resolved."""
    plan = with_derived_ids(plan)
    nodes = plan.all_nodes()
    index = {node.node_id: number for number, node in enumerate(nodes)}
    retries: dict[str, int] = {}
    retry_documents: list[dict[str, Any]] = []
    node_documents = []
    for node in nodes:
        once = RetryPolicy(max_attempts=1) if node.type in CONTAINER_TYPES else None
        number = _number(node.retry_policy or once, node.type, plan, retries, retry_documents)
        node_document = _node_document(node, number)
        if node.type in CONTAINER_TYPES:
            node_document["container"] = _container_document(plan, node)
            if "estimate" not in node_document and (estimate := _estimate(node_document["container"].get("body"))):
                node_document["estimate"] = estimate
        if node.compensation is not None:
            undo = node.compensation
            written = _inputs_of(node) if undo.inputs is None else undo.inputs
            number = _number(undo.retry_policy, undo.type, plan, retries, retry_documents)
            node_document["compensation"] = _compensation_document(undo, number, written)
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


def _container_document(plan: Plan, node: Node) -> dict[str, Any]:
    """Return what a container needs to start what is in it; without ``body`` when a stored plan was not looked up."""
    document: dict[str, Any] = {}
    inner = body_plan(plan, node)
    if inner is not None:
        body = compile_plan(inner)
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


class Program:
    """An indexed program document: everything the state machine asks about a plan, in constant time.

    ``ids`` and ``types`` go by node number; ``edges_out``, ``edges_in`` hold edge numbers in plan order. ``reads`` of a
    node are the nodes whose outputs its start may read, ``edge_reads`` the same for an edge's condition, ``kept`` the
    nodes whose outputs the end of the run or an undo reads: an output is held only as long as something may still read
    it. ``compensations`` go by the node that is undone.
    """

    def __init__(self, document: Mapping[str, Any], digest: str = "") -> None:
        self.document = document
        self.digest = digest
        self.repeat: int | None = document.get("repeat")
        """How many elements a map's run has: its one node stands for all, which are called "0", "1" and so on."""
        self.nodes: list[dict[str, Any]] = document["nodes"] if self.repeat is None else repeated(document)
        self.retries: list[dict[str, Any]] = document["retries"]
        self.policy: str = document["policy"]
        self.priority: int = document["priority"]
        self.max_in_flight: int | None = document["maxInFlight"]
        self.timeout_ms: int | None = document["timeout"]
        self.planner: dict[str, Any] | None = document.get("planner")
        self.first_finally: int = document["finally"] if self.repeat is None else self.repeat
        self.ids: list[str] = _ids(self.nodes, self.repeat)
        self.types: list[str] = [node["type"] for node in self.nodes]
        self.index: dict[str, int] = {node_id: number for number, node_id in enumerate(self.ids)}
        self._index_edges(document["edges"])
        self.joins: list[str] = [node.get("join", "allLive") for node in self.nodes]
        self.ranks = self._remaining_work()
        self._templates: dict[int, Template | None] = {}
        self._items_templates: dict[int, Template | None] = {}
        self._task_templates: dict[int, Template | None] = {}
        self._join_expressions: dict[int, JoinExpression | None] = {}
        self._index_reads()

    def _index_edges(self, edges: list[list[Any]]) -> None:
        count = len(self.nodes)
        self.edge_ids: list[str] = [edge[0] for edge in edges]
        self.sources: list[int] = [edge[1] for edge in edges]
        self.ports: list[str] = [edge[2] for edge in edges]
        self.targets: list[int] = [edge[3] for edge in edges]
        self.target_ports: list[str | None] = [edge[4] for edge in edges]
        self.mappings: list[dict[str, str] | None] = [edge[5] for edge in edges]
        self.conditions: list[str | None] = [edge[6] for edge in edges]
        self.edges_out: list[list[int]] = [[] for _ in range(count)]
        self.edges_in: list[list[int]] = [[] for _ in range(count)]
        for number, (source, target) in enumerate(zip(self.sources, self.targets, strict=True)):
            self.edges_out[source].append(number)
            self.edges_in[target].append(number)

    def _remaining_work(self) -> list[int]:
        """Return, by node, the longest path of estimated work from it to an end: the order when slots are scarce."""
        waiting = [len(edges) for edges in self.edges_out]
        ranks = [max(node.get("estimate") or 0, 1) for node in self.nodes]
        longest = [0] * len(ranks)
        ready = [number for number, count in enumerate(waiting) if count == 0]
        while ready:
            node = ready.pop()
            ranks[node] += longest[node]
            for edge in self.edges_in[node]:
                source = self.sources[edge]
                longest[source] = max(longest[source], ranks[node])
                waiting[source] -= 1
                if waiting[source] == 0:
                    ready.append(source)
        return ranks

    def _index_reads(self) -> None:
        self.reads: list[tuple[int, ...]] = []
        self.input_references: dict[int, tuple[str, ...]] = {}
        for number, incoming in enumerate(self.edges_in):
            needed = dict.fromkeys(self.sources[edge] for edge in incoming)
            templates = (
                self.inputs_template(number),
                self.items_template(number),
                self.task_template(number),
                self.keys_template(number),
            )
            names = tuple(dict.fromkeys(name for one in templates if one is not None for name in _references(one)))
            if names:
                self.input_references[number] = names
                needed.update(dict.fromkeys(self.index[name] for name in names))
            self.reads.append(tuple(needed))
        self.edge_reads: dict[int, tuple[int, ...]] = {}
        for edge, condition in enumerate(self.conditions):
            if condition is not None:
                references = tuple(self.index[name] for name in compile_expression(condition).references)
                if references:
                    self.edge_reads[edge] = references
        self.compensations: dict[int, dict[str, Any]] = {
            number: node["compensation"] for number, node in enumerate(self.nodes) if "compensation" in node
        }
        self.pivots = tuple(number for number, node in enumerate(self.nodes) if node.get("pivot"))
        self.outputs_template = compile_template(self.document.get("outputs"))
        self.output_references = _references(self.outputs_template) if self.outputs_template else ()
        if self.repeat is not None:
            self.kept: tuple[int, ...] = tuple(range(self.repeat))
            return
        undo_templates = [compile_template(undo.get("inputs")) for undo in self.compensations.values()]
        undo_references = [name for template in undo_templates if template for name in _references(template)]
        self.kept = tuple(self.index[name] for name in dict.fromkeys((*self.output_references, *undo_references)))

    def inputs_template(self, node: int) -> Template | None:
        """Return the compiled ``inputs`` of a node, or None when they hold no expression."""
        node = 0 if self.repeat is not None else node
        if node not in self._templates:
            self._templates[node] = compile_template(self.nodes[node].get("inputs"))
        return self._templates[node]

    def container(self, node: int) -> dict[str, Any] | None:
        """Return what a node of type plan, map or loop runs, or None for another node."""
        found: dict[str, Any] | None = self.nodes[node].get("container")
        return found

    def items_template(self, node: int) -> Template | None:
        """Return the compiled ``items`` of a map, or None when they hold no expression."""
        container = self.container(node)
        if container is None or "items" not in container:
            return None
        node = 0 if self.repeat is not None else node
        if node not in self._items_templates:
            self._items_templates[node] = compile_template(container["items"])
        return self._items_templates[node]

    def task_template(self, node: int) -> Template | None:
        """Return the compiled texts of a human node's task, or None when they hold no expression."""
        task = self.nodes[node].get("task")
        if task is None:
            return None
        node = 0 if self.repeat is not None else node
        if node not in self._task_templates:
            self._task_templates[node] = compile_template({key: task[key] for key in TASK_TEXTS if key in task})
        return self._task_templates[node]

    def keys_template(self, node: int) -> Template | None:
        """Return the compiled keys of the pools that a node asks for, or None when they hold no expression."""
        pools = self.nodes[node].get("pools")
        if pools is None:
            return None
        return compile_template({name: key for name, (_, key) in pools.items() if key is not None})

    def condition(self, edge: int) -> Expression | None:
        """Return the compiled condition of an edge, or None."""
        source = self.conditions[edge]
        return None if source is None else compile_expression(source)

    def join_expression(self, node: int) -> JoinExpression | None:
        """Return the boolean join of a node, or None when its join is one of the words."""
        if node not in self._join_expressions:
            join = self.joins[node]
            self._join_expressions[node] = None if join in JOIN_WORDS else parse_join(join)
        return self._join_expressions[node]

    def is_interruptible(self, node: int) -> bool:
        """Tell whether a pause that interrupts may stop the node: as it says, else by its type.

        The run below a container is told itself: stopped it would have ended. What asks for a callback is not asked
        twice: the answer to the first question may come at any time.
        """
        if self.container(node) is not None or "callback" in self.nodes[node]:
            return False
        said: bool | None = self.nodes[node].get("interruptible")
        return self.types[node] not in DRAINED_TYPES if said is None else said

    def node_priority(self, node: int) -> int:
        """Return the node's own priority, or the plan's."""
        own = self.nodes[node].get("priority")
        return self.priority if own is None else own

    def is_success_port(self, edge: int) -> bool:
        """Tell whether the edge leaves by ``success``, which carries all outputs."""
        return self.ports[edge] == SUCCESS_PORT

    def is_rejected_port(self, edge: int) -> bool:
        """Tell whether the edge leaves a human node by ``rejected``, which carries all outputs."""
        return self.ports[edge] == REJECTED_PORT and self.types[self.sources[edge]] == "human"

    def is_error_port(self, edge: int) -> bool:
        """Tell whether the edge leaves by ``error``."""
        return self.ports[edge] == ERROR_PORT


def repeated(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes of a map's program: one and the same for every element.

    Raises:
        ValueError: the document is no such program.
    """
    count, nodes = document["repeat"], document["nodes"]
    if not isinstance(count, int) or not 0 <= count <= MAX_ELEMENTS or len(nodes) != 1 or document["edges"]:
        raise ValueError("a program is repeated when it has one node")
    return [nodes[0]] * count


def _ids(nodes: list[dict[str, Any]], repeat: int | None) -> list[str]:
    return [node["id"] for node in nodes] if repeat is None else [str(number) for number in range(repeat)]


def _references(template: Template) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for _, expression in template.expressions for name in expression.references))


class ProgramCache:
    """Programs by plan digest, least recently used dropped: compiling again gives the same, so it is only memory."""

    def __init__(self, max_nodes: int = 500_000) -> None:
        self._programs: OrderedDict[str, Program] = OrderedDict()
        self._max_nodes = max_nodes
        self._nodes = 0
        self._lock = Lock()  # workflow tasks of several runs are worked on in several threads

    def get(self, digest: str, document: Mapping[str, Any]) -> Program:
        """Return the program with this digest, indexing ``document`` when it is not held yet."""
        with self._lock:
            program = self._programs.get(digest)
            if program is not None:
                self._programs.move_to_end(digest)
                return program
            program = self._programs[digest] = Program(document, digest)
            self._nodes += len(program.nodes)
            while self._nodes > self._max_nodes and len(self._programs) > 1:
                _, dropped = self._programs.popitem(last=False)
                self._nodes -= len(dropped.nodes)
            return program
