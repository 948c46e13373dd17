"""Provenance from plan and events: every input has a source, and it is the one that the run really used."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from dalang.canonical import pointer
from dalang.events import Begin, NodeFailed, NodeSucceeded, PlanRevised, RetryRequested, SkipRequested
from dalang.expressions import compile as compile_expression
from dalang.plan import Plan
from dalang.program import Program
from dalang.provenance import About, Happened, Provenance
from dalang.provenance_sources import KINDS
from dalang.run import Run
from dalang.run_state import LIVE
from tests.core.driven import Driven, edge, node
from tests.core.random_runs import chance, random_plan
from tests.core.test_revival import Play, program_of, random_answers, redriven
from tests.core.test_run_properties import INPUTS, Game
from tests.effort import tries


def told(run: Run, program: Program, inputs: Any = None, **more: Any) -> Provenance:
    """Return the provenance of a run, from its facts alone."""
    about = About("r1", INPUTS if inputs is None else inputs, {"id": "r1"}, "first", **more)
    events = [
        Happened(f"0.{fact['seq']}", fact["type"], fact.get("nodeId"), "", fact.get("data", {}), fact.get("body"))
        for fact in run.facts
    ]
    return Provenance(about, {"first": program}.get).tell(events)


def test_every_input_of_every_execution_has_the_source_that_it_had() -> None:
    """Random plans, played in any order with pauses, skips and cancels: all is explained, and values agree."""
    for seed in range(tries(60)):
        game = Game(Random(seed))
        game.play(checks=False)
        found = told(game.run, game.program)
        check(found, game.run)
        live = [state == LIVE for state in game.run.edges]
        assert [state == LIVE for state in found.told.edges] == live, seed


def test_every_input_of_a_redrive_has_a_source() -> None:
    """What was kept is lit again, and what runs again with recorded inputs is explained all the same."""
    seen = 0
    for seed in range(tries(40)):
        rnd = Random(seed)
        plan = random_plan(rnd)
        program = program_of(plan)
        old = Play(program, random_answers(rnd, plan, 30))
        wanted = [name for name, status in old.statuses().items() if status != "SUCCESS" or chance(rnd, 30)]
        if not wanted:
            continue
        new, _ = redriven(old, random_answers(rnd, plan, 20), wanted)
        found = told(new.run, program, redrive_of="r0")
        check(found, new.run)
        kept = [one for one in found.executions if one["kind"] == "kept"]
        assert all(one["keptFrom"] == "r0" for one in kept)
        assert {one["nodeId"] for one in kept}.isdisjoint(step.node_id for step in new.starts)
        seen += len(kept)
    assert seen > 30


def check(found: Provenance, run: Run) -> None:
    bodies = {f"0.{fact['seq']}": fact.get("body", {}) for fact in run.facts}
    by_id = {one["id"]: one for one in found.executions}
    assert len(by_id) == len(found.executions)
    starts = [fact for fact in run.facts if fact["type"] == "NODE_STARTED"]
    worked = [one for one in found.executions if one["kind"] == "work"]
    assert {one["startedEvent"] for one in worked} <= {f"0.{fact['seq']}" for fact in starts}
    assert {fact["nodeId"] for fact in starts} == {one["nodeId"] for one in worked}
    for one in worked:
        inputs = bodies[one["startedEvent"]]["inputs"]
        sources = one["inputs"]["sources"]
        for key in inputs:
            mine = [source for source in sources if (source["pointer"] + "/").startswith(pointer(key) + "/")]
            assert mine, (one, key)
        for source in sources:
            assert source["from"] in KINDS
            assert source["from"] != "unknown", (one, source)
            if source["from"] == "edge":
                giver = by_id[source["execution"]]
                body = bodies[giver["endedEvent"]]
                assert carried(source, body) == inputs[source["pointer"][1:]]


def carried(source: Mapping[str, Any], body: Mapping[str, Any]) -> Any:
    """Return what an edge's source says that it carried, from what its giver put out."""
    if source["port"] == "error":
        error = body["error"]
        return {"error": error, **error}[source["key"]] if "key" in source else error
    outputs = body["outputs"]
    if "key" in source:
        return outputs[source["key"]]
    return outputs if source["port"] == "success" else outputs[source["port"]]


def sources(found: Provenance, execution: str) -> dict[str, dict[str, Any]]:
    (one,) = [one for one in found.executions if one["id"] == execution]
    return {source["pointer"]: source for source in one["inputs"]["sources"]}


PORTS = {"inputs": [{"name": "tone", "type": "string", "defaultValue": "calm"}]}


def test_each_kind_of_source() -> None:
    """Literals, expressions with all they read, secrets by name, edges by port and mapping, defaults."""
    inputs = {
        "fixed": {"a": 1},
        "computed": "${inputs.topic + nodes.a.outputs.x}",
        "mixed": {"text": "for ${run.id}", "number": 2},
        "key": "secret://model-key",
        "replaced": "by an edge",
    }
    game = Driven(
        [node("a"), node("b", inputs=inputs, descriptor=PORTS)],
        [
            edge("a", "b", sourcePort="x", targetPort="replaced", condition="outputs.x == 'y'"),
            {"edgeId": "second", "sourceNodeId": "a", "targetNodeId": "b", "mapping": {"x": "again"}},
        ],
        run_inputs={"topic": "t"},
    )
    game.ok("a", x="y").ok("b", z=1)
    found = told(game.run, game.run.program, {"topic": "t"})
    read = {"of": "outputs", "nodeId": "a", "execution": "a@1", "path": "/x"}
    base = {"from": "edge", "nodeId": "a", "execution": "a@1"}
    assert sources(found, "b@1") == {
        "/fixed": {"pointer": "/fixed", "from": "literal"},
        "/computed": {
            "pointer": "/computed",
            "from": "expression",
            "expressions": ["inputs.topic + nodes.a.outputs.x"],
            "reads": [{"of": "inputs", "path": "/topic"}, read],
        },
        "/mixed/text": {
            "pointer": "/mixed/text",
            "from": "expression",
            "expressions": ["run.id"],
            "reads": [{"of": "run", "path": "/id"}],
        },
        "/mixed/number": {"pointer": "/mixed/number", "from": "literal"},
        "/key": {"pointer": "/key", "from": "secret", "secrets": ["model-key"]},
        "/replaced": {
            "pointer": "/replaced",
            "edgeId": "ab",
            "port": "x",
            "condition": "outputs.x == 'y'",
            "reads": [read],
            **base,
        },
        "/again": {"pointer": "/again", "edgeId": "second", "port": "success", "key": "x", **base},
        "/tone": {"pointer": "/tone", "from": "default"},
    }
    assert compile_expression("inputs.a.b").paths == (("inputs", "a", "b"),)


def test_what_people_changed_and_gave() -> None:
    """A retry with other inputs is another execution; outputs given with a skip are the operator's."""
    plan = {"nodes": [{"nodeId": n, "type": "noop"} for n in "abc"], "failurePolicy": "pause"}
    edges = [{"sourceNodeId": "a", "targetNodeId": "b"}, {"sourceNodeId": "b", "targetNodeId": "c"}]
    program = program_of(Plan.model_validate({"name": "p", **plan, "edges": edges}))
    run = Run(program, {}, {"id": "r1"})
    failure = {"type": "TOOL_ERROR", "message": "m"}
    for event in (
        Begin(),
        NodeSucceeded("a", {"x": 1, "y": 1}),
        NodeFailed("b", failure),
        RetryRequested("b", inputs={"x": 2}, operator="ann"),
        NodeFailed("b", failure),
        SkipRequested("b", {"z": 3}, operator="ben"),
        NodeSucceeded("c", {}),
    ):
        run.apply(event, 1)
        run.due(1)
    found = told(run, program, {})
    assert [one["id"] for one in found.executions] == ["a@1", "b@1", "b@2", "b@3", "c@1"]
    given = found.executions[3]
    assert (given["kind"], given["people"], given["outputs"]["from"]) == ("given", ["ben"], "operator")
    second = sources(found, "b@2")
    assert (second["/x"]["from"], second["/x"]["operator"], second["/y"]["from"]) == ("operator", "ann", "edge")
    assert sources(found, "c@1")["/z"]["execution"] == "b@3"


def test_what_cannot_be_known_is_said_to_be_uncertain() -> None:
    """Values that were erased, or stand elsewhere, cost certainty and no more; so does a plan that is gone."""
    game = Driven([node("a"), node("b")], [edge("a", "b", condition="outputs.x")], run_inputs={})
    game.ok("a", x=True).ok("b")
    for fact in game.run.facts:
        fact.pop("body", None)
    (source,) = sources(told(game.run, game.run.program, {}), "b@1").values()
    assert (source["from"], source["edgeId"], source["certain"]) == ("edge", "ab", False)
    gone = Provenance(About("r1", {}), {}.get).tell(
        [Happened("0.1", "NODE_STARTED", "a", "", {}, {"inputs": {"x": 1}})]
    )
    assert sources(gone, "a@1")["/x"]["from"] == "unknown"


def test_another_plan_in_mid_run_gives_other_sources() -> None:
    """Edges that are new carry what had been put out before; executions say by which plan they began."""
    first = {"nodes": [node("a"), node("b"), node("c")], "edges": [edge("a", "b"), edge("b", "c")]}
    second = {
        "nodes": [node("a"), node("b"), node("c", inputs={"own": 1}), node("d")],
        "edges": [edge("a", "b"), edge("b", "c"), edge("a", "c", targetPort="of_a"), edge("c", "d")],
    }
    old, new = (program_of(Plan.model_validate({"name": "p", **one})) for one in (first, second))
    run = Run(old, {}, {"id": "r1"})
    run.apply(Begin(), 1)
    run.due(1)
    run.retain()
    run.apply(NodeSucceeded("a", {"x": 1}), 1)
    run.due(1)
    run.apply(PlanRevised(new, "second", 1, operator="ann"), 1)
    run.release()
    for name in "bcd":
        run.due(1)
        run.apply(NodeSucceeded(name, {name: 2}), 1)
    assert str(run.status) == "COMPLETED"
    events = [
        Happened(f"0.{fact['seq']}", fact["type"], fact.get("nodeId"), "", fact.get("data", {}), fact.get("body"))
        for fact in run.facts
    ]
    found = Provenance(About("r1", {}, {"id": "r1"}, "first"), {"first": old, "second": new}.get).tell(events)
    check(found, run)
    assert {key: (one["from"], one.get("edgeId")) for key, one in sources(found, "c@1").items()} == {
        "/own": ("literal", None),
        "/of_a": ("edge", "ac"),
        "/b": ("edge", "bc"),
    }
    assert [(one["id"], one["plan"], one["revision"]) for one in found.executions] == [
        ("a@1", "first", 1),
        ("b@1", "first", 1),
        ("c@1", "second", 2),
        ("d@1", "second", 2),
    ]


def test_an_undo_names_what_it_undoes() -> None:
    """What its compensation reads, or, where it names nothing, inputs and outputs of what is undone."""
    seat = node("seat", compensation={"type": "noop", "inputs": {"seat": "${outputs.seat}", "why": "failed"}})
    card = node("card", inputs={"sum": 3}, compensation={"type": "noop"})
    plan = {"nodes": [seat, card, node("last")], "edges": [edge("seat", "card"), edge("card", "last")]}
    play = Play(program_of(plan), {"seat": {"seat": "12A"}, "card": {"receipt": "r"}, "last": {"type": "TOOL_ERROR"}})
    found = told(play.run, play.program)
    undos = [one for one in found.executions if one["kind"] == "undo"]
    assert [(one["id"], one["undoes"], one["status"]) for one in undos] == [
        ("card@2", "card@1", "COMPENSATED"),
        ("seat@2", "seat@1", "COMPENSATED"),
    ]
    kinds = {key: (one["from"], one.get("part")) for key, one in sources(found, "card@2").items()}
    assert kinds == {"/sum": ("undone", "inputs"), "/seat": ("undone", "inputs"), "/receipt": ("undone", "outputs")}
    assert {key: one["from"] for key, one in sources(found, "seat@2").items()} == {
        "/seat": "expression",
        "/why": "literal",
    }
