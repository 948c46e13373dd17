"""Validation: every code, by a document that has this problem and where it has it."""


# ruff: noqa: E501 - in the tables a case is one line, so that they can be read down

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from dalang.errors import InvalidDocument
from dalang.nodes import BUILT_IN_TYPES
from dalang.plan import MAX_EDGES, MAX_NODES, Node, Plan
from dalang.validation import CODES, MAX_PROBLEMS, inputs_problems, later, validate
from dalang.validation.patterns import weight
from tests.core.validation_cases import (
    ERRORS,
    GOOD,
    HTTP,
    LATER_FIELD,
    LATER_TYPE,
    WARNINGS,
    Change,
    Document,
    asking,
    edge,
    setting,
)


@pytest.fixture(autouse=True)
def _a_type_of_a_later_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which there need not be just now."""
    monkeypatch.setattr(later, "NODE_TYPES", {**later.NODE_TYPES, LATER_TYPE: "what nobody has built"})
    monkeypatch.setattr(later, "NODE_FIELDS", {**later.NODE_FIELDS, LATER_FIELD: "what nobody can do"})


def changed(change: Change) -> Document:
    document = copy.deepcopy(GOOD)
    change(document)
    return document


def test_a_good_plan_has_no_problems() -> None:
    """The plan that every case starts from is accepted, with all ids filled in."""
    report = validate(GOOD, node_types=["word-count"], agents=[["x"]])
    assert report.problems == ()
    assert report.ok
    assert report.require().edges[0].edge_id == "fetch->code-review"
    assert report.require().plan_id is not None


@pytest.mark.parametrize(("change", "pointer", "code"), ERRORS, ids=[f"{code}-{at}" for _, at, code in ERRORS])
def test_errors_refuse_a_plan_and_say_where(change: Change, pointer: str, code: str) -> None:
    """What is wrong is reported under its code at its place, as an error, and there is no plan."""
    report = validate(changed(change))
    assert (pointer, code, "error") in [(p.pointer, p.code, p.severity) for p in report.problems], report.problems
    assert report.plan is None
    assert not report.ok
    with pytest.raises(InvalidDocument):
        report.require()


@pytest.mark.parametrize(("change", "pointer", "code"), WARNINGS, ids=[f"{code}-{at}" for _, at, code in WARNINGS])
def test_warnings_do_not_refuse(change: Change, pointer: str, code: str) -> None:
    """What is doubtful is the only thing reported, and the plan is there."""
    report = validate(changed(change))
    assert [(p.pointer, p.code, p.severity) for p in report.problems] == [(pointer, code, "warning")]
    assert report.warnings == report.problems
    assert report.ok


@pytest.mark.parametrize(("change", "pointer", "code"), ERRORS + WARNINGS)
def test_sentences_are_sentences(change: Change, pointer: str, code: str) -> None:
    """Every message is one short text that ends like a sentence, and its code is documented with this severity."""
    for problem in validate(changed(change)).problems:
        assert problem.message[0] == "`" or not problem.message[0].islower()
        assert problem.message[-1] in ".?", problem.message
        assert "pydantic" not in problem.message
        assert CODES[problem.code].severity in (problem.severity, "both")


def test_every_code_has_a_case() -> None:
    """No code is documented that nothing here shows, and none is used that is not documented."""
    shown = {code for _, _, code in ERRORS + WARNINGS}
    elsewhere = {"NOT_AN_OBJECT", "TOO_MANY_NODES", "TOO_MANY_EDGES", "TOO_MANY_PROBLEMS", "UNKNOWN_NODE_TYPE"}
    elsewhere |= {"UNKNOWN_EDGE", "ORPHANED_EDGE", "IMMUTABLE"}  # test_patching.py
    elsewhere |= {"NOT_INTERRUPTIBLE"}  # test_interrupting.py
    elsewhere |= {"BAD_SECRET"}  # test_secrets.py
    elsewhere |= {"WITHOUT_EFFECT", "NESTED_TOO_DEEP", "UNKNOWN_PLAN", "RECURSIVE_PLAN"}
    elsewhere |= {"BAD_IMPLEMENTATION", "AMBIGUOUS_IMPLEMENTATION"}  # test_implementations.py
    elsewhere |= {"LARGER_THAN_POOL", "UNKNOWN_POOL"}  # tests/api/test_limits.py
    elsewhere |= {"UNKNOWN_HANDLER", "UNMET_REQUIREMENTS", "INVALID_INPUT", "TOO_LARGE", "SCHEMA_TOO_COSTLY"}
    assert shown | elsewhere == set(CODES)


def test_everything_is_reported_at_once() -> None:
    """Two problems far apart do not hide each other, not even behind a malformed node and a malformed head."""
    document = changed(setting("nodes", 2, "retryPolicy", 5))
    document["version"] = 7
    document["edges"][1]["condition"] = "outputs.("
    document["outputs"]["x"] = "${nodes.nobody.status}"
    document["inputs"]["properties"]["size"]["type"] = "int"
    found = {(p.pointer, p.code) for p in validate(document).problems}
    assert found == {
        ("/nodes/2/retryPolicy", "WRONG_TYPE"),
        ("/version", "WRONG_TYPE"),
        ("/edges/1/condition", "BAD_EXPRESSION"),
        ("/outputs/x", "UNKNOWN_NODE"),
        ("/inputs/properties/size/type", "BAD_INPUT_SCHEMA"),
    }


def test_a_malformed_node_still_exists() -> None:
    """Edges to a malformed node and expressions that read it are no problems of their own."""
    document = changed(setting("nodes", 0, "requirements", 5))
    assert [(p.pointer, p.node_id) for p in validate(document).problems] == [("/nodes/0/requirements", "fetch")]


def test_a_dangling_edge_is_one_problem() -> None:
    """An edge to a node that is missing is reported once, not again as an orphan, an unreachable read and a join."""
    document = changed(setting("edges", 3, "sourceNodeId", "codereview"))
    problems = validate(document).problems
    assert [(p.pointer, p.code) for p in problems] == [("/edges/3/sourceNodeId", "UNKNOWN_NODE")]
    assert "did you mean `code-review`?" in problems[0].message
    assert problems[0].edge_id == "e1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edge("wait", "code-review"), "code-review -> wait -> code-review"),
        (setting("outputs", "x", "${nodes.code-review.outputs.text}"), "write nodes['code-review']"),
        (setting("nodes", 2, "join", "alllive"), "did you mean `allLive`?"),
        (setting("nodes", 0, "retrypolicy", {}), "did you mean `retryPolicy`?"),
        (setting("nodes", 0, "dependsOn", ["b"]), "did you mean an edge, in the plan's `edges`?"),
        (setting("edges", 0, "from", "a"), "did you mean `sourceNodeId`?"),
        (setting("edges", 1, "condition", "${true}"), "without ${ }"),
        (setting(*HTTP, "method", "get"), "write GET"),
        (setting("version", 1.0), "quotes"),
        (setting("timeout", "6m"), "6m30s (fetch -> code-review -> wait), but the timeout of the run is 6m"),
        (setting("nodes", 2, "join", "code-review->wait"), "edges['a->b']"),
        (setting("failurePolicy", "failfast"), "failFast"),
        (setting("nodes", 3, "type", LATER_TYPE), "later version"),
        (asking(quorum=3, candidates=["ann"]), "lower `quorum`"),
    ],
)
def test_messages_say_what_to_do(change: Change, words: str) -> None:
    """A message holds what is needed to repair it: the path, the near match, both figures."""
    assert any(words in problem.message for problem in validate(changed(change)).problems)


def test_snake_case_and_milliseconds_are_found_where_they_stand() -> None:
    """A pointer leads to the key as the document spells it, and both other spellings are accepted."""
    document = changed(lambda d: d["nodes"][0].update(retry_policy={"max_attempts": 0}))
    assert [p.pointer for p in validate(document).problems] == ["/nodes/0/retry_policy/max_attempts"]
    document = changed(lambda d: d["nodes"][0].update(retryPolicy={"initialDelayMs": 500, "maxDelayMs": 60000}))
    node = validate(document).require().nodes[0]
    assert node.retry_policy is not None
    assert node.retry_policy.initial_delay == 500


# -- types, handlers, agents -------------------------------------------------------------------------------------------


def with_node(**fields: Any) -> Document:
    return {"name": "p", "nodes": [{"nodeId": "a", **fields}]}


def test_unknown_types_need_the_registered_ones() -> None:
    """Without the registered types none is refused; with them, one that is not there, with the nearest."""
    document = with_node(type="word-cuont")
    assert validate(document).ok
    (problem,) = validate(document, node_types=["word-count"]).problems
    assert (problem.pointer, problem.code) == ("/nodes/0/type", "UNKNOWN_NODE_TYPE")
    assert "did you mean `word-count`?" in problem.message
    assert validate(with_node(type="word-count"), node_types=["word-count"]).ok


@pytest.mark.parametrize("kind", BUILT_IN_TYPES)
def test_built_in_types_are_always_known(kind: str) -> None:
    """A built-in type needs no registration."""
    body = {"nodes": [{"nodeId": "a", "type": "noop"}]}
    holds = {
        "plan": {"plan": body},
        "map": {"map": {"items": [1], "body": body}},
        "loop": {"loop": {"body": body, "until": "true", "maxIterations": 1}},
        **{
            one: {"descriptor": {"implementation": {"type": one, "coordinate": "x", "digest": "0" * 64}}}
            for one in ("wasm", "container")
        },
    }
    own = holds.get(kind, {"handler": "f"})
    inputs = {"url": "https://x.org", "seconds": 1, "duration": "1s", "name": "n", "server": "s", "tool": "t"}
    inputs["prompt"] = "x"
    assert validate(with_node(type=kind, inputs=inputs, **own), node_types=["f"], agents=[["x"]]).ok


def test_a_python_handler_must_be_registered() -> None:
    """The function of a python node is checked like a type, by handler or by the implementation's coordinate."""
    (problem,) = validate(with_node(type="python", handler="cuont"), node_types=["count"]).problems
    assert (problem.pointer, problem.code) == ("/nodes/0/handler", "UNKNOWN_HANDLER")
    descriptor = {"implementation": {"type": "python", "coordinate": "x"}}
    (problem,) = validate(with_node(type="python", descriptor=descriptor), node_types=[]).problems
    assert problem.pointer == "/nodes/0/descriptor/implementation/coordinate"
    assert validate(with_node(type="python", descriptor=descriptor)).ok


def test_a_type_of_a_later_version_may_be_registered() -> None:
    """A function registered by such a name is what a plan means by it."""
    assert not validate(with_node(type=LATER_TYPE)).ok
    assert validate(with_node(type=LATER_TYPE), node_types=[LATER_TYPE]).ok


@pytest.mark.parametrize(
    ("agents", "fields", "words"),
    [
        ([], {}, "No agent is registered"),
        ([["a"], ["b"]], {"requirements": {"capabilities": ["a", "b"]}}, "No one agent has all"),
        ([["code-review"]], {"requirements": {"capabilities": ["code_review"]}}, "did you mean `code-review`?"),
        ([["a"]], {"descriptor": {"capabilities": ["c"]}}, "capability `c`"),
        ([["a", "b"]], {"requirements": {"capabilities": ["a"]}, "descriptor": {"capabilities": ["b"]}}, None),
        ([], {"handler": "mine"}, None),
        (None, {"requirements": {"capabilities": ["a"]}}, None),
    ],
)
def test_requirements_that_no_agent_meets(agents: Any, fields: Document, words: str | None) -> None:
    """A node that no registered agent could ever take is a warning; nothing is said while agents are not known."""
    report = validate(with_node(type="agent", **fields), agents=agents)
    assert report.ok
    assert [p.code for p in report.problems] == ([] if words is None else ["UNMET_REQUIREMENTS"])
    assert words is None or words in report.problems[0].message


def test_what_an_edge_could_bring_is_not_missing() -> None:
    """A url that comes along an edge is enough for an http node, and one that cannot come is not."""
    nodes = [{"nodeId": "a", "type": "noop"}, {"nodeId": "b", "type": "http"}]
    for fields, ok in (
        ({}, True),
        ({"mapping": {"x": "url"}}, True),
        ({"mapping": {"x": "y"}}, False),
        ({"sourcePort": "x", "targetPort": "url"}, True),
        ({"targetPort": "y"}, False),
        ({"sourcePort": "error"}, False),
    ):
        edges = [{"sourceNodeId": "a", "targetNodeId": "b", **fields}]
        assert validate({"name": "p", "nodes": nodes, "edges": edges}).ok is ok, fields


def test_an_input_that_is_an_expression_is_not_judged() -> None:
    """What is only known at run time is not refused before."""
    inputs = {
        "url": "${inputs.url}",
        "method": "${inputs.m}",
        "headers": {"a": "${inputs.h}"},
        "timeout": "${inputs.t}",
    }
    assert validate(with_node(type="http", inputs=inputs)).ok


@pytest.mark.parametrize("field", [LATER_FIELD, *later.NODE_FIELDS])
def test_node_fields_of_later_versions(field: str) -> None:
    """A field this version would ignore refuses the plan, and nothing else is said about it."""
    (problem,) = validate(with_node(type="noop", **{field: {}})).problems
    assert (problem.pointer, problem.code) == (f"/nodes/0/{field}", "FEATURE_UNAVAILABLE")


@pytest.mark.parametrize("kind", [LATER_TYPE, *later.NODE_TYPES])
def test_node_types_of_later_versions(kind: str) -> None:
    """A type this version does not have refuses the plan, whether or not the registered types are known."""
    for types in (None, ["x"]):
        (problem,) = validate(with_node(type=kind), node_types=types).problems
        assert (problem.pointer, problem.code) == ("/nodes/0/type", "FEATURE_UNAVAILABLE")


def test_nothing_of_a_later_version_is_in_the_models() -> None:
    """What has arrived is no longer in the table of what is missing."""
    names = {field.alias for field in Node.model_fields.values()}
    assert names.isdisjoint(later.NODE_FIELDS)
    assert {field.alias for field in Plan.model_fields.values()}.isdisjoint(later.PLAN_FIELDS)
    assert set(BUILT_IN_TYPES).isdisjoint(later.NODE_TYPES)


# -- expressions and the graph -----------------------------------------------------------------------------------------


def test_reads_over_a_long_way() -> None:
    """A node may read any ancestor however far, and a condition its own source."""
    count = 9000  # more than are followed at once
    nodes: list[Document] = [{"nodeId": f"n{i}", "type": "noop"} for i in range(count)]
    for i in range(2, count):
        nodes[i]["inputs"] = {"a": f"${{nodes.n{i // 2 if i % 100 else 0}.outputs.a}}"}
    edges: list[Document] = [{"sourceNodeId": f"n{i}", "targetNodeId": f"n{i + 1}"} for i in range(count - 1)]
    edges[500]["condition"] = "nodes.n500.outputs.a == nodes.n3.outputs.a"
    assert validate({"name": "p", "nodes": nodes, "edges": edges}).problems == ()
    nodes[4000]["inputs"] = {"a": "${nodes.n8999.outputs.a}"}
    nodes[7000]["inputs"] = {"a": "${nodes.n7001.outputs.a}"}
    problems = validate({"name": "p", "nodes": nodes, "edges": edges}).problems
    assert {p.pointer for p in problems} == {"/nodes/4000/inputs/a", "/nodes/7000/inputs/a"}
    assert {p.code for p in problems} == {"REFERENCE_NOT_UPSTREAM"}


def test_cycles_without_a_common_node_are_all_reported() -> None:
    """Two cycles are two problems, each with its path, and what is behind them is none."""
    pairs = ["ab", "ba", "cd", "de", "ec", "bf"]
    document = {
        "name": "p",
        "nodes": [{"nodeId": name, "type": "noop"} for name in "abcdef"],
        "edges": [{"sourceNodeId": source, "targetNodeId": target} for source, target in pairs],
    }
    cycles = [p.message for p in validate(document).problems if p.code == "CYCLE"]
    assert len(cycles) == 2
    assert "a -> b -> a" in cycles[0]
    assert "c -> d -> e -> c" in cycles[1]


def test_finally_nodes_read_main_nodes_and_their_own_ancestors() -> None:
    """They run after all others, and among themselves in the order of their edges."""
    document = copy.deepcopy(GOOD)
    document["finally"].append({"nodeId": "last", "type": "noop", "inputs": {"a": "${nodes.clean.outputs}"}})
    (problem,) = validate(document).problems
    assert (problem.pointer, problem.code) == ("/finally/1/inputs/a", "REFERENCE_NOT_UPSTREAM")
    document["edges"].append({"sourceNodeId": "clean", "targetNodeId": "last", "condition": "nodes.wait.status != ''"})
    assert validate(document).problems == ()


def test_inputs_of_a_composed_schema_are_not_judged() -> None:
    """Where properties may come from elsewhere in the schema, a name that is not among them is no problem."""
    document = changed(setting(*HTTP, "body", "${inputs.other}"))
    document["inputs"]["allOf"] = [{"properties": {"other": {}}}]
    assert validate(document).problems == ()


# -- limits and other documents ----------------------------------------------------------------------------------------


def test_too_many_nodes_and_edges() -> None:
    """A plan past the limits is refused without a look at what is in it."""
    report = validate({"name": "p", "nodes": [None] * (MAX_NODES + 1), "edges": [None] * (MAX_EDGES + 1)})
    assert [p.code for p in report.problems] == ["TOO_MANY_NODES", "TOO_MANY_EDGES"]


def test_problems_are_bounded_and_errors_are_never_crowded_out() -> None:
    """However many warnings there are, the error is there, and the last problem says that there are more."""
    nodes: list[Document] = [{"nodeId": f"n{i}", "type": "noop"} for i in range(1000)]
    nodes[999]["type"] = "http"
    edges = [{"sourceNodeId": "n0", "targetNodeId": "n1"}]
    report = validate({"name": "p", "nodes": nodes, "edges": edges})
    assert len(report.problems) == MAX_PROBLEMS + 1
    assert [p.code for p in report.errors] == ["MISSING_INPUT", "TOO_MANY_PROBLEMS"]
    assert not report.ok
    del nodes[999]
    report = validate({"name": "p", "nodes": nodes, "edges": edges})
    assert report.ok
    assert report.problems[-1].code == "TOO_MANY_PROBLEMS"
    assert "797 more" in report.problems[-1].message


@pytest.mark.parametrize("document", [None, [], "x", 5])
def test_what_is_no_object(document: Any) -> None:
    """It is refused as a whole."""
    assert [(p.pointer, p.code) for p in validate(document).problems] == [("", "NOT_AN_OBJECT")]


def test_several_values_that_are_no_json() -> None:
    """Every part that is no JSON is named."""
    document = changed(setting("nodes", 0, "inputs", math.inf))
    document["edges"][1]["condition"] = "\ud800"
    document["metadata"] = {"deep": [[[{}]]], 5: 6}
    places = {p.pointer for p in validate(document).problems}
    assert places == {"/nodes/0/inputs", "/edges/1/condition", "/metadata"}


def test_hostile_depth() -> None:
    """A document nested a hundred thousand deep is refused, not followed."""
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert [p.code for p in validate(changed(setting("nodes", 0, "inputs", {"a": deep}))).problems] == ["NOT_JSON"]


def test_a_model_is_validated_like_its_wire_form() -> None:
    """A plan goes through again unchanged, and what a model was built with past its checks is found."""
    plan = validate(GOOD).require()
    assert validate(plan).plan == plan
    assert validate(plan.wire()).plan == plan
    assert plan.digest() == validate(plan.wire()).require().digest()
    wrong = plan.model_copy(update={"metadata": {"a": math.nan}})
    assert [(p.pointer, p.code) for p in validate(wrong).problems] == [("/metadata/a", "NOT_JSON")]


def test_derived_ids_that_meet_a_given_one() -> None:
    """An edgeId that looks like a derived one and is taken by it is refused, not silently shared."""
    nodes = [{"nodeId": name, "type": "noop"} for name in "ab"]
    two = [{"sourceNodeId": "a", "targetNodeId": "b"}] * 2
    edges = [{"edgeId": "a->b#2", "sourceNodeId": "a", "targetNodeId": "b"}, *two]
    report = validate({"name": "p", "nodes": nodes, "edges": edges})
    assert report.plan is None or len({edge.edge_id for edge in report.plan.edges}) == 3


@pytest.mark.parametrize(
    ("pattern", "least", "most"),
    [("abc", 3, 3), ("[0-9]{4}-x", 70, 90), ("(a{10}){10}", 100, 130), (r"\pL{1000}", 200_000, 400_000), ("a{3,}", 3, 3), ("{", 1, 1), ("(((", 3, 9), ("\\", 0, 3)],
)  # fmt: skip
def test_weights_of_patterns(pattern: str, least: int, most: int) -> None:
    """A pattern weighs what it is with its repetitions written out."""
    assert least <= weight(pattern) <= most


def test_no_inputs_schema_takes_any_object() -> None:
    """A plan without a schema takes any inputs that are an object."""
    plan = validate(with_node(type="noop")).require()
    assert inputs_problems(plan, {"a": 1}) == []
    assert [p.code for p in inputs_problems(plan, [])] == ["NOT_AN_OBJECT"]
