"""Plans that language models made for agents (WorfBench's gold plans): subtasks in words, tools, and an order.

Every subtask becomes an ``agent`` node whose input ``task`` is its text. The results of a node's predecessors reach it
each under the predecessor's nodeId, so that none overwrites another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from dalang.canonical import pointer
from dalang.errors import InvalidDocument, Problem

_RESERVED_INPUTS = frozenset({"task", "goal", "tool"})


def import_agent_plans(
    document: Mapping[str, Any], *, select: str | Iterable[str] | None = None
) -> list[dict[str, Any]]:
    """Return a plan for each task of ``document``, ``{"tasks": [{id, task, nodes, edges, ...}]}``.

    ``select`` is the id, or the ids, of those that are wanted; None stands for all.

    A node that repeats an earlier nodeId is left out and named in the plan's ``metadata.leftOut``: the source has such
    remains of its parsing.

    Raises:
        InvalidDocument: with every problem found; a selected id that is not there is one.
    """
    tasks = document.get("tasks") if isinstance(document, Mapping) else None
    if not isinstance(tasks, list):
        _refuse(
            "/tasks",
            "NOT_AGENT_PLANS",
            "A collection of agent plans has a list tasks; a single one is an element of it.",
        )
    wanted = None if select is None else [select] if isinstance(select, str) else list(select)
    problems: list[Problem] = []
    plans: dict[str, dict[str, Any]] = {}
    for index, task in enumerate(tasks):
        identity = task.get("id") if isinstance(task, Mapping) else None
        if not isinstance(identity, str) or not identity:
            problems.append(_problem(("tasks", index), "NO_ID", "A task is an object with an id, a text."))
        elif identity in plans:
            problems.append(_problem(("tasks", index, "id"), "DUPLICATE_ID", f"The id {identity!r} is taken."))
        elif wanted is None or identity in wanted:
            plans[identity] = _plan(task, index, problems)
    for identity in wanted or ():
        if identity not in plans:
            problems.append(Problem(pointer="/tasks", code="UNKNOWN_TASK", message=f"There is no task {identity!r}."))
    if problems:
        raise InvalidDocument(problems, "import")
    return list(plans.values()) if wanted is None else [plans[identity] for identity in dict.fromkeys(wanted)]


def _plan(task: Mapping[str, Any], index: int, problems: list[Problem]) -> dict[str, Any]:
    goal = task.get("task") if isinstance(task.get("task"), str) else None
    tools = _tool_names(task)
    metadata: dict[str, Any] = {"importedFrom": "agent-plans"}
    for key in ("family", "toolNames"):
        if task.get(key):
            metadata[key] = task[key]
    nodes: dict[str, dict[str, Any]] = {}
    left_out = []
    given = task.get("nodes")
    if not isinstance(given, list) or not given:
        problems.append(_problem(("tasks", index, "nodes"), "NO_NODES", "A plan has a list of at least one node."))
        given = []
    for position, node in enumerate(given):
        node_id = node.get("nodeId") if isinstance(node, Mapping) else None
        text = node.get("name") if isinstance(node, Mapping) else None
        if not isinstance(node_id, str) or not node_id or not isinstance(text, str) or not text:
            where = ("tasks", index, "nodes", position)
            problems.append(_problem(where, "WRONG_TYPE", "A node is an object with the texts nodeId and name."))
        elif node_id in nodes:
            left_out.append({"nodeId": node_id, "name": text})
        else:
            nodes[node_id] = _node(node_id, text, goal, tools)
    if left_out:
        metadata["leftOut"] = left_out
    plan: dict[str, Any] = {"name": task["id"], "metadata": metadata, "nodes": list(nodes.values())}
    if goal:
        plan["description"] = goal
    plan["edges"] = _edges(task.get("edges") or [], nodes, index, problems)
    return plan


def _node(node_id: str, text: str, goal: str | None, tools: list[tuple[str, re.Pattern[str]]]) -> dict[str, Any]:
    inputs: dict[str, Any] = {"task": _literal(text)}
    if goal:
        inputs["goal"] = _literal(goal)
    tool = _named_tool(text, tools)
    if tool is not None:
        inputs["tool"] = tool
    return {"nodeId": node_id, "name": _title(text), "type": "agent", "inputs": inputs}


def _edges(given: Any, nodes: Mapping[str, Any], index: int, problems: list[Problem]) -> list[dict[str, Any]]:
    if not isinstance(given, list):
        problems.append(_problem(("tasks", index, "edges"), "WRONG_TYPE", "edges is a list."))
        return []
    edges: dict[tuple[str, str], dict[str, Any]] = {}
    for position, edge in enumerate(given):
        where = ("tasks", index, "edges", position)
        if not isinstance(edge, Mapping):
            problems.append(_problem(where, "WRONG_TYPE", "An edge is an object with sourceNodeId and targetNodeId."))
            continue
        source, target = edge.get("sourceNodeId"), edge.get("targetNodeId")
        for end in ("sourceNodeId", "targetNodeId"):
            if not isinstance(edge.get(end), str) or edge[end] not in nodes:
                problems.append(_problem((*where, end), "UNKNOWN_NODE", f"There is no node {edge.get(end)!r}."))
        port = f"from_{source}" if source in _RESERVED_INPUTS else source
        edges[str(source), str(target)] = {"sourceNodeId": source, "targetNodeId": target, "targetPort": port}
    return list(edges.values())


def _tool_names(task: Mapping[str, Any]) -> list[tuple[str, re.Pattern[str]]]:
    """Return the tools with a pattern that finds each in a sentence, longest names first; ``Finish`` is no tool."""
    given = task.get("toolNames")
    names = [name for name in given if isinstance(name, str) and name] if isinstance(given, list) else []
    patterns = []
    for name in sorted(dict.fromkeys(names), key=lambda name: (-len(name), name)):
        bare = name.split("(")[0].strip()
        if bare and bare.lower() != "finish":
            words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", bare)
            spelled = r"[\s_\-]*".join(map(re.escape, words)) if len(words) > 1 else re.escape(bare)
            patterns.append((name, re.compile(rf"(?<!\w){spelled}(?!\w)", re.IGNORECASE if len(words) > 1 else 0)))
    return patterns


def _named_tool(text: str, tools: list[tuple[str, re.Pattern[str]]]) -> str | None:
    return next((name for name, pattern in tools if pattern.search(text)), None)


def _literal(text: str) -> str:
    """Return ``text`` as an input that evaluates to it: a ``${`` in it is no expression."""
    return text.replace("${", "$${")


def _title(text: str, limit: int = 80) -> str:
    line = " ".join(text.split())
    if len(line) <= limit:
        return line or "task"
    return line[: limit - 1].rsplit(" ", 1)[0].rstrip(" ,.;:") + "…"


def _problem(path: tuple[str | int, ...], code: str, message: str) -> Problem:
    return Problem(pointer=pointer(*path), code=code, message=message)


def _refuse(at: str, code: str, message: str) -> NoReturn:
    raise InvalidDocument([Problem(pointer=at, code=code, message=message)], "import")
