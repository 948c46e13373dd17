"""Random plans, failures, cancels and failing undos against the rule: what may have taken effect is undone exactly once
per key, and no node before all that depend on it.

The rule is told from outside, from what was begun and how it ended; nothing here looks into the machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
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
    ResumeRequested,
    RetryRequested,
    SkipRequested,
    Start,
    Step,
    Stop,
    TaskDecided,
    TimedOut,
    Undo,
    UndoFailed,
    UndoSucceeded,
)
from dalang.plan import Plan
from dalang.program import Program
from dalang.run import Run
from dalang.statuses import NODE_ENDS, RUN_ENDS, NodeStatus, RunStatus
from tests.effort import noted, tries

ABOUT = {"id": "r"}
SECOND = 1_000
WANTED = {
    None: ("FAILED", "CANCELLED"),
    "onFailure": ("FAILED",),
    "onCancel": ("CANCELLED",),
    "always": ("COMPLETED", "FAILED", "CANCELLED"),
    "never": (),
}

Key = tuple[str, int]
"""A node and a generation: what an idempotency key is made of."""


def random_plan(rnd: Random) -> Plan:
    """A small plan, in which most nodes can be undone."""
    count = rnd.randint(1, 9)
    nodes, edges = [], []
    for number in range(count):
        node: dict[str, Any] = {"nodeId": f"n{number}", "type": "noop", "inputs": {"x": number}}
        node["timeouts"] = {"startToClose": f"{rnd.randint(1, 9)}s"}
        if rnd.random() < 0.7:
            node["compensation"] = {"type": "noop"}
            if rnd.random() < 0.3:
                node["compensation"]["inputs"] = {"y": "${outputs.y}"}  # which is not always there
        if rnd.random() < 0.08:
            node["pivot"] = True
        if rnd.random() < 0.2:
            node["fallback"] = {"y": 9}
        node["join"] = rnd.choice(["allLive", "allLive", "any", "allDone"])
        for source in rnd.sample(range(number), rnd.randint(0, min(number, 3))):
            port = "error" if rnd.random() < 0.15 else "success"
            edges.append({"sourceNodeId": f"n{source}", "sourcePort": port, "targetNodeId": f"n{number}"})
        nodes.append(node)
    document: dict[str, Any] = {
        "name": "p",
        "failurePolicy": rnd.choice(["failFast", "failFast", "continue", "pause"]),
        "nodes": nodes,
        "edges": edges,
        "finally": [{"nodeId": "f", "type": "noop"}] if rnd.random() < 0.4 else [],
    }
    when = rnd.choice([None, None, None, "onFailure", "onCancel", "always", "never"])
    if when is not None:
        document["compensate"] = when
    if rnd.random() < 0.3:
        document["maxInFlight"] = rnd.randint(1, 3)
    return Plan.model_validate(document)


@dataclass
class World:
    """What happened outside: which keys may have taken effect, which were undone."""

    plan: Plan
    effects: dict[Key, int] = field(default_factory=dict)
    """How many starts under a key did not declare on their first attempt that nothing happened."""
    lost_until: dict[str, int] = field(default_factory=dict)
    succeeded: set[str] = field(default_factory=set)
    undone: dict[Key, int] = field(default_factory=dict)
    abandoned: set[str] = field(default_factory=set)

    def descendants(self, node: str) -> set[str]:
        found: set[str] = set()
        stack = [node]
        while stack:
            one = stack.pop()
            for edge in self.plan.edges:
                if edge.source_node_id == one and edge.target_node_id not in found:
                    found.add(edge.target_node_id)
                    stack.append(edge.target_node_id)
        return found

    def to_undo(self) -> set[Key]:
        """Every key that is to be undone, had it not been done yet: the rule of DESIGN section 4."""
        can = {node.node_id for node in self.plan.nodes if node.compensation is not None}
        pivots = {node.node_id for node in self.plan.nodes if node.pivot} & self.succeeded
        spared = {n.node_id for n in self.plan.nodes if pivots & ({n.node_id} | self.descendants(n.node_id))}
        return {key for key, count in self.effects.items() if count and key[0] in can - spared}


class Game:
    """Plays a run to its end, checking the rule at every undo that is begun."""

    def __init__(self, rnd: Random) -> None:
        self.rnd = rnd
        plan = random_plan(rnd)
        self.world = World(plan)
        self.program = Program(json.loads(json.dumps(compile_plan(plan))))
        self.run = Run(self.program, {}, ABOUT)
        self.at = 0
        self.script: list[tuple[int, Event | None]] = []
        self.flying: dict[str, Start] = {}
        self.undoing: dict[str, Undo] = {}
        self.stopping: list[str] = []
        self.decisions = 0
        self.disturbances = 0

    def happen(self, event: Event | None) -> list[Step]:
        self.at += self.rnd.choice([0, 1, SECOND])
        self.script.append((self.at, event))
        if event is not None:
            self.run.apply(event, self.at)
            return []
        return self.run.due(self.at)

    def begin(self) -> None:
        for step in self.happen(None):
            if isinstance(step, Stop):
                self.stopping.append(step.node_id)
            elif isinstance(step, Start):
                key = (step.node_id, step.generation)
                self.world.effects[key] = self.world.effects.get(key, 0) + 1
                assert step.node_id not in self.flying
                self.flying[step.node_id] = step
            else:
                self.check(step)
                self.undoing[step.node_id] = step

    def check(self, step: Undo) -> None:
        """An undo begins only when it may."""
        world, key = self.world, (step.node_id, step.generation)
        open_keys = world.to_undo() - set(world.undone)
        assert str(self.run.status) == "COMPENSATING"
        assert not {node for node in self.flying if node != "f"}, "all nodes have ended"
        assert key in open_keys, "it may have taken effect, and was not undone before"
        assert step.node_id not in self.undoing
        assert not {other for other, _ in open_keys} & world.descendants(step.node_id), (
            "all that depend on it are undone"
        )
        assert not [g for node, g in open_keys if node == step.node_id and g > step.generation], "the newest first"
        assert step.undoes["key"] == f"r:{step.node_id}:0:{step.generation}"
        assert self.at >= world.lost_until.get(step.node_id, 0), "nothing is at work on it any more"

    # -- what may happen -------------------------------------------------------------------------------------------

    def end_node(self) -> None:
        rnd, world = self.rnd, self.world
        node = rnd.choice(sorted(self.flying))
        step = self.flying.pop(node)
        key = (node, step.generation)
        if node in self.stopping and rnd.random() < 0.7:
            self.stopping.remove(node)
            self.happen(NodeStopped(node))
        elif rnd.random() < 0.6:
            world.succeeded.add(node)
            self.happen(NodeSucceeded(node, {"y": 1} if rnd.random() < 0.8 else {}))
        else:
            error: dict[str, Any] = {"type": "TOOL_ERROR", "message": "m", "attempt": rnd.choice([1, 1, 2])}
            action = rnd.choice([None, None, None, "HUMAN_REVIEW", "FALLBACK", "ABORT"])
            if action is not None:
                error["suggestedAction"] = action
            if rnd.random() < 0.5:
                error["noEffect"] = rnd.random() < 0.8
            lost = rnd.random() < 0.2
            if error.get("noEffect") and error["attempt"] == 1 and not lost:
                world.effects[key] -= 1
            self.happen(NodeFailed(node, error, lost=lost))
            if lost:
                ms = (
                    next(n.timeouts.start_to_close for n in world.plan.all_nodes() if n.node_id == node)
                    if node != "f"
                    else 0
                )
                world.lost_until[node] = max(world.lost_until.get(node, 0), self.at + (ms or 0))

    def end_undo(self) -> None:
        node = self.rnd.choice(sorted(self.undoing))
        step = self.undoing.pop(node)
        if self.rnd.random() < 0.75:
            self.world.undone[(node, step.generation)] = 1
            self.happen(UndoSucceeded(node))
        else:
            self.happen(UndoFailed(node, {"type": "TOOL_ERROR", "message": "u", "attempt": 1}))

    def decide_undo(self, node: str) -> None:
        self.decisions += 1
        actions = ["resolve", "abandon"] if self.decisions > 20 else ["retry", "retry", "resolve", "abandon"]
        action = self.rnd.choice(actions)
        open_keys = [g for n, g in self.world.to_undo() - set(self.world.undone) if n == node]
        if action == "resolve":
            self.world.undone[(node, max(open_keys))] = 0
        elif action == "abandon":
            self.world.abandoned.add(node)
        inputs = {"y": 2} if self.rnd.random() < 0.5 else None
        task = self.failed_undos()[node]
        self.happen(TaskDecided(task, action, "ann", inputs=inputs if action == "retry" else None))

    def decide_node(self) -> None:
        self.decisions += 1
        node = self.program.ids[self.rnd.choice(self.run.awaiting)]
        if self.rnd.random() < 0.6 and self.decisions < 20:
            self.happen(RetryRequested(node, {"z": 1} if self.rnd.random() < 0.5 else None))
        else:
            self.happen(SkipRequested(node, {"y": 3} if self.rnd.random() < 0.5 else None))

    def disturb(self) -> None:
        event = self.rnd.choice([CancelRequested("op"), CancelRequested("op"), TimedOut(), PauseRequested()])
        if self.run.refusal(event) is None:
            self.happen(event)
        else:
            assert self.run.refusal(event) is not None

    def failed_undos(self) -> dict[str, str]:
        """The open tasks about undos that failed, by node."""
        tasks = {task.node: task.id for task in self.run.tasks.values() if task.kind == "compensation"}
        failed = {
            self.program.ids[n] for n, status in enumerate(self.run.statuses) if str(status) == "COMPENSATION_FAILED"
        }
        assert tasks.keys() <= failed
        return tasks

    def play(self) -> None:
        self.happen(Begin())
        for _ in range(2000):
            self.begin()
            self.begin()
            if self.run.status in RUN_ENDS:
                return
            choices: list[Any] = []
            if self.flying:
                choices += [self.end_node] * 6
            if self.undoing:
                choices += [self.end_undo] * 6
            if self.run.awaiting:
                choices.append(self.decide_node)
            choices += [lambda node=node: self.decide_undo(node) for node in sorted(self.failed_undos())]
            if self.run.next_alarm is not None:
                choices.append(self.ring)
            if self.run.status is RunStatus.PAUSED and self.run.refusal(ResumeRequested()) is None:
                choices.append(lambda: self.happen(ResumeRequested()))
            assert choices, f"nothing can happen any more, but the run is {self.run.status}"
            # Not for ever: who draws the worst would disturb it at every step, and nothing else would happen.
            if self.disturbances < 50 and self.rnd.random() < 0.04:
                self.disturbances += 1
                self.disturb()
            else:
                self.rnd.choice(choices)()
        raise AssertionError("the run does not end")

    def ring(self) -> None:
        assert self.run.next_alarm is not None
        self.at = max(self.at, self.run.next_alarm)
        self.happen(AlarmRang())


ordinary = settings(
    max_examples=tries(120), deadline=None, derandomize=True, suppress_health_check=[HealthCheck.large_base_example]
)
SEEDS = tries(400)


@ordinary
@given(st.randoms(use_true_random=False))
def test_what_may_have_taken_effect_is_undone_exactly_once(rnd: Random) -> None:
    """At the end every such key is undone, or left because a person abandoned it or something that depends on it."""
    check_rule(rnd)


def check_rule(rnd: Random) -> None:
    game = Game(rnd)
    game.play()
    run, world = game.run, game.world
    when = None if world.plan.compensate is None else str(world.plan.compensate)
    wanted = str(run.status) in WANTED[when]
    assert set(run.statuses) <= NODE_ENDS
    assert not run.tasks
    left = {node for node, _ in world.to_undo() - set(world.undone)} if wanted else set()
    assert wanted or not world.undone
    for node in left:
        assert world.abandoned & ({node} | world.descendants(node)), f"{node} was not undone"
    for node in world.plan.nodes:
        number = game.program.index[node.node_id]
        was_undone = any(key[0] == node.node_id for key in world.undone) and node.node_id not in left
        assert (run.statuses[number] is NodeStatus.COMPENSATED) == was_undone
    compensating = [fact for fact in run.facts if fact["type"] == "PLAN_COMPENSATING"]
    assert len(compensating) == (1 if wanted and world.to_undo() else 0)
    if compensating:
        assert compensating[0]["data"]["ending"] == run.status or run.status is RunStatus.FAILED
        assert set(run.facts[-1]["data"].get("notUndone", [])) == left
        after = run.facts[run.facts.index(compensating[0]) :]
        assert not [fact for fact in after if fact["type"] == "NODE_STARTED" and fact["nodeId"] != "f"]
    begun: dict[Key, int] = {}
    for fact in run.facts:
        if fact["type"] in ("NODE_COMPENSATED", "NODE_COMPENSATING"):
            key = (fact["nodeId"], fact["data"]["undoes"])
            assert begun.get(key, 0) < 100, "nothing happens to a key that is undone"
            begun[key] = 100 if fact["type"] == "NODE_COMPENSATED" else begun.get(key, 0) + 1
    assert {key for key, count in begun.items() if count >= 100} == set(world.undone)


@ordinary
@given(st.randoms(use_true_random=False))
def test_an_undo_replays_and_survives_a_snapshot_anywhere(rnd: Random) -> None:
    """The same events give the same facts and steps, also when the run was taken down and restored in the middle."""
    check_restore(rnd)


def check_restore(rnd: Random) -> None:
    game = Game(rnd)
    game.play()
    cut = rnd.randint(0, len(game.script))
    first = Run(game.program, {}, ABOUT)
    _replay(first, game.script[:cut])
    second = Run.restore(game.program, {}, json.loads(json.dumps(first.snapshot())))
    seen = len(first.facts)
    assert _replay(second, game.script[cut:]) == _replay(first, game.script[cut:])
    assert json.dumps(first.facts) == json.dumps(game.run.facts)
    assert json.dumps(second.facts) == json.dumps(first.facts[seen:])
    assert json.dumps(second.snapshot()) == json.dumps(first.snapshot())


def _replay(run: Run, script: list[tuple[int, Event | None]]) -> list[Any]:
    steps: list[Any] = []
    for at, event in script:
        if event is None:
            steps += run.due(at)
        else:
            run.apply(event, at)
    return steps


CHECKS = {"rule": check_rule, "restore": check_restore}


@pytest.mark.parametrize("name", CHECKS)
def test_many_seeds(name: str) -> None:
    """The same properties over plain seeds, many at once."""
    for seed in range(SEEDS):
        _seed(name, seed)


@pytest.mark.soak
@pytest.mark.parametrize("name", CHECKS)
def test_very_many_seeds(name: str) -> None:
    """The same for a long time, with other seeds."""
    for seed in range(1_000_000, 1_050_000):
        _seed(name, seed)


def _seed(name: str, seed: int) -> None:
    with noted(f"{name}, seed {seed}"):
        CHECKS[name](Random(seed))
