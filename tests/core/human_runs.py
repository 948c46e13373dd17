"""Runs with human tasks that tests drive by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dalang.events import (
    AlarmRang,
    Begin,
    Event,
    Start,
    TaskDecided,
)
from dalang.human_task import OpenTask
from dalang.run import Run
from dalang.statuses import ImpossibleMove
from tests.core.driven import edge, node, program

HOUR = 3_600_000
ABOUT = {"id": "7b0c7f04-3a39-4c87-a3f2-3b1c3f3a0a11", "createdBy": "sue"}


def human(node_id: str = "h", *, inputs: dict[str, Any] | None = None, **task: Any) -> dict[str, Any]:
    return {"nodeId": node_id, "type": "human", "inputs": inputs or {}, "task": task}


class Asked:
    """A run that has begun, at a time that the test moves; ``inputs`` are those of every node that was started."""

    def __init__(self, nodes: list[dict[str, Any]], edges: list[dict[str, Any]] | None = None, **more: Any) -> None:
        self.engine = more.pop("engine", 2)
        self.run = Run(program(nodes, edges, **more), {}, ABOUT)
        self.run.engine = self.engine
        self.at = 0
        self.inputs: dict[str, Any] = {}
        self.facts: list[Any] = []
        self.do(Begin())

    def do(self, *events: Event) -> Asked:
        for event in events:
            self.run.apply(event, self.at)
            self._due()
        return self

    def _due(self) -> None:
        for step in self.run.due(self.at):
            if isinstance(step, Start):
                self.inputs[step.node_id] = step.inputs
        self.facts += self.run.facts
        self.run.facts = []
        snapshot = json.loads(json.dumps(self.run.snapshot()))
        self.run = Run.restore(self.run.program, {}, snapshot)
        self.run.engine = self.engine

    def later(self, ms: int) -> Asked:
        """Let time pass, ringing each alarm when it is due."""
        end = self.at + ms
        while (alarm := self.run.next_alarm) is not None and alarm <= end:
            self.at = alarm
            self.do(AlarmRang())
        self.at = end
        return self

    def task(self, node_id: str = "h") -> OpenTask:
        (found,) = [task for task in self.run.tasks.values() if task.node == node_id]
        return found

    def decide(self, action: str, operator: str = "ann", node_id: str = "h", **more: Any) -> Asked:
        return self.do(TaskDecided(self.task(node_id).id, action, operator, **more))

    def refused(self, action: str, operator: str = "ann", node_id: str = "h", **more: Any) -> str:
        return self.refusal(TaskDecided(self.task(node_id).id, action, operator, **more))

    def refusal(self, event: Event) -> str:
        before = json.dumps(self.run.snapshot())
        with pytest.raises(ImpossibleMove) as refusal:
            self.run.apply(event, self.at)
        assert json.dumps(self.run.snapshot()) == before
        assert str(self.run.refusal(event, self.at)) == str(refusal.value)
        return str(refusal.value)

    def status(self, node_id: str = "h") -> str:
        return str(self.run.statuses[self.run.program.index[node_id]])

    def types(self, node_id: str | None = None) -> list[str]:
        return [fact["type"] for fact in self.facts if fact.get("nodeId") == node_id]

    def fact(self, kind: str) -> Any:
        (found,) = [fact for fact in self.facts if fact["type"] == kind]
        return found

    @property
    def end(self) -> str:
        return str(self.run.status)


def review(**task: Any) -> Asked:
    """review(human) -> deploy."""
    return Asked([human(inputs={"what": "1.2"}, **task), node("deploy")], [edge("h", "deploy")])
