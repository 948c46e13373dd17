"""Random plans with people in them, who decide, claim, are late, or never come: no task is lost, no run hangs."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dalang.compilation import compile_plan
from dalang.events import (
    AlarmRang,
    Begin,
    CancelRequested,
    Event,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    PauseRequested,
    PersonAsked,
    ResumeRequested,
    RetryRequested,
    SkipRequested,
    Start,
    Stop,
    TaskClaimed,
    TaskDecided,
    TaskDelegated,
    TaskReleased,
    TimedOut,
)
from dalang.human_task import OpenTask
from dalang.plan import Plan
from dalang.program import Program
from dalang.run import Run
from dalang.statuses import NODE_ENDS, RUN_ENDS, NodeStatus, RunStatus
from tests.effort import tries

ABOUT = {"id": "r", "createdBy": "sue"}
PEOPLE = ("sue", "ann", "bob", "eve")
GROUPS = (None, [], ["g"], ["boss", "g"])
TASK_ENDS = {"HITL_TASK_COMPLETED", "HITL_TASK_CANCELLED", "HITL_TASK_EXPIRED"}


def random_task(rnd: Random) -> dict[str, Any]:
    task: dict[str, Any] = {}
    if rnd.random() < 0.4:
        task["due"] = rnd.choice(["10ms", "30ms"])
        task["onExpiry"] = rnd.choice(["fail", "reject", "skip"])
        if rnd.random() < 0.5:
            task["reminder"] = "5ms"
        if rnd.random() < 0.5:
            task["escalation"] = {"after": "8ms", "to": "boss"}
    if rnd.random() < 0.3:
        task["candidates"] = list(rnd.sample(PEOPLE, 2))
        task["quorum"] = rnd.randint(1, 2)
    elif rnd.random() < 0.3:
        task["quorum"] = 2
    elif rnd.random() < 0.3:
        task["assignee"] = rnd.choice(PEOPLE)
    if rnd.random() < 0.3:
        task["candidateGroup"] = "g"
    if rnd.random() < 0.3:
        task["fourEyes"] = True
    if rnd.random() < 0.2:
        task["form"] = {"properties": {"n": {"type": "integer"}}, "required": ["n"]}
    return task


def random_plan(rnd: Random) -> Plan:
    """A small plan: edges forward only, some by ``error`` and ``rejected``."""
    nodes: list[dict[str, Any]] = []
    edges: list[dict[str, Any]] = []
    for number in range(rnd.randint(1, 7)):
        kind = rnd.choice(["noop", "human", "human"])
        node: dict[str, Any] = {"nodeId": f"n{number}", "type": kind}
        if kind == "human":
            node["task"] = random_task(rnd)
        for source in rnd.sample(range(number), rnd.randint(0, min(number, 2))):
            port = rnd.choice(["success", "success", "error", "rejected"])
            edges.append({"sourceNodeId": f"n{source}", "sourcePort": port, "targetNodeId": f"n{number}"})
        node["join"] = rnd.choice(["allLive", "allLive", "any", "allDone"])
        nodes.append(node)
    last = {"nodeId": "f", "type": "human", "task": {"due": "20ms"}} if rnd.random() < 0.2 else None
    document = {
        "name": "p",
        "failurePolicy": rnd.choice(["pause", "escalate", "escalate", "failFast", "continue"]),
        "nodes": nodes,
        "edges": edges,
        "finally": [last] if last else [],
        **({"maxInFlight": 1} if rnd.random() < 0.3 else {}),
    }
    return Plan.model_validate(document)


class Office:
    """Plays a run to its end, with people in it."""

    def __init__(self, rnd: Random) -> None:
        self.rnd = rnd
        self.program = Program(json.loads(json.dumps(compile_plan(random_plan(rnd)))))
        self.run = Run(self.program, {}, ABOUT)
        self.at = 0
        self.script: list[tuple[int, Event | None]] = []
        self.flying: dict[str, Start] = {}
        self.decided = 0

    def happen(self, event: Event | None) -> None:
        """Apply an event, or (None) begin what is due."""
        self.script.append((self.at, event))
        if event is not None:
            self.run.apply(event, self.at)
            return
        for step in self.run.due(self.at):
            if isinstance(step, Start):
                self.flying[step.node_id] = step
            elif isinstance(step, Stop):
                del self.flying[step.node_id]
                self.happen(NodeStopped(step.node_id))

    def check(self) -> None:
        """The run awaits people exactly when somebody is asked and nothing else moves; else something does move."""
        run = self.run
        running = [node for node, status in enumerate(run.statuses) if status is NodeStatus.RUNNING]
        assert [run.program.ids[node] for node in running] == [one for one in run.program.ids if one in self.flying]
        waiting = {run.program.ids[node] for node, one in enumerate(run.statuses) if one is NodeStatus.AWAITING_HITL}
        assert {task.node for task in run.tasks.values() if task.kind in ("approval", "input")} == waiting
        held = {run.program.ids[node] for node, wait in run.waits.items() if wait["waitsFor"] == "person"}
        assert {task.node for task in run.tasks.values() if task.kind == "input"} == held
        again = Run.restore(self.program, {}, json.loads(json.dumps(run.snapshot())))
        assert (run._busy, run.replies) == (again._busy, again.replies)
        if run.status in (RunStatus.RUNNING, RunStatus.AWAITING_HITL):
            assert (run.status is RunStatus.AWAITING_HITL) == (bool(run.tasks) and not running)
            assert running or run.tasks, "a dead end"
        opened = {fact["data"]["task"] for fact in run.facts if fact["type"] == "HITL_TASK_CREATED"}
        closed = [fact["data"]["task"] for fact in run.facts if fact["type"] in TASK_ENDS]
        assert len(closed) == len(set(closed))
        assert opened == {*closed, *run.tasks}
        assert {alarm[2] for alarm in run._alarms} <= set(run.tasks)

    def settle(self) -> None:
        self.happen(None)
        self.happen(None)  # what was stopped just now may have left finally nodes to begin
        self.check()

    def play(self) -> None:
        """Play to the end."""
        self.happen(Begin())
        for count in range(400):
            self.settle()
            if self.run.status in RUN_ENDS:
                return
            self.at += self.rnd.choice([0, 0, 1, 3])
            alarm = self.run.next_alarm
            due = alarm is not None and (alarm <= self.at or self.rnd.random() < 0.1)
            if alarm is not None and due and self.rnd.random() < 0.7:
                self.at = max(self.at, alarm)
                self.happen(AlarmRang())
                continue
            event = self.anything(hurry=count > 60)
            if event is not None and self.run.refusal(event, self.at) is None:
                self.happen(event)
        raise AssertionError("the run does not end")

    def anything(self, hurry: bool) -> Event | None:
        rnd, run = self.rnd, self.run
        if run.status is RunStatus.PAUSED and (hurry or rnd.random() < 0.4):
            holding = run.holding
            return SkipRequested(run.program.ids[holding[0]], None, "ann") if holding else ResumeRequested()
        chance = rnd.random()
        if chance < 0.05 and not hurry:
            return rnd.choice([PauseRequested(), CancelRequested("op", "enough"), TimedOut()])
        if self.flying and (not run.tasks or chance < 0.5):
            return self.end(rnd.choice(list(self.flying)))
        if run.tasks:
            return self.person(rnd.choice(list(run.tasks.values())), hurry)
        return None

    def end(self, node: str) -> Event:
        started = self.flying.pop(node)
        assert started.answer == self.run.replies.get(self.program.index[node])
        if self.rnd.random() < 0.3:
            due = {"dueMs": 10} if self.rnd.random() < 0.3 else {}
            form = {"form": {"properties": {"n": {"type": "integer"}}, "required": ["n"]}}
            return PersonAsked(node, {"text": "which?", **due, **(form if self.rnd.random() < 0.5 else {})})
        if self.rnd.random() < 0.6:
            return NodeSucceeded(node, {"x": 1})
        action = self.rnd.choice([None, "HUMAN_REVIEW", "ABORT"])
        return NodeFailed(node, {"type": "TOOL_ERROR", "message": "m", "suggestedAction": action})

    def person(self, task: OpenTask, hurry: bool) -> Event:
        rnd = self.rnd
        operator, groups = rnd.choice(PEOPLE), rnd.choice(GROUPS)
        if not hurry and rnd.random() < 0.2:
            return rnd.choice(
                [
                    TaskClaimed(task.id, operator, groups),
                    TaskReleased(task.id, operator, groups),
                    TaskDelegated(task.id, operator, to=rnd.choice(PEOPLE), groups=groups),
                    TaskDelegated(task.id, operator, to_group="g", groups=groups),
                    RetryRequested(task.node, None, operator),
                    SkipRequested(task.node, {"x": 1}, operator),
                ]
            )
        if hurry and rnd.random() < 0.3:  # somebody has to help whom nobody else can
            return CancelRequested("op", "hurry")
        self.decided += 1
        action = rnd.choice(["skip", "abort"] if hurry and task.kind == "failure" else task.actions)
        outputs = {"x": 2} if action == "edit" or (action == "skip" and rnd.random() < 0.5) else None
        values = {"n": 1} if action in ("approve", "edit", "reject", "answer") and rnd.random() < 0.7 else None
        return TaskDecided(task.id, action, operator, None, values, outputs, None, None, groups, f"d{self.decided}")


@settings(max_examples=tries(120), deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_people_bring_every_run_to_its_end(rnd: Random) -> None:
    """Whatever is decided, missed or cancelled, each task ends once and the run ends; facts are numbered."""
    office = Office(rnd)
    office.play()
    run = office.run
    assert run.tasks == {}
    assert run.next_alarm is None
    assert set(run.statuses) <= NODE_ENDS
    assert [fact["seq"] for fact in run.facts] == list(range(1, len(run.facts) + 1))
    if run.status is RunStatus.COMPLETED:
        assert NodeStatus.FAILED not in run.statuses
    for fact in run.facts:
        json.dumps(fact, allow_nan=False)


@settings(max_examples=tries(50), deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_runs_with_people_replay_and_survive_a_snapshot(rnd: Random) -> None:
    """The same events give the same facts, also when the run is taken down and restored before each of them."""
    office = Office(rnd)
    office.play()
    again = Run(office.program, {}, ABOUT)
    facts: list[Any] = []
    for at, event in office.script:
        again = Run.restore(office.program, {}, json.loads(json.dumps(again.snapshot())))
        if event is None:
            again.due(at)
        else:
            assert again.refusal(event, at) is None
            again.apply(event, at)
        facts += again.facts
    assert json.dumps(facts) == json.dumps(office.run.facts)


@settings(max_examples=tries(50), deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_a_decision_that_comes_again_changes_nothing(rnd: Random) -> None:
    """However much has happened since, and restored in between."""
    office = Office(rnd)
    office.play()
    again = Run(office.program, {}, ABOUT)
    taken: list[TaskDecided] = []
    for at, event in office.script:
        if event is None:
            again.due(at)
        else:
            again.apply(event, at)
        if isinstance(event, TaskDecided):
            taken.append(event)
        if taken and rnd.random() < 0.3:
            one = rnd.choice(taken)
            before, seq = again.task_answer(one), again.seq
            again = Run.restore(office.program, {}, json.loads(json.dumps(again.snapshot())))
            again.apply(one, at)
            assert (again.task_answer(one), again.seq) == (before, seq)
