"""WfFormat (WfCommons): recorded runs of scientific workflows, as plans of sleeps with the recorded run times.

Read are the schemas from 1.5 on (``workflow.specification`` and ``workflow.execution``), and the older ones with
``workflow.tasks``, before 1.3 ``workflow.jobs``, where parents and children may be names. What a task did is not
repeated; how long it took, and after what, is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from dalang.canonical import digest, pointer
from dalang.durations import MAX_DURATION_MS, format_duration
from dalang.errors import InvalidDocument, Problem
from dalang.graph import find_cycle
from dalang.plan import MAX_ID_LENGTH, MAX_NODES

MEBIBYTE = 2**20
MAX_TRAIL = 20
MAX_PROBLEMS = 100
"""After this many the rest is not looked at: one mistake made everywhere need not be told everywhere."""


def import_wfformat(document: Mapping[str, Any], *, time_scale: float = 1.0) -> list[dict[str, Any]]:
    """Return the one plan of a WfFormat instance: a ``sleep`` node per task for its run time times ``time_scale``.

    A task without a run time, and one that took less than half a millisecond after scaling, sleeps ``0s``. Where no
    task says what it comes after, it comes after those that wrote what it reads.

    Raises:
        InvalidDocument: with every problem found, each with a pointer into the instance.
    """
    if isinstance(time_scale, bool) or not isinstance(time_scale, (int, float)) or not 0 <= time_scale < math.inf:
        _refuse("", "BAD_TIME_SCALE", "time_scale is a number, 0 or more.")
    workflow = document.get("workflow") if isinstance(document, Mapping) else None
    if not isinstance(workflow, Mapping):
        _refuse("/workflow", "NOT_WFFORMAT", "A WfFormat instance has an object workflow.")
    split = "specification" in workflow
    named = "jobs" if "jobs" in workflow and "tasks" not in workflow else "tasks"
    base = ("workflow", "specification", "tasks") if split else ("workflow", named)
    specification = workflow.get("specification", workflow)
    tasks = specification.get(base[-1]) if isinstance(specification, Mapping) else None
    if not isinstance(tasks, list) or not tasks:
        _refuse(pointer(*base), "NOT_WFFORMAT", "A WfFormat instance has a list of at least one task here.")
    if len(tasks) > MAX_NODES:
        _refuse(pointer(*base), "TOO_MANY_NODES", f"{len(tasks)} tasks are more than the {MAX_NODES} nodes of a plan.")
    return [_Instance(document, workflow, tasks, base, float(time_scale)).plan()]


class _Instance:
    def __init__(
        self,
        document: Mapping[str, Any],
        workflow: Mapping[str, Any],
        tasks: list[Any],
        base: tuple[str, ...],
        scale: float,
    ) -> None:
        self._document, self._workflow, self._tasks = document, workflow, tasks
        self._base: tuple[str | int, ...] = base
        self._scale = scale
        self._problems: list[Problem] = []
        self._ambiguous: set[str] = set()

    def plan(self) -> dict[str, Any]:
        records = self._records()
        nodes: list[dict[str, Any]] = []
        ids: dict[str, str] = {}
        names: dict[str, list[str]] = {}
        for index, task in enumerate(self._tasks):
            path = (*self._base, index)
            if not isinstance(task, Mapping):
                self._problem(path, "WRONG_TYPE", "A task is an object.")
                continue
            identity = task.get("id", task.get("name"))
            if not isinstance(identity, str) or not identity:
                self._problem(path, "NO_ID", "A task has an id, a text that is not empty.")
                continue
            if identity in ids:
                self._problem((*path, "id"), "DUPLICATE_ID", f"The id {_shown(identity)} is taken by an earlier task.")
                continue
            node_id = ids[identity] = _node_id(identity)
            given = task.get("name")
            name = given if isinstance(given, str) and given else identity
            names.setdefault(name, []).append(node_id)
            record, record_path = records.get(identity, (task, path))
            nodes.append(self._node(node_id, name, {**task, **record}, record_path))
        for identity, (_, path) in records.items():
            if identity not in ids:
                self._problem((*path, "id"), "UNKNOWN_TASK", f"There is no task {_shown(identity)}.")
        aliases = {name: found[0] for name, found in names.items() if len(found) == 1}
        self._ambiguous = {name for name, found in names.items() if len(found) > 1}
        edges = self._edges({**aliases, **ids}) or self._edges_by_files(ids)
        if not self._problems:
            self._look_for_a_cycle([node["nodeId"] for node in nodes], edges)
        if self._problems:
            raise InvalidDocument(self._problems, "import")
        return {**self._head(), "nodes": nodes, "edges": edges}

    def _head(self) -> dict[str, Any]:
        name, description = self._document.get("name"), self._document.get("description")
        head: dict[str, Any] = {"name": name[:500] if isinstance(name, str) and name else "wfformat"}
        if isinstance(description, str) and description:
            head["description"] = description
        metadata: dict[str, Any] = {"importedFrom": "wfformat", "timeScale": self._scale}
        for key in ("schemaVersion", "createdAt"):
            if isinstance(self._document.get(key), str):
                metadata[key] = self._document[key]
        execution = self._workflow.get("execution", self._workflow)
        for key in ("makespan", "makespanInSeconds") if isinstance(execution, Mapping) else ():
            if _is_number(execution.get(key)):
                metadata["makespanInSeconds"] = execution[key]
        head["metadata"] = metadata
        return head

    def _records(self) -> dict[str, tuple[Mapping[str, Any], tuple[str | int, ...]]]:
        """Return what ``execution`` recorded of each task, by the task's id, with the path to it."""
        execution = self._workflow.get("execution")
        tasks = execution.get("tasks") if isinstance(execution, Mapping) else None
        if tasks is None:
            return {}
        base = ("workflow", "execution", "tasks")
        if not isinstance(tasks, list):
            self._problem(base, "WRONG_TYPE", "This is a list of what was recorded of the tasks.")
            return {}
        records: dict[str, tuple[Mapping[str, Any], tuple[str | int, ...]]] = {}
        for index, task in enumerate(tasks):
            if isinstance(task, Mapping) and isinstance(task.get("id"), str):
                if task["id"] in records:
                    message = f"The task {_shown(task['id'])} was recorded before."
                    self._problem((*base, index, "id"), "DUPLICATE_ID", message)
                records[task["id"]] = ({key: value for key, value in task.items() if key != "name"}, (*base, index))
            else:
                self._problem((*base, index), "NO_ID", "A recorded task has the id of the task.")
        return records

    def _node(self, node_id: str, name: str, task: Mapping[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
        duration = format_duration(self._milliseconds(task, path))
        requirements: dict[str, Any] = {"estimatedDuration": duration}
        resources: dict[str, Any] = {}
        cores = self._number(task, ("coreCount", "cores"), path)
        memory = self._number(task, ("memoryInBytes",), path)
        if cores is not None:
            resources["cpuCores"] = cores
        if memory is None and (kilobytes := self._number(task, ("memory",), path)) is not None:
            memory = kilobytes * 1000  # before 1.4
        if memory is not None:
            resources["memoryMb"] = round(memory / MEBIBYTE, 3)
        if resources:
            requirements["resources"] = resources
        return {
            "nodeId": node_id,
            "name": name[:500],
            "type": "sleep",
            "inputs": {"duration": duration},
            "requirements": requirements,
        }

    def _milliseconds(self, task: Mapping[str, Any], path: tuple[str | int, ...]) -> int:
        seconds = self._number(task, ("runtimeInSeconds", "runtime"), path) or 0
        scaled = seconds * 1000 * self._scale
        if scaled > MAX_DURATION_MS:
            self._problem(path, "BAD_RUNTIME", "The task's run time is longer than ten years.")
            return 0
        return round(scaled)

    def _number(self, task: Mapping[str, Any], names: tuple[str, ...], path: tuple[str | int, ...]) -> float | None:
        name = next((name for name in names if task.get(name) is not None), None)
        if name is None:
            return None
        value: Any = task[name]
        if not _is_number(value) or not 0 <= value < math.inf:
            self._problem((*path, name), "BAD_NUMBER", f"{name} is a number, 0 or more; this is {_shown(value)}.")
            return None
        return int(value) if value == int(value) else float(value)

    def _edges(self, ids: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return the union of what parents and children say, in the tasks' order."""
        pairs: dict[tuple[str, str], None] = {}
        for index, task in enumerate(self._tasks):
            if not isinstance(task, Mapping):
                continue
            identity = task.get("id", task.get("name"))
            me = ids.get(identity) if isinstance(identity, str) else None
            for field in ("parents", "children"):
                others = task.get(field) or []
                if not isinstance(others, list):
                    self._problem((*self._base, index, field), "WRONG_TYPE", f"{field} is a list of task ids.")
                    continue
                for position, other in enumerate(others):
                    known = ids.get(other) if isinstance(other, str) else None
                    path = (*self._base, index, field, position)
                    if known is None and isinstance(other, str) and other in self._ambiguous:
                        self._problem(path, "UNKNOWN_TASK", f"Several tasks are called {_shown(other)}; give an id.")
                    elif known is None:
                        self._problem(path, "UNKNOWN_TASK", f"There is no task {_shown(other)}.")
                    elif known == me:
                        self._problem(path, "CYCLE", "The task waits for itself.")
                    elif me is not None:
                        pairs[(known, me) if field == "parents" else (me, known)] = None
        return [{"sourceNodeId": source, "targetNodeId": target} for source, target in pairs]

    def _edges_by_files(self, ids: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return an edge for each file that one task wrote first, and another one reads."""
        written: dict[str, str] = {}
        reads: list[tuple[str, str]] = []
        for task in self._tasks:
            identity = task.get("id", task.get("name")) if isinstance(task, Mapping) else None
            if isinstance(identity, str) and identity in ids:
                for file in _files(task, "outputFiles", "output"):
                    written.setdefault(file, ids[identity])
                reads += [(file, ids[identity]) for file in _files(task, "inputFiles", "input")]
        pairs = dict.fromkeys((written[file], reader) for file, reader in reads if file in written)
        return [{"sourceNodeId": one, "targetNodeId": other} for one, other in pairs if one != other]

    def _look_for_a_cycle(self, nodes: list[str], edges: list[dict[str, Any]]) -> None:
        cycle = find_cycle(nodes, [(edge["sourceNodeId"], edge["targetNodeId"]) for edge in edges])
        if cycle is not None:
            trail = cycle if len(cycle) <= MAX_TRAIL else [*cycle[:MAX_TRAIL], "..."]
            message = f"These tasks wait for each other: {' -> '.join(trail)}."
            self._problem((*self._base, nodes.index(cycle[0])), "CYCLE", message)

    def _problem(self, path: tuple[str | int, ...], code: str, message: str) -> None:
        self._problems.append(Problem(pointer=pointer(*path), code=code, message=message))
        if len(self._problems) >= MAX_PROBLEMS:
            raise InvalidDocument(self._problems, "import")


def _node_id(identity: str) -> str:
    """Return ``identity`` as it is where a plan allows it, else shortened with a digest of the whole."""
    return identity if len(identity) <= MAX_ID_LENGTH else f"{identity[: MAX_ID_LENGTH - 13]}-{digest(identity)[:12]}"


def _files(task: Mapping[str, Any], names: str, link: str) -> list[str]:
    """Return the files a task reads or writes: by id since 1.5, before as objects with a ``link``."""
    given = task.get(names)
    listed = [one for one in given if isinstance(one, str)] if isinstance(given, list) else []
    older = task.get("files")
    for one in older if isinstance(older, list) else ():
        if isinstance(one, Mapping) and one.get("link") == link and isinstance(one.get("name"), str):
            listed.append(one["name"])
    return listed


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _refuse(at: str, code: str, message: str) -> NoReturn:
    raise InvalidDocument([Problem(pointer=at, code=code, message=message)], "import")
