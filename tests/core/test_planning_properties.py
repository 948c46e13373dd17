"""Random plans with evaluators and a planner, random verdicts, answers and decisions: nothing hangs."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dalang.compilation import compile_plan
from dalang.events import (
    Begin,
    CancelRequested,
    Event,
    MakePlan,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    PauseRequested,
    PlanRevised,
    ReplanFailed,
    ResumeRequested,
    RetryRequested,
    SkipRequested,
    Start,
    Stop,
)
from dalang.plan import Plan, with_derived_ids
from dalang.program import Program
from dalang.run import Run
from dalang.statuses import NODE_ENDS, RUN_ENDS, RunStatus
from tests.core.test_decision_properties import ABOUT, check_restore, indexes, random_plan
from tests.effort import tries


def _program(plan: Plan) -> Program:
    return Program(json.loads(json.dumps(compile_plan(plan))))


class Director:
    """Plays a run whose plan changes to its end; ``script`` is what happened, None where due steps were begun."""

    def __init__(self, rnd: Random) -> None:
        self.rnd = rnd
        plan = with_derived_ids(random_plan(rnd))
        nodes = tuple(node.model_copy(update={"evaluator": rnd.random() < 0.4}) for node in plan.nodes)
        document = {**plan.wire(), "planner": {}, "maxReplans": rnd.randint(1, 4)}
        self.plan = Plan.model_validate(document).model_copy(update={"nodes": nodes})
        self.programs = [(0, _program(self.plan))]
        self.run = Run(self.programs[0][1], {}, ABOUT)
        self.script: list[Event | None] = []
        self.flying: list[Start] = []
        self.asked: list[MakePlan] = []
        self.starts = 0

    def happen(self, event: Event | None) -> None:
        """Apply an event, or (None) begin what is due; a snapshot at this moment is the same run."""
        self.script.append(event)
        if event is not None:
            self.run.apply(event, len(self.script))
        else:
            for step in self.run.due(len(self.script)):
                if isinstance(step, Stop):
                    stopped = next(one for one in self.flying if one.node_id == step.node_id)
                    self.flying.remove(stopped)
                    self.happen(NodeStopped(step.node_id))
                elif isinstance(step, MakePlan):
                    self.asked.append(step)
                else:
                    assert isinstance(step, Start)
                    assert self.run.status is not RunStatus.REPLANNING
                    self.flying.append(step)
                    self.starts += 1
        snapshot = json.loads(json.dumps(self.run.snapshot()))
        again = Run.restore(self.run.program, {}, snapshot)
        assert indexes(again) == indexes(self.run)
        assert again.snapshot() == self.run.snapshot()

    def end(self) -> None:
        """Let a node end: with a verdict, with a failure that suggests something."""
        step = self.rnd.choice(self.flying)
        self.flying.remove(step)
        if self.rnd.random() < 0.65:
            verdict = self.rnd.choice(["pass", "replan", "replan", "fail", None])
            self.happen(NodeSucceeded(step.node_id, {"x": 1, **({"verdict": verdict} if verdict else {})}))
        else:
            action = self.rnd.choice([None, "AUTO_FIX", "AUTO_FIX", "FALLBACK", "ABORT"])
            error: dict[str, Any] = {"type": "TOOL_ERROR", "message": "m", "suggestedAction": action}
            self.happen(NodeFailed(step.node_id, error))

    def answer(self) -> None:
        """Let the planner answer: well, badly, or not at all."""
        step = self.asked.pop()
        planning = self.run.planning
        if planning is None or planning["number"] != step.number:
            event: Event = ReplanFailed(step.number, {})
            assert self.run.refusal(event) is not None, "nobody waits for it any more"
        elif self.rnd.random() < 0.3:
            self.happen(ReplanFailed(step.number, {"message": "m"}, [{"message": "p"}], final=self.rnd.random() < 0.3))
        else:
            self.revise(step)

    def revise(self, step: MakePlan) -> None:
        names = [cause["nodeId"] for cause in step.causes]
        replaced = {name for name in names if self.rnd.random() < 0.7 and self.status(name) == "FAILED"}
        nodes = [
            node.model_copy(update={"inputs": {"again": len(self.script)}}) if node.node_id in replaced else node
            for node in self.plan.nodes
        ]
        plan = self.plan.model_copy(update={"nodes": tuple(nodes)})
        more = f"m{len(self.script)}"
        document = plan.wire()
        document["nodes"].append({"nodeId": more, "type": "noop", "evaluator": self.rnd.random() < 0.3})
        document.setdefault("edges", []).append({"edgeId": more, "sourceNodeId": names[0], "targetNodeId": more})
        plan = Plan.model_validate(document)
        known = {node: {"outputs": {"x": 1}, "error": {"type": "TOOL_ERROR"}} for node in self.run.program.ids}
        event = PlanRevised(_program(plan), "d", self.run.revision, known=known, planning=step.number)
        assert self.run.refusal(event) is None
        self.plan = plan
        self.programs.append((len(self.script) + 1, event.program))
        self.happen(event)

    def status(self, node: str) -> str:
        return str(self.run.statuses[self.run.program.index[node]])

    def operate(self) -> None:
        """Do what operators do: decide, pause, resume, now and then cancel."""
        if self.run.status is RunStatus.PAUSED and not self.run.holding:
            self.happen(ResumeRequested())
        elif self.run.holding:
            node = self.run.program.ids[self.rnd.choice(self.run.holding)]
            retry = self.rnd.random() < 0.5 and self.starts < 40
            self.happen(RetryRequested(node) if retry else SkipRequested(node, {"x": 1}))
        elif self.rnd.random() < 0.1 and self.run.refusal(CancelRequested()) is None:
            self.happen(CancelRequested("op", "enough"))
        elif self.run.refusal(PauseRequested()) is None:
            self.happen(PauseRequested())

    def play(self) -> None:
        self.happen(Begin())
        for _ in range(2000):
            self.happen(None)
            if not self.flying:
                self.happen(None)
            if self.run.status in RUN_ENDS:
                return
            acts = [self.end] * 4 if self.flying else []
            acts += [self.answer] * 2 if self.asked else []
            held = self.run.status is RunStatus.PAUSED
            if held or (acts and self.rnd.random() < 0.1 and len(self.script) < 200):
                acts.append(self.operate)
            assert acts, "a run that waits for nobody and has nothing in flight has ended"
            self.rnd.choice(acts)()
        raise AssertionError("the run does not end")


@settings(max_examples=tries(100), deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_every_run_comes_to_its_end(rnd: Random) -> None:
    """Whatever is judged, failed, answered and decided; nothing starts while REPLANNING; the bound holds."""
    game = Director(rnd)
    game.play()
    run = game.run
    assert set(run.statuses) <= NODE_ENDS
    assert (run.awaiting, run.causes, run.held, run.planning) == ([], [], {}, None)
    assert [fact["seq"] for fact in run.facts] == list(range(1, len(run.facts) + 1))
    assert run.replans <= run.program.document["maxReplans"]
    json.dumps(run.facts, allow_nan=False)


@settings(max_examples=tries(60), deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_it_replays_and_survives_a_snapshot(rnd: Random) -> None:
    """The same events give the same facts, also when the run was taken down and restored in the middle."""
    game = Director(rnd)
    game.play()

    def program_at(cut: int) -> Program:
        return [one for begin, one in game.programs if begin <= cut][-1]

    check_restore(game.run, game.script, rnd.randint(0, len(game.script)), program_at)
