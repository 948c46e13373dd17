"""Random revisions at random moments: whatever they change, the run is what the naive model says it is."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalang.compilation import compile_plan
from dalang.events import Event, PlanRevised
from dalang.graph import find_cycle
from dalang.joins import parse_join
from dalang.plan import Plan
from dalang.plan_diff import plan_diff
from dalang.program import JOIN_WORDS, Program
from dalang.run import Run
from dalang.statuses import NODE_ENDS, RUN_ENDS, ImpossibleMove, NodeStatus
from tests.core.naive_model import NaiveRun
from tests.core.random_runs import _edge, _node, chance
from tests.core.test_run_properties import ABOUT, INPUTS, Game, bytes_of, ordinary, replay
from tests.effort import noted, tries


def is_sound(plan: Plan) -> bool:
    """Whether the engine can take the plan: no cycle, and every name is the name of something."""
    names = {node.node_id: number for number, node in enumerate(plan.all_nodes())}
    first_finally = len(plan.nodes)
    pairs = [(names.get(edge.source_node_id, -1), names.get(edge.target_node_id, -1)) for edge in plan.edges]
    if any(-1 in pair or (pair[0] < first_finally) != (pair[1] < first_finally) for pair in pairs):
        return False
    if find_cycle(range(len(names)), pairs) is not None or not plan.nodes:
        return False
    for node in plan.all_nodes():
        incoming = {edge.edge_id for edge in plan.edges if edge.target_node_id == node.node_id}
        if node.join not in JOIN_WORDS and not incoming.issuperset(parse_join(node.join).edges):
            return False
    try:
        Program(compile_plan(plan))
    except KeyError:
        return False
    return True


class Editor:
    """Changes a plan's document: mostly what has not started, at times what has."""

    def __init__(self, rnd: Random, model: NaiveRun, number: int) -> None:
        self.rnd, self.model, self.number = rnd, model, number
        self.document: dict[str, Any] = json.loads(json.dumps(model.plan.wire()))
        self.document.setdefault("edges", [])

    def plan(self) -> Plan:
        """Return the plan after some changes, each of which leaves it sound."""
        for _ in range(self.rnd.randint(0, 4)):
            before = json.loads(json.dumps(self.document))
            self.rnd.choice(
                (self.add, self.add, self.remove, self.connect, self.disconnect, self.replace, self.other)
            )()
            if not is_sound(Plan.model_validate(self.document)):
                self.document = before
        return Plan.model_validate(self.document)

    def ids(self) -> list[str]:
        return [node["nodeId"] for node in self.document["nodes"]]

    def target(self) -> str:
        waiting = [node for node in self.ids() if self.model.status.get(node, "PENDING") == "PENDING"]
        return self.rnd.choice(waiting if waiting and not chance(self.rnd, 5) else self.ids())

    def fresh(self, prefix: str) -> str:
        self.number += 1
        return f"{prefix}{self.number}"

    def add(self) -> None:
        name = self.fresh("x")
        edges = [
            _edge(self.rnd, self.fresh("y"), source, name, self.ids()) for source in self.ids() if chance(self.rnd, 30)
        ]
        if chance(self.rnd, 50):
            edges.append(_edge(self.rnd, self.fresh("y"), name, self.target(), self.ids()))
        incoming = [edge for edge in edges if edge["targetNodeId"] == name]
        self.document["nodes"].append(_node(self.rnd, name, self.ids(), incoming))
        self.document["edges"] += edges

    def remove(self) -> None:
        gone = self.target()
        self.document["nodes"] = [node for node in self.document["nodes"] if node["nodeId"] != gone]
        ends = ("sourceNodeId", "targetNodeId")
        self.document["edges"] = [edge for edge in self.document["edges"] if gone not in [edge[end] for end in ends]]

    def connect(self) -> None:
        source = self.rnd.choice(self.ids())
        self.document["edges"].append(_edge(self.rnd, self.fresh("y"), source, self.target(), self.ids()))

    def disconnect(self) -> None:
        target = self.target()
        incoming = [edge for edge in self.document["edges"] if edge["targetNodeId"] == target]
        if incoming:
            self.document["edges"].remove(self.rnd.choice(incoming))

    def replace(self) -> None:
        target = self.target()
        incoming = [edge for edge in self.document["edges"] if edge["targetNodeId"] == target]
        new = _node(self.rnd, target, self.ids(), incoming)
        self.document["nodes"] = [new if node["nodeId"] == target else node for node in self.document["nodes"]]

    def other(self) -> None:
        target = self.target()
        for number, edge in enumerate(self.document["edges"]):
            if edge["targetNodeId"] == target:
                again = _edge(self.rnd, edge["edgeId"], edge["sourceNodeId"], target, self.ids())
                self.document["edges"][number] = again
                return


def ready(run: Run) -> list[list[tuple[int, int, int]]]:
    """The heaps of ready nodes, without those that the revision itself cancelled or skipped after it."""
    return [sorted(one for one in heap if run.statuses[one[-1]] is NodeStatus.PENDING) for heap in run._ready]


class RevisedGame(Game):
    """A game in which the plan changes; ``programs`` are those that ``script`` had, with where each began."""

    def __init__(self, rnd: Random) -> None:
        super().__init__(rnd)
        self.programs = [(0, self.program)]
        self.accepted = self.refused = 0

    def apply(self, event: Event) -> None:
        super().apply(event)
        self.compare()
        if chance(self.rnd, 40):
            self.revise()

    def revise(self) -> None:
        plan = Editor(self.rnd, self.model, 100 * len(self.script)).plan()
        program = Program(json.loads(json.dumps(compile_plan(plan))))
        event = PlanRevised(program, "d", self.run.revision, known=self.known())
        refusal = self.run.refusal(event)
        assert (refusal is None) == self.model.may_revise(plan), (
            str(refusal),
            plan_diff(self.model.plan.wire(), plan.wire()),
        )
        if refusal is not None:
            before = json.dumps(self.run.snapshot())
            with pytest.raises(ImpossibleMove):
                self.run.apply(event, 0)
            assert json.dumps(self.run.snapshot()) == before
            self.refused += 1
            return
        self.accepted += 1
        self.script.append(event)
        self.run.apply(event, len(self.script))
        self.model.happen_revise(plan)
        self.plan, self.program = plan, program
        self.programs.append((len(self.script), program))
        self.compare()
        snapshot = json.loads(json.dumps(self.run.snapshot()))
        again = Run.restore(program, INPUTS, snapshot, self.slots)
        assert bytes_of(again.snapshot()) == bytes_of(snapshot)
        assert ready(again) == ready(self.run)

    def known(self) -> dict[str, Any]:
        """What a store would answer: all that ended nodes have put out."""
        found: dict[str, Any] = {}
        for node, outputs in self.model.outputs.items():
            found.setdefault(node, {})["outputs"] = outputs
        for node, error in self.run_errors().items():
            found.setdefault(node, {})["error"] = error
        return found

    def run_errors(self) -> dict[str, Any]:
        return {
            fact["nodeId"]: fact["body"]["error"]
            for fact in self.run.facts
            if fact["type"] in ("NODE_ERROR", "NODE_FAILED")
        }


def check_revisions(rnd: Random) -> tuple[int, int]:
    game = RevisedGame(rnd)
    game.play()
    assert game.run.status in RUN_ENDS
    assert set(game.run.statuses) <= NODE_ENDS
    return game.accepted, game.refused


def check_restore(rnd: Random) -> None:
    game = RevisedGame(rnd)
    game.play()
    first = Run(game.programs[0][1], INPUTS, ABOUT, game.slots)
    cut = rnd.randint(0, len(game.script))
    replay(first, game.script[:cut])
    seen = len(first.facts)
    program = [one for begin, one in game.programs if begin <= cut][-1]
    second = Run.restore(program, INPUTS, json.loads(json.dumps(first.snapshot())), game.slots)
    assert replay(second, game.script, cut) == replay(first, game.script, cut)
    assert bytes_of(second.facts) == bytes_of(first.facts[seen:])
    assert bytes_of(first.facts) == bytes_of(game.run.facts)


@ordinary
@given(st.randoms(use_true_random=False))
def test_a_revised_run_agrees_with_the_naive_model(rnd: Random) -> None:
    """After every revision statuses, edges, joins, indexes, kept outputs and ready nodes are the model's."""
    check_revisions(rnd)


@settings(ordinary, max_examples=tries(30))
@given(st.randoms(use_true_random=False))
def test_a_revised_run_can_be_restored_at_any_moment(rnd: Random) -> None:
    """A snapshot after a revision goes on with the new program as if nothing had been interrupted."""
    check_restore(rnd)


def test_many_seeds() -> None:
    """The same over plain seeds; and revisions are both accepted and refused often enough to mean something."""
    accepted = refused = 0
    for seed in range(tries(80)):
        with noted(f"seed {seed}"):
            one, other = check_revisions(Random(seed))
            check_restore(Random(seed))
        accepted, refused = accepted + one, refused + other
    assert accepted > 50
    assert refused > 50


@settings(ordinary, max_examples=tries(30))
@given(st.randoms(use_true_random=False))
def test_a_revision_that_changes_nothing_changes_nothing(rnd: Random) -> None:
    """But for its own event and number, a run given its own plan again is what it was."""
    game = Game(rnd)
    game.play(checks=False)
    run = game.new_run()
    cut = rnd.randint(1, max(1, len(game.script) // 2))
    replay(run, game.script[:cut])
    event: Event = PlanRevised(Program(json.loads(json.dumps(game.program.document))), "d", 1)
    if run.refusal(event) is not None:
        return
    before = run.snapshot()
    run.apply(event, cut)
    after = run.snapshot()
    assert after.pop("revision") == [2, "d"]
    before["seq"] += 1
    assert bytes_of(after) == bytes_of(before)
