"""A run that tests drive by hand, and short ways to write its plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dalang.compilation import compile_plan
from dalang.events import (
    Begin,
    Event,
    NodeFailed,
    NodeSucceeded,
    Start,
)
from dalang.plan import Plan
from dalang.program import Program
from dalang.run import Run

ABOUT = {"id": "r1"}
TOOL_ERROR = {"type": "TOOL_ERROR", "message": "broken", "attempt": 3}


def node(node_id: str, **more: Any) -> dict[str, Any]:
    return {"nodeId": node_id, "type": "noop", **more}


def edge(source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"edgeId": f"{source}{target}", "sourceNodeId": source, "targetNodeId": target, **more}


def program(nodes: list[dict[str, Any]], edges: list[dict[str, Any]] | None = None, **more: Any) -> Program:
    return Program(compile_plan(Plan.model_validate({"name": "p", "nodes": nodes, "edges": edges or [], **more})))


def last(*names: str) -> dict[str, Any]:
    return {"finally": [node(name) for name in names]}


class Driven:
    """A run that has begun, driven by hand; ``started`` holds the inputs of every node that was started."""

    def __init__(
        self, nodes: list[dict[str, Any]], edges: list[dict[str, Any]] | None = None, *, begin: bool = True, **more: Any
    ) -> None:
        self.inputs = more.pop("run_inputs", {})
        self.run = Run(program(nodes, edges, **more), self.inputs, ABOUT)
        self.started: dict[str, Mapping[str, Any]] = {}
        self.stopped: list[str] = []
        if begin:
            self.do(Begin())

    def do(self, *events: Event) -> Driven:
        for event in events:
            self.run.apply(event, 0)
            self.due()
        return self

    def due(self) -> None:
        for step in self.run.due(0):
            if isinstance(step, Start):
                assert step.node_id not in self.started
                self.started[step.node_id] = step.inputs
            else:
                self.stopped.append(step.node_id)

    def ok(self, node_id: str, **outputs: Any) -> Driven:
        return self.do(NodeSucceeded(node_id, outputs))

    def bad(self, node_id: str, **error: Any) -> Driven:
        return self.do(NodeFailed(node_id, {**TOOL_ERROR, **error}))

    @property
    def statuses(self) -> dict[str, str]:
        return dict(zip(self.run.program.ids, map(str, self.run.statuses), strict=True))

    def status(self, node_id: str) -> str:
        return self.statuses[node_id]

    @property
    def end(self) -> str:
        return str(self.run.status)

    def fact(self, kind: str, node_id: str | None = None) -> Any:
        """Return the only fact of this type about this node."""
        (found,) = [f for f in self.run.facts if f["type"] == kind and f.get("nodeId") == node_id]
        return found

    def reason(self, node_id: str) -> str:
        reason: str = self.fact("NODE_SKIPPED", node_id)["data"]["skipReason"]
        return reason

    def error(self, node_id: str) -> dict[str, Any]:
        kind = "NODE_ERROR" if self.status(node_id) == "ERROR" else "NODE_FAILED"
        error: dict[str, Any] = self.fact(kind, node_id)["body"]["error"]
        return error
