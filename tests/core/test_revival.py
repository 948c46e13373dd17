"""Redrive: what is kept and what runs again, for random plans and by example."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from random import Random
from typing import Any

import pytest

from dalang.compilation import compile_plan
from dalang.events import AlarmRang, Begin, NodeFailed, NodeStopped, NodeSucceeded, Start, Stop, Undo, UndoSucceeded
from dalang.plan import Plan
from dalang.program import Program
from dalang.revival import Choice, Ending, NothingToRedrive, Outcome, Told, choose, needed, revive
from dalang.run import Run
from dalang.statuses import NODE_ENDS, RUN_ENDS, NodeStatus, RunStatus
from tests.core.random_runs import chance, random_error, random_outputs, random_plan
from tests.core.test_run_properties import INPUTS
from tests.effort import tries

ABOUT = {"id": "r1"}
SAFE_CONDITIONS = (
    "has(outputs.y)",
    "inputs.flag",
    "!inputs.flag",
    "error.type == 'TIMEOUT'",
    "error.type != 'TIMEOUT'",
)
"""Those that never raise: one that does fails its target only if that has not been decided before."""


def program_of(plan: Plan | Mapping[str, Any]) -> Program:
    valid = plan if isinstance(plan, Plan) else Plan.model_validate({"name": "p", **plan})
    return Program(json.loads(json.dumps(compile_plan(valid))))


class Play:
    """A run whose nodes end as ``answers`` says: with outputs, or failing with an error (a dict with ``type``)."""

    def __init__(self, program: Program, answers: Mapping[str, Any], run: Run | None = None, seed: Any = None) -> None:
        self.program = program
        self.run = run or Run(program, INPUTS, ABOUT)
        self.starts: list[Start] = []
        self.undone: list[tuple[str, int, dict[str, Any]]] = []
        self.at = 1
        self.run.apply(Begin(seed), self.at)
        flying: list[Start] = []
        while self.run.status not in RUN_ENDS:
            self.at += 1
            assert self.at < 1000, "the run does not end"
            for step in self.run.due(self.at):
                if isinstance(step, Undo):
                    self.undone.append((step.node_id, step.generation, dict(step.undoes["outputs"])))
                    self.run.apply(UndoSucceeded(step.node_id, {}), self.at)
                elif isinstance(step, Stop):
                    stopped = next(one for one in flying if one.node_id == step.node_id)
                    flying.remove(stopped)
                    self.run.apply(NodeStopped(step.node_id), self.at)
                else:
                    assert isinstance(step, Start)
                    flying.append(step)
                    self.starts.append(step)
            if flying:
                step = flying.pop(0)
                answer = answers[step.node_id]
                if "type" in answer:
                    self.run.apply(NodeFailed(step.node_id, answer), self.at)
                else:
                    self.run.apply(NodeSucceeded(step.node_id, answer), self.at)

    def statuses(self) -> dict[str, str]:
        return dict(zip(self.program.ids, map(str, self.run.statuses), strict=True))

    def past(self) -> dict[str, dict[str, Any]]:
        """What the store would know of each node: the fold of its facts."""
        found: dict[str, dict[str, Any]] = {}
        for fact in self.run.facts:
            data = fact.get("data", {})
            if "nodeId" not in fact or "status" not in data:
                continue
            node = found.setdefault(fact["nodeId"], {"values": {}, "generation": 0})
            if data["status"] == "RUNNING":
                node["values"] = {}
            node["values"].update(fact.get("body", {}))
            node["status"] = data["status"]
            node["generation"] = data.get("generation", node["generation"])
            node["skip"] = data.get("skipReason")
        return found


def redriven(
    old: Play,
    answers: Mapping[str, Any],
    wanted: Iterable[str] | None = None,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Play, list[bool]]:
    """Start a finished run again, with nothing but what is needed and only as JSON; return it and what ran again."""
    program, past = old.program, old.past()
    outcomes = [
        Outcome(
            NodeStatus(past[name]["status"]),
            past[name]["generation"],
            "inputs" in past[name]["values"],
            past[name]["skip"],
        )
        if name in past
        else Outcome()
        for name in program.ids
    ]
    numbers = None if wanted is None else [program.index[name] for name in wanted]
    choice = choose(program, outcomes, numbers, {program.index[name]: own for name, own in (changes or {}).items()})
    parts = needed(program, outcomes, choice)
    values = {
        node: {part: value for part, value in past[name]["values"].items() if part in parts[node]}
        for node, name in enumerate(program.ids)
        if name in past
    }
    told = [
        Told(program.index[fact["nodeId"]], fact["type"], fact.get("data", {}), fact.get("body", {}))
        for fact in old.run.facts
        if "nodeId" in fact and program.index[fact["nodeId"]] in program.compensations
    ]
    revived = revive(program, INPUTS, ABOUT, outcomes, choice, values, told)
    made = json.loads(json.dumps({"snapshot": revived.snapshot, "raised": revived.raised}))
    facts = []
    for node, name in enumerate(program.ids):
        if not choice.again[node]:
            one = past[name]
            data = {"status": one["status"], "generation": one["generation"], "skipReason": one["skip"]}
            facts.append([name, {key: value for key, value in data.items() if value is not None}, one["values"]])
        if node in revived.effects:
            if choice.again[node]:
                facts.append([name, {"status": "PENDING"}, {}])
            facts[-1][2] = {**facts[-1][2], "effects": revived.effects[node]}
    run = Run.restore(program, INPUTS, made["snapshot"])
    return Play(program, answers, run, {**made, "facts": facts}), list(choice.again)


def downstream(plan: Plan, tops: Iterable[str]) -> set[str]:
    """The nodes that come after ``tops``, and they themselves; as simply as it can be said."""
    found = set(tops)
    while True:
        more = {edge.target_node_id for edge in plan.edges if edge.source_node_id in found} - found
        if found & {node.node_id for node in plan.nodes}:
            more |= {node.node_id for node in plan.finally_} - found
        if not more:
            return found
        found |= more


def random_answers(rnd: Random, plan: Plan, failing: int) -> dict[str, Any]:
    return {
        node.node_id: random_error(rnd) if chance(rnd, failing) else random_outputs(rnd) for node in plan.all_nodes()
    }


SEEDS = tries(60)
"""Games per test: plain seeds, which are quicker than Hypothesis and as random."""


@pytest.mark.parametrize("first", range(0, SEEDS * 4, SEEDS))
def test_what_is_not_downstream_is_kept_and_the_rest_runs_once(first: int) -> None:
    """Kept nodes keep everything; what is downstream of the chosen runs again, once; keys rise as they must."""
    for seed in range(first, first + SEEDS):
        _kept_and_run_once(Random(seed))


def _kept_and_run_once(rnd: Random) -> None:
    plan = random_plan(rnd)
    program = program_of(plan)
    old = Play(program, random_answers(rnd, plan, 30))
    before = old.statuses()
    wanted = rnd.sample(program.ids, rnd.randint(1, len(program.ids))) if chance(rnd, 60) else None
    tops = set(wanted or [name for name, status in before.items() if status == "FAILED"])
    tops |= {name for name, status in before.items() if status == "CANCELLED"}
    if not tops:
        with pytest.raises(NothingToRedrive):
            redriven(old, {})
        return
    new, again = redriven(old, random_answers(rnd, plan, 30), wanted)
    assert {name for name, runs in zip(program.ids, again, strict=True) if runs} == downstream(plan, tops)
    past, now = old.past(), new.past()
    for node, name in enumerate(program.ids):
        if not again[node]:
            assert now[name] == past[name]
            for edge in program.edges_out[
                node
            ]:  # those that read what other nodes came to depend on when they were weighed
                assert "nodes." in (program.conditions[edge] or "") or new.run.edges[edge] == old.run.edges[edge]
    started = [step.node_id for step in new.starts]
    assert len(started) == len(set(started))
    assert all(again[program.index[name]] for name in started)
    known = {step.node_id: step for step in old.starts}
    for step in new.starts:
        if step.node_id in known:
            free = not any(again[program.sources[edge]] for edge in program.edges_in[step.node])
            free = free and (step.node < program.first_finally or not any(again[: program.first_finally]))
            same = free and before[step.node_id] != "SUCCESS"
            assert step.generation == (0 if same else 1)
            if same:
                assert step.inputs == known[step.node_id].inputs


@pytest.mark.parametrize("first", range(0, SEEDS * 4, SEEDS))
def test_a_redrive_equals_a_run_where_nothing_had_failed(first: int) -> None:
    """When the failed nodes are fine the second time, all ends as if they had been fine the first time."""
    for seed in range(first, first + SEEDS):
        _as_if_fine(Random(seed))


def _as_if_fine(rnd: Random) -> None:
    plan = plain(random_plan(rnd))
    program = program_of(plan)
    fine = random_answers(rnd, plan, 0)
    failing = {name: random_error(rnd) if chance(rnd, 25) else own for name, own in fine.items()}
    reference, old = Play(program, fine), Play(program, failing)
    if "FAILED" not in old.statuses().values():
        return
    # An error edge may have taken a failure: those nodes run again, too.
    wanted = [name for name, status in old.statuses().items() if status in ("FAILED", "ERROR")]
    new, _ = redriven(old, fine, wanted)
    assert new.statuses() == reference.statuses()
    outcome = {name: one["values"].get("outputs") for name, one in reference.past().items()}
    assert {name: one["values"].get("outputs") for name, one in new.past().items()} == outcome
    assert (new.run.status, new.run.result) == (reference.run.status, reference.run.result)
    assert new.run.edges == reference.run.edges


def plain(plan: Plan) -> Plan:
    """Return the plan without all whose outcome depends on what happens first."""
    document = plan.wire()
    main = {node["nodeId"] for node in document["nodes"]}
    edges = [edge for edge in document.get("edges", []) if edge["targetNodeId"] in main]
    for edge in edges:
        if edge.get("condition") not in SAFE_CONDITIONS:
            edge.pop("condition", None)
    for node in document["nodes"]:
        node.pop("inputs", None)
        node.pop("descriptor", None)
    return Plan.model_validate({"name": "p", "nodes": document["nodes"], "edges": edges, "failurePolicy": "continue"})


SAME = {"nodeId": "a", "type": "noop"}


def chain(count: int, **more: Any) -> dict[str, Any]:
    nodes = [{"nodeId": f"n{at}", "type": "noop"} for at in range(count)]
    edges = [{"sourceNodeId": f"n{at}", "targetNodeId": f"n{at + 1}"} for at in range(count - 1)]
    return {"failurePolicy": "continue", "nodes": nodes, "edges": edges, **more}


FAILURE = {"type": "TOOL_ERROR", "message": "m"}


def test_a_failed_node_keeps_its_key_and_its_inputs() -> None:
    """A plain redrive asks for the same work under the same key; changed inputs are other work."""
    old = Play(program_of(chain(3)), {"n0": {"x": 1}, "n1": FAILURE, "n2": {}})
    new, again = redriven(old, {"n1": {}, "n2": {}})
    assert again == [False, True, True]
    assert [(step.node_id, step.generation, step.inputs) for step in new.starts] == [
        ("n1", 0, {"x": 1}),
        ("n2", 0, {}),
    ]
    assert new.run.status == "COMPLETED"
    new, _ = redriven(old, {"n1": {}, "n2": {}}, changes={"n1": {"x": 2}})
    assert [(step.generation, step.inputs) for step in new.starts] == [(1, {"x": 2}), (0, {})]


def test_a_successful_node_that_runs_again_has_a_new_key() -> None:
    """So have those after it, which get other inputs."""
    old = Play(program_of(chain(3)), {"n0": {}, "n1": {"x": 1}, "n2": {}})
    with pytest.raises(NothingToRedrive):
        redriven(old, {})
    new, _ = redriven(old, {"n1": {"x": 2}, "n2": {}}, ["n1"])
    assert [(step.node_id, step.generation, step.inputs) for step in new.starts] == [("n1", 1, {}), ("n2", 1, {"x": 2})]
    third, _ = redriven(new, {"n2": {}}, ["n2"])
    assert [(step.node_id, step.generation) for step in third.starts] == [("n2", 2)]


@pytest.mark.parametrize("status", ["COMPENSATING", "COMPENSATED", "COMPENSATION_FAILED"])
def test_what_was_undone_runs_again_under_a_new_key(status: str) -> None:
    """Its effect is gone: the old key would be answered with a result that is no longer true."""
    program = program_of(chain(3))
    outcomes = [Outcome(NodeStatus.SUCCESS, 0, True), Outcome(NodeStatus(status), 0, True), Outcome(NodeStatus.SKIPPED)]
    choice = choose(program, outcomes)
    assert (list(choice.again), choice.generations, choice.given) == ([False, True, True], {1: 1}, {1})


def test_a_failure_that_is_not_chosen_is_kept_and_ends_nothing_early() -> None:
    """Under failFast a kept failure does not stop what was chosen; the run still ends FAILED because of it."""
    plan = {"failurePolicy": "failFast", "nodes": [{**SAME, "nodeId": name} for name in "abc"], "maxInFlight": 1}
    old = Play(program_of(plan), {"a": {}, "b": FAILURE, "c": {}})
    assert old.statuses() == {"a": "SUCCESS", "b": "FAILED", "c": "CANCELLED"}
    new, again = redriven(old, {"a": {}, "c": {}}, ["a"])
    assert again == [True, False, True]
    assert new.statuses() == {"a": "SUCCESS", "b": "FAILED", "c": "SUCCESS"}
    assert (new.run.status, new.run.error) == ("FAILED", FAILURE)


def test_finally_nodes_come_after_every_other() -> None:
    """They run again with a new key whenever anything else does; alone they can be redriven, too."""
    plan = chain(1, **{"finally": [{"nodeId": "f", "type": "noop"}, {"nodeId": "g", "type": "noop"}]})
    old = Play(program_of(plan), {"n0": FAILURE, "f": {}, "g": {}})
    new, _ = redriven(old, {"n0": {}, "f": {}, "g": FAILURE})
    assert [(step.node_id, step.generation) for step in new.starts] == [("n0", 0), ("f", 1), ("g", 1)]
    third, again = redriven(new, {"g": {}})
    assert (again, third.run.status) == ([False, False, True], "COMPLETED")
    assert [(step.node_id, step.generation) for step in third.starts] == [("g", 1)]


def test_an_operators_substitute_and_a_fallback_stay_lit() -> None:
    """Outputs that stood in for a node's own flow again; a condition that raised fails its target again."""
    plan = chain(2)
    plan["nodes"][0]["fallback"] = {"x": 7}
    plan["edges"][0]["condition"] = "outputs.x == 7"
    old = Play(program_of(plan), {"n0": {**FAILURE, "suggestedAction": "FALLBACK"}, "n1": FAILURE})
    new, _ = redriven(old, {"n1": {}})
    assert new.statuses() == {"n0": "ERROR", "n1": "SUCCESS"}
    plan["edges"][0]["condition"] = "outputs.y == 7"
    old = Play(program_of(plan), {"n0": {"x": 1}, "n1": {}})
    new, _ = redriven(old, {"n1": {}})
    assert [one.statuses()["n1"] for one in (old, new)] == ["FAILED", "FAILED"]
    assert new.starts == []


def test_from_a_checkpoint_what_ended_later_runs_again() -> None:
    """Late successes get a new key, late failures keep theirs."""
    program = program_of(chain(3, edges=[]))
    late = [Outcome(NodeStatus.SUCCESS, 0, True, late=True), Outcome(NodeStatus.FAILED, 0, True, late=True)]
    choice = choose(program, [*late, Outcome(NodeStatus.SUCCESS, 3, True)], ())
    assert (list(choice.again), choice.generations) == ([True, True, False], {0: 1, 2: 3})


def saga(count: int, compensate: str, **more: Any) -> dict[str, Any]:
    plan = chain(count, compensate=compensate, **more)
    for node in plan["nodes"]:
        node["compensation"] = {"type": "noop"}
    return plan


def test_a_redrive_takes_over_the_undo_of_what_it_kept() -> None:
    """What the old run left in the world is undone by the new one, in reverse order, once per key, with its outputs."""
    old = Play(program_of(saga(3, "onFailure")), {"n0": {"x": 0}, "n1": {"x": 1}, "n2": {"x": 2}})
    assert (old.run.status, old.undone) == ("COMPLETED", [])
    new, _ = redriven(old, {"n1": {"x": 11}, "n2": FAILURE}, ["n1"])
    assert new.run.status == "FAILED"
    expected = [("n2", 1, {}), ("n2", 0, {"x": 2}), ("n1", 1, {"x": 11}), ("n1", 0, {"x": 1}), ("n0", 0, {"x": 0})]
    assert new.undone == expected
    third, again = redriven(new, {"n0": {}, "n1": {}, "n2": {}})
    assert again == [True, True, True]
    assert [step.generation for step in third.starts] == [1, 2, 2]
    assert third.run.effects == {at: [third.run.effects[at][-1]] for at in range(3)}


def test_what_failed_unsure_is_taken_over_under_its_key() -> None:
    """A plan that undoes after cancels only leaves a failed node's effect; its redrive has one effect, not two."""
    old = Play(program_of(saga(2, "onCancel")), {"n0": {"x": 0}, "n1": FAILURE})
    assert (old.run.status, old.undone) == ("FAILED", [])
    new, _ = redriven(old, {"n1": {"x": 1}})
    assert [(node, [(one["generation"], one["unsure"]) for one in own]) for node, own in new.run.effects.items()] == [
        (0, [(0, 1)]),
        (1, [(0, 2)]),
    ]
    first, _ = redriven(Play(old.program, {"n0": {"x": 0}, "n1": {"x": 1}}), {"n1": FAILURE}, ["n1"])
    second, _ = redriven(first, {"n1": {}})
    assert [(one["generation"]) for one in second.run.effects[1]] == [0, 1]


def test_changed_inputs_hold_on() -> None:
    """A correction that was made before is not lost when the node runs again because of something upstream."""
    program = program_of(chain(2))
    done = [Outcome(NodeStatus.SUCCESS, 0, True), Outcome(NodeStatus.SUCCESS, 1, True)]
    choice = choose(program, done, [0], {0: {"a": 1}}, {1: {"card": 5, "x": 1}, 0: {"a": 0, "b": 2}})
    assert choice.overrides == {0: {"a": 1, "b": 2}, 1: {"card": 5, "x": 1}}
    assert choose(program, done, [1], None, {0: {"a": 1}}).overrides == {}


def random_saga(rnd: Random) -> Plan:
    """A random plan whose nodes can mostly be undone."""
    document = plain(random_plan(rnd, 8)).wire()
    for node in document["nodes"]:
        if chance(rnd, 80):
            node["compensation"] = {"type": "noop"}
    return Plan.model_validate({**document, "compensate": "always", "finally": [{"nodeId": "last", "type": "noop"}]})


class Cut(Play):
    """A run that is played until a random moment, and then nothing is heard of it any more."""

    def __init__(self, program: Program, rnd: Random) -> None:
        self.program, self.at = program, 1
        self.run = Run(program, INPUTS, ABOUT)
        self.run.apply(Begin(), self.at)
        self.flying: list[str] = []
        for _ in range(rnd.randint(0, 12)):
            self.at += 1
            self.flying += [step.node_id for step in self.run.due(self.at) if isinstance(step, Start)]
            if not self.flying or self.run.status in RUN_ENDS:
                break
            name = self.flying.pop(rnd.randrange(len(self.flying)))
            answer = random_error(rnd) if chance(rnd, 25) else random_outputs(rnd)
            kind = NodeFailed if "type" in answer else NodeSucceeded
            self.run.apply(kind(name, answer), self.at)


@pytest.mark.parametrize("first", range(0, SEEDS * 2, SEEDS))
def test_what_a_lost_run_may_have_done_is_undone_once_and_in_order(first: int) -> None:
    """Whenever it was lost: every key that may have taken effect is undone once, after all that depend on its node."""
    for seed in range(first, first + SEEDS):
        _undone_once(Random(seed))


def _undone_once(rnd: Random) -> None:
    program = program_of(random_saga(rnd))
    lost = Cut(program, rnd)
    if lost.run.status is not RunStatus.RUNNING:
        return
    past, quiet = lost.past(), {program.index[name]: lost.at + 1000 for name in lost.flying}
    outcomes = []
    for name in program.ids:
        status = NodeStatus(past[name]["status"]) if name in past else NodeStatus.PENDING
        status = status if status in NODE_ENDS else NodeStatus.CANCELLED
        outcomes.append(Outcome(status, 0, name in past, past.get(name, {}).get("skip")))
    told = [
        Told(program.index[fact["nodeId"]], fact["type"], fact.get("data", {}), fact.get("body", {}))
        for fact in lost.run.facts
        if "nodeId" in fact and program.index[fact["nodeId"]] in program.compensations
    ]
    again = [node >= program.first_finally for node in range(len(program.ids))]
    choice = Choice(again, {}, frozenset())
    ending = Ending(RunStatus.CANCELLED, None, "lost", quiet)
    made = revive(program, INPUTS, ABOUT, outcomes, choice, {}, told, ending=ending)
    assert made.effects.keys() == lost.run.effects.keys()
    run = Run.restore(program, INPUTS, json.loads(json.dumps(made.snapshot)))
    at, order = lost.at + 1, list[str]()
    run.apply(Begin({"facts": [], "raised": []}), at)
    while run.status not in RUN_ENDS:
        steps = run.due(at)
        for step in steps:
            if isinstance(step, Undo):
                assert at >= quiet.get(step.node, 0)
                order.append(step.node_id)
                run.apply(UndoSucceeded(step.node_id, {}), at)
            else:
                assert isinstance(step, Start)
                assert step.node_id == "last"
                run.apply(NodeSucceeded(step.node_id, {}), at)
        if not steps and run.status not in RUN_ENDS:
            assert run.next_alarm is not None, "nothing is due and nothing is waited for"
            at = run.next_alarm
            run.apply(AlarmRang(), at)
    assert (run.status, run.effects) == (RunStatus.CANCELLED, {})
    assert sorted(order) == sorted(program.ids[node] for node in lost.run.effects)
    for source, target in zip(program.sources, program.targets, strict=True):
        before, after = program.ids[target], program.ids[source]
        assert before not in order or after not in order or order.index(before) < order.index(after)


def test_a_kept_rejection_stays_one_and_four_eyes_remember() -> None:
    """What was rejected goes that way again, and who had a hand in it cannot approve what follows."""
    human = {"type": "human", "task": {"title": "ok?", "fourEyes": True}}
    plan = {
        "nodes": [{"nodeId": "ask", **human}, {"nodeId": "go", "type": "noop"}, {"nodeId": "no", **human}],
        "edges": [
            {"sourceNodeId": "ask", "targetNodeId": "go"},
            {"sourceNodeId": "ask", "sourcePort": "rejected", "targetNodeId": "no"},
        ],
    }
    program = program_of(plan)
    outputs = {"decision": "reject", "decidedBy": "bob", "notes": None}
    outcomes = [Outcome(NodeStatus.SUCCESS, 0, True), Outcome(NodeStatus.SKIPPED), Outcome(NodeStatus.FAILED, 0, True)]
    choice = choose(program, outcomes)
    assert [program.ids[node] for node, again in enumerate(choice.again) if again] == ["no"]
    values = {0: {"outputs": outputs}, 2: {"inputs": {}}}
    made = revive(program, INPUTS, ABOUT, outcomes, choice, values, (), {"ask": ["bob"], "no": ["ann"]})
    run = Run.restore(program, INPUTS, json.loads(json.dumps(made.snapshot)))
    run.apply(Begin({"facts": [], "raised": []}), 1)
    assert run.due(1) == []
    task = next(iter(run.tasks.values()))
    assert list(task.excluded) == ["bob", "ann"]
