"""Plans in Python: :class:`PlanBuilder` and :class:`NodeBuilder`, the DSL of the Axon seed with what Dalang adds.

.. code-block:: python

    from dalang.builder import NodeBuilder, PlanBuilder, development, testing

    implement = NodeBuilder("Implement API", development(language="python", scope=["src/api"]))
    implement.capability("code-generation").estimated_duration("1h")
    test = NodeBuilder("Write tests", testing(test_type="unit", coverage_threshold=0.8)).capability("testing")
    plan = PlanBuilder("Feature").timeout("3h").task(implement).task(test).depends_on(test, [implement]).build()

Builders change in place and return themselves, so calls can be chained or not. Durations are texts such as ``"90s"`` or
:class:`~datetime.timedelta`; nothing is checked before :meth:`PlanBuilder.build`, which then reports every problem.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, Self, TypeAlias

from dalang.axon import DEFAULT_ESTIMATE, DEFAULT_RESOURCES, TaskType, kebab, slug
from dalang.durations import format_duration
from dalang.errors import ErrorType, InvalidDocument
from dalang.plan import SUCCESS_PORT, BackoffStrategy, FailurePolicy, Implementation, Node, Plan, Port
from dalang.plan_human import OnExpiry
from dalang.plan_planner import Planner
from dalang.plan_undo import Compensate, Compensation

DurationLike: TypeAlias = str | timedelta
"""``"90s"``, ``"2h"``, ISO 8601, or a timedelta."""


def development(*, language: str, scope: Sequence[str]) -> TaskType:
    """Return the task type of writing code in ``language`` within ``scope``, a list of paths."""
    return TaskType("Development", {"language": language, "scope": list(scope)})


def review(*, review_type: str = "comprehensive") -> TaskType:
    """Return the task type of reviewing code."""
    return TaskType("Review", {"review_type": kebab(review_type)})


def testing(*, test_type: str = "unit", coverage_threshold: float = 0.8) -> TaskType:  # noqa: PT028 - no test
    """Return the task type of testing; ``coverage_threshold`` is a part of 1."""
    return TaskType("Testing", {"test_type": kebab(test_type), "coverage_threshold": coverage_threshold})


testing.__test__ = False  # type: ignore[attr-defined]  # pytest would run it in modules that import it


def documentation(*, format: str = "markdown") -> TaskType:
    """Return the task type of writing documentation."""
    return TaskType("Documentation", {"format": kebab(format)})


def refactoring(*, optimization_level: str = "moderate") -> TaskType:
    """Return the task type of changing code without changing what it does."""
    return TaskType("Refactoring", {"optimization_level": kebab(optimization_level)})


def custom(*, handler: str, config: Any = None) -> TaskType:
    """Return the task type of whatever the local agent ``handler`` does with ``config``."""
    return TaskType("Custom", {} if config is None else {"config": config}, handler)


class NodeBuilder:
    """Builds one node of a node type, or of a task type of Axon: an agent node with Axon's defaults."""

    def __init__(self, name: str, type: str | TaskType, *, node_id: str | None = None) -> None:
        """Begin the node called ``name``; without ``node_id`` it is made of the name: ``design_api``."""
        self._id = node_id
        self._name = name
        self._data: dict[str, Any] = {}
        if isinstance(type, TaskType):
            self._data.update(copy.deepcopy(type.node(name)))
            self._requirements["estimatedDuration"] = DEFAULT_ESTIMATE
            self._requirements["resources"] = dict(DEFAULT_RESOURCES)
        else:
            self._data["type"] = type

    @property
    def _requirements(self) -> dict[str, Any]:
        found: dict[str, Any] = self._data.setdefault("requirements", {})
        return found

    @property
    def node_id(self) -> str:
        """The node's id."""
        return self._id if self._id is not None else slug(self._name)

    def capability(self, *names: str) -> Self:
        """Require these capabilities of the agent, besides those required already."""
        self._requirements["capabilities"] = [*self._requirements.get("capabilities", []), *names]
        return self

    def estimated_duration(self, duration: DurationLike) -> Self:
        """Say how long the node usually takes."""
        self._requirements["estimatedDuration"] = _duration(duration)
        return self

    def resources(self, *, cpu_cores: float = 1, memory_mb: float = 512, gpu: float | bool = 0) -> Self:
        """Say what the node takes while it runs; memory in MiB."""
        gpus = int(gpu) if isinstance(gpu, bool) else gpu
        self._requirements["resources"] = {"cpuCores": cpu_cores, "memoryMb": memory_mb, "gpu": gpus}
        return self

    def pool(self, name: str, amount: float = 1, *, key: str | None = None) -> Self:
        """Take ``amount`` of a named pool while the node runs; each ``key``, which may hold ``${...}``, is its own."""
        need: dict[str, Any] = {"amount": amount} if key is None else {"amount": amount, "key": key}
        self._requirements["pools"] = {**self._requirements.get("pools", {}), name: need}
        return self

    def sticky(self) -> Self:
        """Prefer the agent that the run used before, and wait for it while it is there."""
        self._requirements["sticky"] = True
        return self

    def input(self, name: str | Mapping[str, Any], value: Any = None) -> Self:
        """Give the input ``name`` a value, or several inputs theirs by a mapping; ``${...}`` in texts is CEL."""
        given = {name: value} if isinstance(name, str) else dict(name)
        self._data["inputs"] = {**self._data.get("inputs", {}), **given}
        return self

    def description(self, text: str) -> Self:
        """Describe the node for people."""
        self._data["description"] = text
        return self

    def handler(self, name: str) -> Self:
        """Name the registered function of a python node, or the local agent of an agent node."""
        self._data["handler"] = name
        return self

    def priority(self, priority: int | str) -> Self:
        """Serve the node before others that are ready and have a smaller priority."""
        self._data["priority"] = priority
        return self

    def timeout(self, duration: DurationLike) -> Self:
        """Limit one attempt: short for ``timeouts(start_to_close=...)``."""
        return self.timeouts(start_to_close=duration)

    def timeouts(
        self,
        *,
        start_to_close: DurationLike | None = None,
        schedule_to_close: DurationLike | None = None,
        heartbeat: DurationLike | None = None,
    ) -> Self:
        """Limit one attempt, all attempts together, and the silence of a worker."""
        given = {"startToClose": start_to_close, "scheduleToClose": schedule_to_close, "heartbeat": heartbeat}
        found = {name: _duration(value) for name, value in given.items() if value is not None}
        self._data["timeouts"] = {**self._data.get("timeouts", {}), **found}
        return self

    def retry(
        self,
        max_attempts: int | None = None,
        *,
        backoff: BackoffStrategy | str | None = None,
        initial_delay: DurationLike | None = None,
        max_delay: DurationLike | None = None,
        multiplier: float | None = None,
        jitter: bool | None = None,
        on: Iterable[ErrorType | str] | None = None,
    ) -> Self:
        """Repeat failed attempts by this policy; what is not given has the default."""
        policy: dict[str, Any] = {
            "maxAttempts": max_attempts,
            "backoffStrategy": None if backoff is None else str(backoff),
            "initialDelay": None if initial_delay is None else _duration(initial_delay),
            "maxDelay": None if max_delay is None else _duration(max_delay),
            "backoffMultiplier": multiplier,
            "jitter": jitter,
            "retryOn": None if on is None else [str(kind) for kind in on],
        }
        self._data["retryPolicy"] = {name: value for name, value in policy.items() if value is not None}
        return self

    def compensation(self, type: str, **fields: Any) -> Self:
        """Say what undoes the node; ``fields`` are named as in :class:`~dalang.plan_undo.Compensation`."""
        built = Compensation.model_validate({"type": type, **fields})
        self._data["compensation"] = built.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return self

    def evaluator(self) -> Self:
        """Let the node judge what was done: its outputs carry a verdict, pass, replan or fail."""
        self._data["evaluator"] = True
        return self

    def pivot(self) -> Self:
        """Make the node the point of no return."""
        self._data["pivot"] = True
        return self

    def holding(self, field: str, spec: Mapping[str, Any]) -> Self:
        """Say what a plan, map or loop node holds; ``builder_containers`` makes such nodes."""
        self._data[field] = dict(spec)
        return self

    def ask(
        self,
        title: str | None = None,
        *,
        description: str | None = None,
        assignee: str | None = None,
        group: str | None = None,
        candidates: Iterable[str] | None = None,
        form: Mapping[str, Any] | None = None,
        quorum: int | None = None,
        four_eyes: bool | None = None,
        priority: int | str | None = None,
    ) -> Self:
        """Say what a human node asks, and whom; ``form`` is the JSON Schema of the values a decision gives."""
        return self._task(
            title=title,
            description=description,
            assignee=assignee,
            candidateGroup=group,
            candidates=None if candidates is None else list(candidates),
            form=None if form is None else dict(form),
            quorum=quorum,
            fourEyes=four_eyes,
            priority=priority,
        )

    def due(
        self, after: DurationLike, *, reminder: DurationLike | None = None, on_expiry: OnExpiry | str | None = None
    ) -> Self:
        """Limit how long a human node waits; ``reminder`` is the time before that, ``on_expiry`` what follows."""
        return self._task(
            due=_duration(after),
            reminder=None if reminder is None else _duration(reminder),
            onExpiry=None if on_expiry is None else str(on_expiry),
        )

    def escalate(self, group: str, *, after: DurationLike) -> Self:
        """Let another group decide when nobody has for so long."""
        return self._task(escalation={"after": _duration(after), "to": group})

    def _task(self, **given: Any) -> Self:
        found = {name: value for name, value in given.items() if value is not None}
        self._data["task"] = {**self._data.get("task", {}), **found}
        return self

    def callback(self, *, timeout: DurationLike | None = None) -> Self:
        """End the node when somebody calls its callback URL; ``timeout`` is how long that may take."""
        self._data["callback"] = {} if timeout is None else {"timeout": _duration(timeout)}
        return self

    def join(self, join: str) -> Self:
        """Say what the node waits for: allLive, all, any, allDone, or a boolean over edge ids."""
        self._data["join"] = join
        return self

    def input_port(self, name: str, **port: Any) -> Self:
        """Declare an input; ``port`` holds the other fields of :class:`~dalang.plan.Port`: ``type``, ``required``."""
        return self._port("inputs", name, port)

    def output_port(self, name: str, **port: Any) -> Self:
        """Declare an output, as :meth:`input_port` an input."""
        return self._port("outputs", name, port)

    def _port(self, side: str, name: str, port: dict[str, Any]) -> Self:
        data = Port(name=name, **port).model_dump(mode="json", by_alias=True, exclude_defaults=True)
        self._data.setdefault("descriptor", {}).setdefault(side, []).append(data)
        return self

    def implementation(self, type: str, coordinate: str, digest: str | None = None, **more: Any) -> Self:
        """Name the code that carries the node out; ``more`` are ``args`` and ``limits``."""
        given = Implementation(type=type, coordinate=coordinate, digest=digest, **more)
        data = given.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        self._data.setdefault("descriptor", {})["implementation"] = data
        return self

    def metadata(self, **entries: Any) -> Self:
        """Add free entries, which reach the handler."""
        self._data["metadata"] = {**self._data.get("metadata", {}), **entries}
        return self

    def document(self) -> dict[str, Any]:
        """Return the node's wire form as it stands, unchecked."""
        return copy.deepcopy({"nodeId": self.node_id, "name": self._name, **self._data})

    def build(self) -> Node:
        """Return the node.

        Raises:
            pydantic.ValidationError: a field has a wrong value; :meth:`PlanBuilder.build` reports these as problems.
        """
        return Node.model_validate(self.document())


TaskBuilder = NodeBuilder
"""The name that the Axon seed has for it."""
NodeLike: TypeAlias = str | NodeBuilder | Node
"""A node, its builder, or its id."""


class PlanBuilder:
    """Builds a plan."""

    def __init__(self, name: str, *, version: str | None = None) -> None:
        """Begin the plan called ``name``; its version is 1.0.0 unless given."""
        self._head: dict[str, Any] = {"name": name} if version is None else {"name": name, "version": version}
        self._nodes: list[NodeBuilder | Node] = []
        self._finally: list[NodeBuilder | Node] = []
        self._edges: list[dict[str, Any]] = []

    def description(self, text: str) -> Self:
        """Describe the plan for people."""
        return self._set("description", text)

    def priority(self, priority: int | str) -> Self:
        """Serve the runs before others: an integer, larger first, or low, medium, high, critical."""
        return self._set("priority", priority)

    def timeout(self, duration: DurationLike) -> Self:
        """Limit the whole run."""
        return self._set("timeout", _duration(duration))

    def max_retries(self, attempts: int) -> Self:
        """Set the attempts of every node without a retry policy of its own."""
        return self._set("maxRetries", attempts)

    def max_in_flight(self, nodes: int) -> Self:
        """Limit the nodes that run at once; 1 makes the plan sequential."""
        return self._set("maxInFlight", nodes)

    def failure_policy(self, policy: FailurePolicy | Literal["failFast", "continue", "pause", "escalate"]) -> Self:
        """Say what an unhandled failure means for the rest of the run."""
        return self._set("failurePolicy", str(policy))

    def planner(self, type: str = "agent", *, max_replans: int | None = None, **fields: Any) -> Self:
        """Say who changes the plan while it runs; ``fields`` are named as in :class:`~dalang.plan_planner.Planner`."""
        built = Planner.model_validate({"type": type, **fields})
        self._set("planner", built.model_dump(mode="json", by_alias=True, exclude_unset=True))
        return self if max_replans is None else self._set("maxReplans", max_replans)

    def compensate(self, when: Compensate | Literal["onFailure", "onCancel", "always", "never"]) -> Self:
        """Say after which ends of a run its effects are undone; by default after a failure and after a cancel."""
        return self._set("compensate", str(when))

    def budget(
        self,
        *,
        tokens: int | None = None,
        cost: float | None = None,
        nodes: int | None = None,
        wall_time: DurationLike | None = None,
    ) -> Self:
        """Say what the run may use before it is paused until it gets more."""
        limits = {"tokens": tokens, "cost": cost, "nodes": nodes}
        given: dict[str, Any] = {name: limit for name, limit in limits.items() if limit is not None}
        return self._set("budget", given if wall_time is None else {**given, "wallTime": _duration(wall_time)})

    def inputs(self, schema: Mapping[str, Any]) -> Self:
        """Set the JSON Schema of the run's inputs."""
        return self._set("inputs", dict(schema))

    def outputs(self, outputs: Mapping[str, Any]) -> Self:
        """Set the run's outputs; ``${...}`` in texts is CEL."""
        return self._set("outputs", dict(outputs))

    def metadata(self, **entries: Any) -> Self:
        """Add free entries."""
        return self._set("metadata", {**self._head.get("metadata", {}), **entries})

    def _set(self, name: str, value: Any) -> Self:
        self._head[name] = value
        return self

    def task(self, *nodes: NodeBuilder | Node) -> Self:
        """Add nodes."""
        self._nodes.extend(nodes)
        return self

    def node(
        self,
        node_id: str,
        *,
        type: str | TaskType,
        name: str | None = None,
        after: NodeLike | Iterable[NodeLike] = (),
        **fields: Any,
    ) -> Self:
        """Add a node by its fields, named as in :class:`~dalang.plan.Node`: ``inputs``, ``handler``, ``join`` ...

        ``after`` are the nodes it depends on.
        """
        builder = NodeBuilder(name or node_id, type, node_id=node_id)
        known = {field: info.alias or field for field, info in Node.model_fields.items()}
        for field, value in fields.items():
            if field not in known:
                raise TypeError(f"a node has no field {field!r}; it has {', '.join(known)}")
            if field == "inputs":
                builder.input(value)
            else:
                dumped = hasattr(value, "model_dump")
                data = value.model_dump(mode="json", by_alias=True, exclude_defaults=True) if dumped else value
                builder._data[known[field]] = data
        return self.task(builder).depends_on(builder, after)

    def finally_(self, *nodes: NodeBuilder | Node) -> Self:
        """Add nodes that run when the run has otherwise ended, whatever the end."""
        self._finally.extend(nodes)
        return self

    def depends_on(self, task: NodeLike, depends_on: NodeLike | Iterable[NodeLike]) -> Self:
        """Let ``task`` start after each of ``depends_on`` has succeeded, with all their outputs as inputs."""
        sources = [depends_on] if isinstance(depends_on, (str, NodeBuilder, Node)) else list(depends_on)
        for source in sources:
            self.edge(source, task)
        return self

    def edge(
        self,
        source: NodeLike,
        target: NodeLike,
        *,
        port: str = SUCCESS_PORT,
        target_port: str | None = None,
        mapping: Mapping[str, str] | None = None,
        condition: str | None = None,
        edge_id: str | None = None,
    ) -> Self:
        """Add an edge from ``source``'s ``port`` (``success``, ``error`` or an output's key) to ``target``."""
        edge: dict[str, Any] = {"sourceNodeId": _node_id(source), "targetNodeId": _node_id(target)}
        optional = {
            "edgeId": edge_id,
            "sourcePort": None if port == SUCCESS_PORT else port,
            "targetPort": target_port,
            "mapping": None if mapping is None else dict(mapping),
            "condition": condition,
        }
        edge.update({name: value for name, value in optional.items() if value is not None})
        self._edges.append(edge)
        return self

    def document(self) -> dict[str, Any]:
        """Return the plan's wire form as it stands, unchecked."""
        document: dict[str, Any] = {
            **copy.deepcopy(self._head),
            "nodes": [_node_document(node) for node in self._nodes],
        }
        if self._edges:
            document["edges"] = copy.deepcopy(self._edges)
        if self._finally:
            document["finally"] = [_node_document(node) for node in self._finally]
        return document

    def build(self) -> Plan:
        """Return the validated plan.

        Raises:
            InvalidDocument: with every problem, warnings included, if there is at least one error.
        """
        from dalang.validation import validate

        report = validate(self.document())
        plan: Plan | None = report.plan
        if plan is None or any(problem.severity == "error" for problem in report.problems):
            raise InvalidDocument(report.problems)
        return plan


WorkflowBuilder = PlanBuilder
"""The name that the Axon seed has for it."""


def _duration(value: DurationLike) -> str:
    return format_duration(round(value / timedelta(milliseconds=1))) if isinstance(value, timedelta) else value


def _node_id(node: NodeLike) -> str:
    return node if isinstance(node, str) else node.node_id


def _node_document(node: NodeBuilder | Node) -> dict[str, Any]:
    if isinstance(node, NodeBuilder):
        return node.document()
    return node.model_dump(mode="json", by_alias=True, exclude_defaults=True)
