"""Random plans whose failures wait for an operator, with random decisions: nothing is lost, nothing hangs."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dalang.compilation import compile_plan
from dalang.events import (
    Begin,
    CancelRequested,
    Event,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    RetryRequested,
    SkipRequested,
    Start,
    Stop,
)
from dalang.plan import Plan
from dalang.program import Program
from dalang.run import Run
from dalang.statuses import NODE_ENDS, RUN_ENDS, NodeStatus, RunStatus
from tests.effort import tries

ABOUT = {"id": "r"}


def random_plan(rnd: Random) -> Plan:
    """A small plan: edges forward only, some by the error port, inputs that read other nodes, fallbacks."""
    count = rnd.randint(1, 8)
    nodes: list[dict[str, Any]] = []
    edges: list[dict[str, Any]] = []
    for number in range(count):
        node: dict[str, Any] = {"nodeId": f"n{number}", "type": rnd.choice(["noop", "sleep"])}
        sources = rnd.sample(range(number), rnd.randint(0, min(number, 3)))
        for source in sources:
            port = "error" if rnd.random() < 0.2 else "success"
            edges.append({"sourceNodeId": f"n{source}", "sourcePort": port, "targetNodeId": f"n{number}"})
            if rnd.random() < 0.4:
                node["inputs"] = {"read": f"${{nodes.n{source}.outputs.?x.orValue(0)}}"}
        node["join"] = rnd.choice(["allLive", "allLive", "any", "allDone"])
        if rnd.random() < 0.2:
            node["fallback"] = {"x": 9}
        nodes.append(node)
    document = {
        "name": "p",
        "failurePolicy": rnd.choice(["pause", "pause", "failFast", "continue"]),
        "nodes": nodes,
        "edges": edges,
        "finally": [{"nodeId": "f", "type": "noop"}] if rnd.random() < 0.3 else [],
    }
    if rnd.random() < 0.3:
        document["maxInFlight"] = rnd.randint(1, 3)
    return Plan.model_validate(document)


def indexes(run: Run) -> dict[str, Any]:
    """Everything of a run that can be derived."""
    return {
        "counts": {status: count for status, count in run.counts.items() if count},
        "busy": run._busy,
        "open": run._open,
        "readers": run._readers,
        "waiting": run._waiting,
        "live": run._live,
        "blocked": run._blocked,
    }


class Operator:
    """Plays a run to its end and keeps the script of what happened."""

    def __init__(self, rnd: Random) -> None:
        self.rnd = rnd
        self.program = Program(json.loads(json.dumps(compile_plan(random_plan(rnd)))))
        self.run = Run(self.program, {}, ABOUT)
        self.script: list[Event | None] = []
        self.flying: list[Start] = []
        self.starts: list[Start] = []

    def happen(self, event: Event | None) -> None:
        """Apply an event, or (None) begin what is due, and check every index."""
        self.script.append(event)
        if event is not None:
            self.run.apply(event, len(self.script))
        else:
            for step in self.run.due(len(self.script)):
                if isinstance(step, Stop):
                    self.end(next(one for one in self.flying if one.node_id == step.node_id), stopped=True)
                else:
                    self.flying.append(step)
                    self.starts.append(step)
        snapshot = json.loads(json.dumps(self.run.snapshot()))
        assert indexes(Run.restore(self.program, {}, snapshot)) == indexes(self.run)

    def end(self, step: Start, stopped: bool = False) -> None:
        """Let a node end: stopped, well, or with an error that suggests something."""
        self.flying.remove(step)
        if stopped:
            self.happen(NodeStopped(step.node_id))
        elif self.rnd.random() < 0.5:
            self.happen(NodeSucceeded(step.node_id, {"x": self.rnd.randint(0, 9)}))
        else:
            action = self.rnd.choice([None, None, "HUMAN_REVIEW", "FALLBACK", "ABORT", "RETRY"])
            error: dict[str, Any] = {"type": "TOOL_ERROR", "message": "m", "suggestedAction": action}
            self.happen(NodeFailed(step.node_id, error))

    def decide(self) -> None:
        """Decide about one of the nodes that wait: retry it (a few times), or skip it."""
        node = self.program.ids[self.rnd.choice(self.run.awaiting)]
        if self.rnd.random() < 0.5 and len(self.starts) < 40:
            self.happen(RetryRequested(node, {"y": 1} if self.rnd.random() < 0.5 else None))
        else:
            self.happen(SkipRequested(node, {"x": 1} if self.rnd.random() < 0.5 else None))

    def play(self) -> None:
        """Play to the end."""
        self.happen(Begin())
        for _ in range(1000):
            self.happen(None)
            if not self.flying:
                self.happen(None)  # what was stopped just now may have left the finally nodes to begin
            if self.run.status in RUN_ENDS:
                return
            if self.flying and (not self.run.awaiting or self.rnd.random() < 0.7):
                self.end(self.rnd.choice(self.flying))
            elif self.run.awaiting:
                if self.rnd.random() < 0.05:
                    self.happen(CancelRequested("op", "enough"))
                else:
                    self.decide()
            else:
                assert self.flying, "a run that waits for nobody and has nothing in flight has ended"
        raise AssertionError("the run does not end")


@settings(max_examples=tries(150), deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_decisions_bring_every_run_to_its_end(rnd: Random) -> None:
    """Whatever fails and whatever is decided, the run ends, facts are numbered, and keys change only with inputs."""
    game = Operator(rnd)
    game.play()
    run = game.run
    assert set(run.statuses) <= NODE_ENDS
    assert run.awaiting == []
    assert [fact["seq"] for fact in run.facts] == list(range(1, len(run.facts) + 1))
    changed: dict[str, int] = {}
    for fact in run.facts:
        node = fact.get("nodeId", "")
        if fact["type"] == "NODE_RETRY_REQUESTED":
            changed[node] = changed.get(node, 0) + ("body" in fact)
        if fact["type"] == "NODE_STARTED":
            assert fact["data"]["generation"] == changed.get(node, 0)
    unhandled = [node for node, status in enumerate(run.statuses) if status is NodeStatus.FAILED]
    if run.status is RunStatus.COMPLETED:
        assert unhandled == []


@settings(max_examples=tries(80), deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_decisions_replay_and_survive_a_snapshot(rnd: Random) -> None:
    """The same events give the same facts, also when the run was taken down and restored in the middle."""
    game = Operator(rnd)
    game.play()
    check_restore(game.run, game.script, rnd.randint(0, len(game.script)), lambda at: game.program)


def check_restore(played: Run, script: list[Event | None], cut: int, program_at: Callable[[int], Program]) -> None:
    """``script`` gives the facts of ``played`` again, also if it is restored at ``cut``, with its program then."""
    first = Run(program_at(0), {}, ABOUT)
    _replay(first, script[:cut], 0)
    second = Run.restore(program_at(cut), {}, json.loads(json.dumps(first.snapshot())))
    seen = len(first.facts)
    _replay(first, script[cut:], cut)
    _replay(second, script[cut:], cut)
    assert json.dumps(first.facts) == json.dumps(played.facts)
    assert json.dumps(second.facts) == json.dumps(first.facts[seen:])


def _replay(run: Run, script: list[Event | None], begin: int) -> None:
    for number, event in enumerate(script, begin + 1):
        if event is None:
            run.due(number)
        else:
            run.apply(event, number)
