"""Examples of DESIGN section 3: edges, what flows along them, joins, and expressions that raise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dalang.events import (
    Event,
    NodeSucceeded,
    RetryRequested,
    SkipRequested,
)
from tests.core.driven import TOOL_ERROR, Driven, edge, node

# -- the small plans of DESIGN section 3 -----------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize("join", ["allLive", "all"])
def test_continue_skips_what_needs_the_failed_node(order: str, join: str) -> None:
    """``continue`` with A failing, B fine, A->D, B->D: D is SKIPPED(upstreamFailed), whichever ends first."""
    run = Driven(
        [node("a"), node("b"), node("d", join=join)], [edge("a", "d"), edge("b", "d")], failurePolicy="continue"
    )
    for each in order:
        run.bad("a") if each == "a" else run.ok("b")
    assert run.statuses == {"a": "FAILED", "b": "SUCCESS", "d": "SKIPPED"}
    assert run.reason("d") == "upstreamFailed"
    assert run.end == "FAILED"
    assert run.fact("PLAN_FAILED")["body"]["error"] == TOOL_ERROR


@pytest.mark.parametrize(("kind", "status"), [("TIMEOUT", "ERROR"), ("TOOL_ERROR", "ERROR"), ("LLM_ERROR", "FAILED")])
def test_error_edges_with_conditions(kind: str, status: str) -> None:
    """Two error edges for TIMEOUT and TOOL_ERROR: an LLM_ERROR is unhandled, and no handler runs."""
    run = Driven(
        [node("a"), node("t"), node("u")],
        [
            edge("a", "t", sourcePort="error", condition="error.type == 'TIMEOUT'"),
            edge("a", "u", sourcePort="error", condition="error.type == 'TOOL_ERROR'"),
        ],
        failurePolicy="continue",
    ).bad("a", type=kind)
    assert run.status("a") == status
    handler = {"TIMEOUT": ["t"], "TOOL_ERROR": ["u"], "LLM_ERROR": []}[kind]
    assert [each for each in run.started if each != "a"] == handler
    for each in handler:
        run.ok(each)
    assert run.end == ("COMPLETED" if handler else "FAILED")
    reasons = {run.reason(each) for each in "tu" if each not in handler}
    assert reasons == {"condition" if handler else "upstreamFailed"}


@pytest.mark.parametrize("key", ["error", "success"])
def test_reserved_ports_are_no_output_keys(key: str) -> None:
    """An http node that returns ``{"error": null}`` did not fail: the handler at its error edge does not run."""
    run = Driven([node("a"), node("h"), node("b")], [edge("a", "h", sourcePort="error"), edge("a", "b")])
    run.ok("a", **{key: None})
    assert run.status("h") == "SKIPPED"
    assert run.reason("h") == "condition"
    assert run.started["b"] == {key: None}


def test_skipping_with_outputs_lights_edges_as_success() -> None:
    """An operator who skips A with outputs: its success edge and the edges of its keys are live, the others dead."""
    run = Driven(
        [node("r"), node("a"), node("b"), node("c"), node("d"), node("h")],
        [
            edge("r", "a"),
            edge("a", "b"),
            edge("a", "c", sourcePort="x", condition="outputs.x == 1"),
            edge("a", "d", sourcePort="y"),
            edge("a", "h", sourcePort="error"),
        ],
    ).do(SkipRequested("a", {"x": 1}, operator="ann"))
    assert run.statuses == dict(r="RUNNING", a="SKIPPED", b="RUNNING", c="RUNNING", d="SKIPPED", h="SKIPPED")
    assert run.started["b"] == {"x": 1}
    assert run.fact("NODE_SKIPPED", "a")["data"] == {"status": "SKIPPED", "skipReason": "operator", "operator": "ann"}
    assert run.ok("r").ok("b").ok("c").end == "COMPLETED"


def test_skipping_without_outputs_kills_edges() -> None:
    """An operator who skips A without outputs: what needs A is skipped because of a condition, not of a failure."""
    run = Driven([node("r"), node("a"), node("b")], [edge("r", "a"), edge("a", "b")]).do(SkipRequested("a"))
    assert run.reason("b") == "condition"
    assert run.ok("r").end == "COMPLETED"


# -- what flows along edges ------------------------------------------------------------------------------------------

INPUT_RULES = [
    ({}, {"x": 1, "y": 2}),
    ({"sourcePort": "x"}, {"x": 1, "y": 2}),
    ({"targetPort": "in"}, {"in": {"x": 1, "y": 2}}),
    ({"sourcePort": "x", "targetPort": "in"}, {"in": 1}),
    ({"mapping": {"x": "a", "gone": "b"}}, {"a": 1}),
    ({"mapping": {}}, {"x": 1, "y": 2}),  # Wayang writes {} where there is none
    ({"mapping": {"y": "a"}, "sourcePort": "x", "targetPort": "in"}, {"a": 2}),
]


@pytest.mark.parametrize(("rule", "expected"), INPUT_RULES)
def test_inputs_of_a_success(rule: dict[str, Any], expected: dict[str, Any]) -> None:
    """The mapping; else at the target port the port's value or all outputs; else all outputs merge in."""
    run = Driven([node("a"), node("b")], [edge("a", "b", **rule)]).ok("a", x=1, y=2)
    assert run.started["b"] == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, {"error": TOOL_ERROR}),
        ({"targetPort": "why"}, {"why": TOOL_ERROR}),
        ({"mapping": {"error": "e", "type": "t", "gone": "g"}}, {"e": TOOL_ERROR, "t": "TOOL_ERROR"}),
    ],
)
def test_inputs_of_an_error(rule: dict[str, Any], expected: dict[str, Any]) -> None:
    """An error edge carries the ErrorPayload: under ``error``, at the target port, or by its fields."""
    run = Driven([node("a"), node("b")], [edge("a", "b", sourcePort="error", **rule)]).bad("a")
    assert run.started["b"] == expected


def test_inputs_merge_in_plan_order_of_edges() -> None:
    """The node's own inputs, then each live edge in plan order, whatever order the sources end in."""
    edges = [edge("b", "d"), edge("a", "d"), edge("c", "d", condition="false")]
    run = Driven([node("a"), node("b"), node("c"), node("d", inputs={"own": 0, "x": 0})], edges)
    run.ok("a", x="a", a=1).ok("c", x="c").ok("b", x="b", b=1)
    assert run.started["d"] == {"own": 0, "x": "a", "a": 1, "b": 1}


def test_key_port_needs_its_key() -> None:
    """An edge from a key is live when the key is there, also with null, and dead when not."""
    nodes, edges = [node("a"), node("b"), node("c")], [edge("a", "b", sourcePort="x"), edge("a", "c", sourcePort="y")]
    run = Driven(nodes, edges).ok("a", x=None)
    assert run.statuses == {"a": "SUCCESS", "b": "RUNNING", "c": "SKIPPED"}


def ported(node_id: str, kind: str, *ports: dict[str, Any], **more: Any) -> dict[str, Any]:
    return node(node_id, descriptor={kind: list(ports)}, **more)


def test_default_values_of_ports_fill_what_is_missing() -> None:
    """defaultValue is taken when the value is missing, for inputs and outputs, required or not; null is a value."""
    ports = ({"name": "x", "required": True, "defaultValue": 1}, {"name": "y", "defaultValue": 2}, {"name": "z"})
    run = Driven([ported("a", "outputs", *ports), ported("b", "inputs", *ports)], [edge("a", "b", mapping={"y": "x"})])
    assert run.ok("a", y=None).fact("NODE_COMPLETED", "a")["body"] == {"outputs": {"x": 1, "y": None}}
    assert run.started["b"] == {"x": None, "y": 2}


def test_a_default_lights_the_edge_of_its_key() -> None:
    """An output that the port's default filled in is an output."""
    run = Driven(
        [ported("a", "outputs", {"name": "x", "defaultValue": 1}), node("b")], [edge("a", "b", sourcePort="x")]
    )
    assert run.ok("a").status("b") == "RUNNING"


def test_required_input_missing_fails_without_starting() -> None:
    """A required input port without value: VALIDATION_ERROR of the node; its own error edge may handle it."""
    run = Driven(
        [ported("a", "inputs", {"name": "x", "required": True}), node("h")], [edge("a", "h", sourcePort="error")]
    )
    assert run.statuses == {"a": "ERROR", "h": "RUNNING"}
    error = run.started["h"]["error"]
    assert (error["type"], error["retryable"], error["originNode"]) == ("VALIDATION_ERROR", False, "a")
    assert error["details"] == {"code": "MISSING_INPUT", "ports": ["x"]}
    assert run.ok("h").end == "COMPLETED"


@pytest.mark.parametrize("outputs", [{}, {"X": 1}, {"error": {"x": 1}}])
def test_malformed_outputs_fail_the_node(outputs: dict[str, Any]) -> None:
    """A success without a required output is a VALIDATION_ERROR, and no success: its error edges are weighed."""
    run = Driven(
        [ported("a", "outputs", {"name": "x", "required": True}), node("b"), node("h")],
        [edge("a", "b"), edge("a", "h", sourcePort="error")],
    ).ok("a", **outputs)
    assert run.statuses == {"a": "ERROR", "b": "SKIPPED", "h": "RUNNING"}
    assert run.error("a")["details"] == {"code": "MISSING_OUTPUT", "ports": ["x"]}


@pytest.mark.parametrize("event", [NodeSucceeded("a", None), NodeSucceeded("a", [1]), SkipRequested("b", [1])])  # type: ignore[arg-type]
def test_outputs_that_are_no_object_change_nothing(event: Event) -> None:
    """Drivers turn such outputs into failures; if one slips through, the run stays as it was."""
    run = Driven([node("a"), node("b")], [edge("a", "b")])
    before = json.dumps(run.run.snapshot())
    with pytest.raises((TypeError, ValueError)):
        run.run.apply(event, 0)
    assert json.dumps(run.run.snapshot()) == before
    assert run.ok("a").ok("b").end == "COMPLETED"


def test_nodes_context_of_skipped_and_waiting_nodes() -> None:
    """``nodes.<id>.status`` exists for every node; outputs of a skipped, failed or waiting node are ``{}``."""
    names = ("a", "b", "c", "s", "w")
    inputs = {name: f"${{nodes.{name}.status}}" for name in names} | {f"{n}o": f"${{nodes.{n}.outputs}}" for n in names}
    run = Driven(
        [node("a"), node("b"), node("c"), node("s"), node("w"), node("d", join="any", inputs=inputs)],
        [
            edge("a", "s", condition="false"),
            edge("w", "d"),
            edge("c", "d"),
            edge("b", "d"),
            edge("b", "w"),
            edge("s", "d"),
        ],
        failurePolicy="continue",
    )
    run.ok("a", x=1).bad("b").ok("c")
    statuses = {"a": "SUCCESS", "b": "FAILED", "c": "SUCCESS", "s": "SKIPPED", "w": "SKIPPED"}
    assert run.started["d"] == statuses | {"ao": {"x": 1}, "bo": {}, "co": {}, "so": {}, "wo": {}}


# -- joins -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("join", "ends", "expected"),
    [
        ("allLive", "ok ok", "start"),
        ("allLive", "ok dead", "start"),
        ("allLive", "dead dead", "condition"),
        ("allLive", "bad", "upstreamFailed"),
        ("allLive", "dead", "wait"),
        ("all", "ok dead", "condition"),
        ("all", "dead", "wait"),
        ("all", "dead bad", "upstreamFailed"),
        ("all", "bad", "upstreamFailed"),
        ("any", "ok", "start"),
        ("any", "bad", "wait"),
        ("any", "bad ok", "start"),
        ("any", "bad dead", "upstreamFailed"),
        ("any", "dead dead", "condition"),
        ("allDone", "bad dead", "start"),
        ("allDone", "bad", "wait"),
        ("ad || bd", "ok", "start"),
        ("ad && bd", "dead", "wait"),
        ("ad && bd", "dead ok", "condition"),
        ("ad && bd", "dead bad", "upstreamFailed"),
        ("ad && bd", "ok ok", "start"),
        ("!ad", "bad", "start"),
        ("!ad", "dead", "start"),
        ("!ad", "ok", "wait"),
        ("!ad", "ok ok", "condition"),
        ("ad && !ad", "ok bad", "upstreamFailed"),
    ],
)
def test_joins(join: str, ends: str, expected: str) -> None:
    """What each join decides, and when, by how the two sources end."""
    run = Driven(
        [node("a"), node("b"), node("d", join=join)],
        [edge(name, "d", condition="outputs.go") for name in "ab"],
        failurePolicy="continue",
    )
    for name, end in zip("ab", ends.split(), strict=False):
        run.bad(name) if end == "bad" else run.ok(name, go=end == "ok")
    status = run.status("d")
    assert status == {"start": "RUNNING", "wait": "PENDING"}.get(expected, "SKIPPED")
    if status == "SKIPPED":
        assert run.reason("d") == expected


def test_any_starts_once() -> None:
    """A second live edge into a node that started by ``any`` changes nothing; one that still waits takes both."""
    nodes, edges = [node("a"), node("b"), node("d", join="any")], [edge("a", "d"), edge("b", "d")]
    run = Driven(nodes, edges).ok("a", a=1).ok("b", b=1)
    assert run.started["d"] == {"a": 1}
    assert run.ok("d").end == "COMPLETED"
    late = Driven(nodes, edges)
    late.run.apply(NodeSucceeded("a", {"a": 1}), 0)
    late.ok("b", b=1)
    assert late.started["d"] == {"a": 1, "b": 1}


def test_two_edges_between_the_same_nodes() -> None:
    """Two edges from one node to one node are two edges."""
    edges = [edge("a", "b"), {**edge("a", "b", sourcePort="error"), "edgeId": "again"}]
    assert Driven([node("a"), node("b")], edges).ok("a", x=1).started["b"] == {"x": 1}
    assert Driven([node("a"), node("b")], edges).bad("a").started["b"] == {"error": TOOL_ERROR}
    assert Driven([node("a"), node("b", join="all")], edges).ok("a").reason("b") == "condition"


# -- conditions and expressions that raise ---------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["outputs.gone > 1", "1 / 0 == 1", "outputs.x", "nodes.a.outputs.gone"])
def test_a_condition_that_raises_fails_the_target(condition: str) -> None:
    """It is a VALIDATION_ERROR of the edge's target, which never starts; the source succeeded."""
    run = Driven([node("a"), node("b")], [edge("a", "b", condition=condition)]).ok("a", x=1)
    assert run.statuses == {"a": "SUCCESS", "b": "FAILED"}
    assert run.error("b")["type"] == "VALIDATION_ERROR"
    assert run.error("b")["details"]["expression"] == "the condition of edge ab"
    assert run.end == "FAILED"


def test_the_targets_own_error_edge_handles_it() -> None:
    """A node that fails because of a condition into it has error edges like any other."""
    nodes = [node("a"), node("b"), node("h")]
    run = Driven(nodes, [edge("a", "b", condition="outputs.gone"), edge("b", "h", sourcePort="error")]).ok("a")
    assert run.statuses == {"a": "SUCCESS", "b": "ERROR", "h": "RUNNING"}
    assert run.ok("h").end == "COMPLETED"


def test_an_error_edge_whose_condition_raises_handles_nothing() -> None:
    """The failure stays unhandled, and the edge's target fails too; the other edges are blocked."""
    run = Driven(
        [node("a"), node("h"), node("b")],
        [edge("a", "b"), edge("a", "h", sourcePort="error", condition="error.gone")],
        failurePolicy="continue",
    ).bad("a")
    assert run.statuses == {"a": "FAILED", "h": "FAILED", "b": "SKIPPED"}


@pytest.mark.parametrize("flip", [False, True])
def test_a_raise_counts_before_a_blocked_edge_of_the_same_event(flip: bool) -> None:
    """Whether the target fails or is skipped does not depend on the order in which the plan lists two edges."""
    edges = [edge("a", "b"), {**edge("a", "b", sourcePort="error", condition="error.gone"), "edgeId": "again"}]
    run = Driven([node("a"), node("b")], edges[::-1] if flip else edges, failurePolicy="continue").bad("a")
    assert run.status("b") == "FAILED"


def test_a_raise_into_a_node_that_runs_is_an_event_only() -> None:
    """The node has started by ``any``; the second edge's condition raises: recorded, nothing else."""
    nodes, edges = (
        [node("a"), node("b"), node("d", join="any")],
        [edge("a", "d"), edge("b", "d", condition="outputs.gone")],
    )
    run = Driven(nodes, edges).ok("a").ok("b")
    assert run.status("d") == "RUNNING"
    assert run.fact("CONDITION_FAILED", "d")["data"] == {"edgeId": "bd", "code": "NO_SUCH_KEY"}
    assert run.ok("d").end == "COMPLETED"


def test_a_raise_into_a_node_that_waits_for_a_slot_fails_it() -> None:
    """It is ready but has not started, so it fails without starting."""
    nodes, edges = (
        [node("a"), node("b"), node("d", join="any")],
        [edge("a", "d"), edge("b", "d", condition="outputs.gone")],
    )
    run = Driven(nodes, edges)
    run.run.apply(NodeSucceeded("a", {}), 0)
    run.ok("b")
    assert run.status("d") == "FAILED"
    assert "d" not in run.started


def test_an_input_expression_that_raises_fails_the_node() -> None:
    """Its place is in the error; what is ready behind it still starts, and no slot is lost."""
    run = Driven(
        [node("a", inputs={"x": ["${inputs.gone}"]}, priority=1), node("b")], maxInFlight=1, failurePolicy="continue"
    )
    assert run.statuses == {"a": "FAILED", "b": "RUNNING"}
    assert run.error("a")["details"] == {"code": "NO_SUCH_KEY", "expression": "inputs/x/0 of node a"}


def test_plan_outputs_that_raise_fail_the_run() -> None:
    """All nodes are fine, but the outputs have no value: FAILED, with the VALIDATION_ERROR; never a stuck run."""
    run = Driven([node("a")], outputs={"r": "${nodes.a.outputs.gone}"}).ok("a")
    assert run.end == "FAILED"
    assert run.fact("PLAN_FAILED")["body"]["error"]["type"] == "VALIDATION_ERROR"


def test_plan_outputs() -> None:
    """They are rendered over all nodes at the end, and kept out of what may be forgotten."""
    run = Driven(
        [node("a"), node("b"), node("c")], [edge("a", "b"), edge("b", "c")], outputs={"r": "${nodes.a.outputs.x}"}
    )
    run.ok("a", x=[1]).ok("b").ok("c")
    assert run.fact("PLAN_COMPLETED")["body"] == {"outputs": {"r": [1]}}
    assert run.run.outputs == {0: {"x": [1]}}


@pytest.mark.parametrize(("engine", "inputs"), [(8, None), (9, {"i": 5, "j": 1, "x": 1})])
def test_an_input_that_was_replaced_is_not_evaluated(engine: int, inputs: dict[str, Any] | None) -> None:
    """It was replaced because it cannot be; a run that began when it was evaluated all the same still does that."""
    broken = node("b", inputs={"i": "${nodes.a.outputs.missing}", "j": "${nodes.a.outputs.x}"})
    run = Driven([node("a"), broken], [edge("a", "b")], failurePolicy="pause")
    run.run.engine = engine
    run.ok("a", x=1)
    assert "b" not in run.started
    run.do(RetryRequested("b", {"i": 5}))
    assert run.started.get("b") == inputs
