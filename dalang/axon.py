"""The task types of the Axon seed, and its ``tasks`` + ``dependencies`` form of a workflow, as plans of agent nodes.

A task type's parameters become inputs of an ``agent`` node, next to ``task``, which says in words what is to be done.
The names of serde's enums, in whatever case (``CodeGeneration``, ``code_generation``), become lower case with hyphens.
Texts may hold ``${...}``, as in a plan.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dalang.canonical import pointer
from dalang.durations import MAX_DURATION_MS, format_duration, parse_duration
from dalang.errors import InvalidDocument, Problem

DEFAULT_ESTIMATE = "5m"
DEFAULT_TIMEOUT = "1h"
DEFAULT_RESOURCES: Mapping[str, float] = {"cpuCores": 1, "memoryMb": 512, "gpu": 0}

TASK_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "Development": ("language", "scope"),
    "Review": ("review_type",),
    "Testing": ("test_type", "coverage_threshold"),
    "Documentation": ("format",),
    "Refactoring": ("optimization_level",),
    "Custom": ("handler", "config"),
}
"""The task types of Axon and the parameters of each."""
_ENUM_PARAMETERS = frozenset({"review_type", "test_type", "format", "optimization_level"})


@dataclass(frozen=True)
class TaskType:
    """One task type of Axon with its parameters: what an agent node's ``handler``, ``inputs`` and ``metadata`` say."""

    name: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    handler: str | None = None

    def node(self, name: str, inputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the type-dependent fields of a node that is called ``name`` and has ``inputs`` of its own."""
        node: dict[str, Any] = {"type": "agent"}
        if self.handler is not None:
            node["handler"] = self.handler
        node["inputs"] = {"task": name, **self.inputs, **(inputs or {})}
        node["metadata"] = {"taskType": self.name}
        return node


def kebab(text: str) -> str:
    """Return an enum's name in lower case with hyphens: ``CodeGeneration`` and ``code_generation`` are one."""
    hyphened = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_\s]+", "-", text.strip())
    return hyphened.lower()


def slug(text: str, taken: Iterable[str] = ()) -> str:
    """Return an identifier made of ``text`` that is not in ``taken``: ``Design API`` gives ``design_api``."""
    base = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:60] or "task"
    base = f"_{base}" if base[0].isdigit() else base
    name, count, used = base, 1, set(taken)
    while name in used:
        count += 1
        name = f"{base}_{count}"
    return name


def from_axon(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return an Axon workflow as a plan's wire form.

    ``dependencies`` maps a task to those it depends on. Defaults are Axon's: 300 s, 1 core and 512 MB a task, 3600 s
    a workflow.

    Raises:
        InvalidDocument: with every problem found: unknown task types and tasks, no capability, 0 cores, wrong values.
    """
    return _Conversion(document).plan()


class _Conversion:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._problems: list[Problem] = []

    def plan(self) -> dict[str, Any]:
        document = self._document
        metadata = _get(document, "metadata", {})
        metadata = dict(metadata) if isinstance(metadata, Mapping) else {}
        plan: dict[str, Any] = {"name": _get(document, "name", "workflow")}
        self._identity(plan, metadata)
        if _get(document, "description"):
            plan["description"] = document["description"]
        for name in ("version", "tenant_id"):
            if _get(document, name) is not None:
                plan["version" if name == "version" else "tenantId"] = _get(document, name)
        settings = {**{key: metadata.pop(key) for key in _SETTINGS & set(metadata)}, **_only(document, _SETTINGS)}
        if _get(settings, "priority") is not None:
            plan["priority"] = _get(settings, "priority")
        plan["timeout"] = self._duration(_get(settings, "timeout"), DEFAULT_TIMEOUT, ("metadata", "timeout"))
        retries = _get(settings, "max_retries")
        if retries is not None:
            plan["maxRetries"] = 1 if retries == 0 and not isinstance(retries, bool) else retries
        if metadata:
            plan["metadata"] = metadata
        plan["nodes"], names = self._nodes()
        plan["edges"] = self._edges(names)
        if self._problems:
            raise InvalidDocument(self._problems)
        return plan

    def _identity(self, plan: dict[str, Any], metadata: dict[str, Any]) -> None:
        identity = _get(self._document, "id")
        if identity is None:
            return
        try:
            plan["planId"] = str(uuid.UUID(str(identity)))
        except ValueError:
            metadata["workflowId"] = identity

    def _nodes(self) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Return the nodes and, for the dependencies, every name of a task that is unmistakable with its nodeId."""
        tasks = self._document["tasks"]
        if isinstance(tasks, Mapping):
            tasks = [{"id": key, **task} if isinstance(task, Mapping) else task for key, task in tasks.items()]
        if not isinstance(tasks, list):
            self._problem(("tasks",), "WRONG_TYPE", "tasks is a list of tasks.")
            return [], {}
        nodes: list[dict[str, Any]] = []
        objects = [task for task in tasks if isinstance(task, Mapping)]
        taken: set[str] = {str(task["id"]) for task in objects if task.get("id") is not None}
        by_name: dict[str, list[str]] = {}
        for index, task in enumerate(tasks):
            if not isinstance(task, Mapping):
                self._problem(("tasks", index), "WRONG_TYPE", "A task is an object.")
                continue
            name = str(_get(task, "name") or _get(task, "id") or f"task {index + 1}")
            node_id = str(task["id"]) if task.get("id") is not None else slug(name, taken)
            taken.add(node_id)
            by_name.setdefault(name, []).append(node_id)
            nodes.append(self._node(index, task, node_id, name))
        names = {name: ids[0] for name, ids in by_name.items() if len(ids) == 1}
        return nodes, names | {node["nodeId"]: node["nodeId"] for node in nodes}

    def _node(self, index: int, task: Mapping[str, Any], node_id: str, name: str) -> dict[str, Any]:
        path = ("tasks", index)
        given = _get(task, "input", _get(task, "inputs", {})) or {}
        if not isinstance(given, Mapping):
            given = {"input": given}
        task_type = self._task_type(_get(task, "task_type", _get(task, "type")), task, (*path, "task_type"))
        node = {"nodeId": node_id, "name": name, **task_type.node(name, given)}
        if _get(task, "description"):
            node["description"] = task["description"]
        if _get(task, "priority") is not None:
            node["priority"] = task["priority"]
        if isinstance(_get(task, "metadata"), Mapping):
            node["metadata"] = {**task["metadata"], **node["metadata"]}
        node["requirements"] = self._requirements(_get(task, "requirements", {}), (*path, "requirements"))
        return node

    def _task_type(self, given: Any, task: Mapping[str, Any], path: tuple[str | int, ...]) -> TaskType:
        """Read serde's external tag ``{"Review": {...}}``, its internal ``{"type": "Review"}``, a bare name."""
        if isinstance(given, Mapping) and len(given) == 1 and "type" not in given:
            tag, parameters = next(iter(given.items()))
        elif isinstance(given, Mapping):
            tag, parameters = given.get("type"), {key: value for key, value in given.items() if key != "type"}
            parameters = parameters.get("content", parameters)
        else:
            tag, parameters = given, task
        name = next((name for name in TASK_PARAMETERS if isinstance(tag, str) and kebab(tag) == kebab(name)), None)
        if name is None:
            known = ", ".join(TASK_PARAMETERS)
            self._problem(path, "UNKNOWN_TASK_TYPE", f"{_short(tag)} is no task type; known are {known}.")
            return TaskType("Custom")
        parameters = parameters if isinstance(parameters, Mapping) else {}
        inputs: dict[str, Any] = {}
        for parameter in TASK_PARAMETERS[name]:
            value = _get(parameters, parameter)
            if value is not None:
                inputs[parameter] = kebab(value) if parameter in _ENUM_PARAMETERS and isinstance(value, str) else value
        handler = inputs.pop("handler", None)
        if name == "Custom" and not (isinstance(handler, str) and handler):
            self._problem(path, "MISSING_HANDLER", "A Custom task names its handler.")
        return TaskType(name, inputs, handler if isinstance(handler, str) else None)

    def _requirements(self, given: Any, path: tuple[str | int, ...]) -> dict[str, Any]:
        if not isinstance(given, Mapping):
            self._problem(path, "WRONG_TYPE", "requirements is an object.")
            return {}
        capabilities = _get(given, "capabilities", [])
        if not isinstance(capabilities, list) or not all(_capability(item) for item in capabilities):
            self._problem((*path, "capabilities"), "WRONG_TYPE", "capabilities is a list of names.")
            capabilities = []
        elif not capabilities:
            message = "A task needs at least one capability in this form."
            self._problem((*path, "capabilities"), "NO_CAPABILITIES", message)
        resources = _get(given, "resources", {}) or {}
        resources = resources if isinstance(resources, Mapping) else {}
        cores = _get(resources, "cpu_cores", DEFAULT_RESOURCES["cpuCores"])
        if cores == 0:
            self._problem((*path, "resources", "cpu_cores"), "NO_CORES", "A task needs more than 0 cores in this form.")
        gpu = _get(resources, "gpu_required", _get(resources, "gpu", 0))
        return {
            "capabilities": [_capability(item) for item in capabilities],
            "estimatedDuration": self._duration(
                _get(given, "estimated_duration"), DEFAULT_ESTIMATE, (*path, "estimated_duration")
            ),
            "resources": {
                "cpuCores": cores,
                "memoryMb": _get(resources, "memory_mb", DEFAULT_RESOURCES["memoryMb"]),
                "gpu": int(gpu) if isinstance(gpu, bool) else gpu,
            },
        }

    def _edges(self, names: Mapping[str, str]) -> list[dict[str, Any]]:
        dependencies = _get(self._document, "dependencies", {}) or {}
        if not isinstance(dependencies, Mapping):
            self._problem(("dependencies",), "WRONG_TYPE", "dependencies maps a task to a list of those it depends on.")
            return []
        edges: dict[tuple[str, str], dict[str, Any]] = {}
        for target, sources in dependencies.items():
            if target not in names:
                self._problem(("dependencies", target), "UNKNOWN_TASK", f"There is no task {_short(target)}.")
            if not isinstance(sources, list):
                self._problem(("dependencies", target), "WRONG_TYPE", "This is a list of the tasks it depends on.")
                continue
            for index, source in enumerate(sources):
                if str(source) not in names:
                    path = ("dependencies", target, index)
                    message = f"{_short(target)} depends on {_short(source)}, which is no task."
                    self._problem(path, "UNKNOWN_TASK", message)
                elif target in names:
                    pair = names[str(source)], names[target]
                    edges[pair] = {"sourceNodeId": pair[0], "targetNodeId": pair[1]}
        return list(edges.values())

    def _duration(self, value: Any, default: str, path: tuple[str | int, ...]) -> str:
        """Read serde's ``{secs, nanos}``, a number of seconds, or a duration's text."""
        if value is None:
            return default
        try:
            if isinstance(value, Mapping):
                value = value["secs"] + value.get("nanos", 0) / 1e9
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                if not (math.isfinite(value) and 0 <= value * 1000 <= MAX_DURATION_MS):
                    raise ValueError("it is negative or longer than ten years")
                return format_duration(round(value * 1000))
            return format_duration(parse_duration(value))
        except (ValueError, KeyError, TypeError):
            message = "A duration here is a number of seconds, {secs, nanos}, or a text such as 90s; at most ten years."
            self._problem(path, "BAD_DURATION", message)
            return default

    def _problem(self, path: tuple[str | int, ...], code: str, message: str) -> None:
        self._problems.append(Problem(pointer=pointer(*path), code=code, message=message))


_SETTINGS = frozenset({"priority", "timeout", "max_retries", "maxRetries"})


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _get(data: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """Return the field ``name``, given in snake case, in either of serde's usual spellings."""
    value = data.get(name)
    if value is None:
        value = data.get(_camel(name))
    return default if value is None else value


def _only(data: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: data[name] for name in names if data.get(name) is not None}


def _capability(item: Any) -> str | None:
    """Return a capability's name; ``{"Custom": "x"}`` is a serde variant that carries it."""
    if isinstance(item, Mapping) and len(item) == 1:
        item = next(iter(item.values()))
    return kebab(item) if isinstance(item, str) and item.strip() else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
