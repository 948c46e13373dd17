"""Plans that must come out right, one by one: DESIGN sections 3 and 4, and what the properties once found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from dalang.events import (
    Begin,
    CancelRequested,
    Event,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    PauseRequested,
    Rejected,
    ResumeRequested,
    SkipRequested,
    Start,
    Stop,
    TimedOut,
)
from dalang.plan import Plan
from dalang.program import Program, compile_plan
from dalang.run import Run
from dalang.statuses import ImpossibleMove, RunStatus

ABOUT = {"id": "r1"}
TOOL_ERROR = {"type": "TOOL_ERROR", "message": "broken", "attempt": 3}


def node(node_id: str, **more: Any) -> dict[str, Any]:
    return {"nodeId": node_id, "type": "noop", **more}


def edge(source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"edgeId": f"{source}{target}", "sourceNodeId": source, "targetNodeId": target, **more}


def program(nodes: list[dict[str, Any]], edges: list[dict[str, Any]] | None = None, **more: Any) -> Program:
    return Program(compile_plan(Plan.model_validate({"name": "p", "nodes": nodes, "edges": edges or [], **more})))


def last(*names: str) -> dict[str, Any]:
    return {"finally": [node(name) for name in names]}


class Driven:
    """A run that has begun, driven by hand; ``started`` holds the inputs of every node that was started."""

    def __init__(
        self, nodes: list[dict[str, Any]], edges: list[dict[str, Any]] | None = None, *, begin: bool = True, **more: Any
    ) -> None:
        self.inputs = more.pop("run_inputs", {})
        self.run = Run(program(nodes, edges, **more), self.inputs, ABOUT)
        self.started: dict[str, Mapping[str, Any]] = {}
        self.stopped: list[str] = []
        if begin:
            self.do(Begin())

    def do(self, *events: Event) -> Driven:
        for event in events:
            self.run.apply(event, 0)
            self.due()
        return self

    def due(self) -> None:
        for step in self.run.due(0):
            if isinstance(step, Start):
                assert step.node_id not in self.started
                self.started[step.node_id] = step.inputs
            else:
                self.stopped.append(step.node_id)

    def ok(self, node_id: str, **outputs: Any) -> Driven:
        return self.do(NodeSucceeded(node_id, outputs))

    def bad(self, node_id: str, **error: Any) -> Driven:
        return self.do(NodeFailed(node_id, {**TOOL_ERROR, **error}))

    @property
    def statuses(self) -> dict[str, str]:
        return dict(zip(self.run.program.ids, map(str, self.run.statuses), strict=True))

    def status(self, node_id: str) -> str:
        return self.statuses[node_id]

    @property
    def end(self) -> str:
        return str(self.run.status)

    def fact(self, kind: str, node_id: str | None = None) -> Any:
        """Return the only fact of this type about this node."""
        (found,) = [f for f in self.run.facts if f["type"] == kind and f.get("nodeId") == node_id]
        return found

    def reason(self, node_id: str) -> str:
        reason: str = self.fact("NODE_SKIPPED", node_id)["data"]["skipReason"]
        return reason

    def error(self, node_id: str) -> dict[str, Any]:
        kind = "NODE_ERROR" if self.status(node_id) == "ERROR" else "NODE_FAILED"
        error: dict[str, Any] = self.fact(kind, node_id)["body"]["error"]
        return error


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


# -- failure, cancel, timeout, finally, pause ------------------------------------------------------------------------

CLEAN: dict[str, Any] = {"finally": [node("f", inputs={"was": "${run.status}"}), node("g")]}


def test_fail_fast_stops_the_rest() -> None:
    """The failure's cascade, then what waits is CANCELLED and what is in flight is stopped; then the run is FAILED."""
    nodes = [node("a"), node("b"), node("c"), node("d")]
    run = Driven(nodes, [edge("a", "c"), edge("b", "d")]).bad("a")
    assert run.statuses == {"a": "FAILED", "b": "RUNNING", "c": "SKIPPED", "d": "CANCELLED"}
    assert run.stopped == ["b"]
    assert run.end == "RUNNING"
    assert run.do(NodeStopped("b")).end == "FAILED"
    assert run.status("b") == "CANCELLED"


@pytest.mark.parametrize("last", [NodeSucceeded("b", {"x": 1}), NodeFailed("b", TOOL_ERROR), NodeStopped("b")])
@pytest.mark.parametrize("ending", [NodeFailed("a", TOOL_ERROR), CancelRequested(), TimedOut()])
def test_a_node_may_end_before_its_stop_arrives(ending: Event, last: Event) -> None:
    """Its own end counts for the node and changes nothing for the run."""
    run = Driven([node("a"), node("b"), node("d")], [edge("b", "d")]).do(ending)
    if not isinstance(ending, NodeFailed):
        run.do(NodeStopped("a"))
    run.do(last)
    assert run.end == ("FAILED" if isinstance(ending, NodeFailed) else "CANCELLED")
    expected = {NodeSucceeded: "SUCCESS", NodeFailed: "FAILED", NodeStopped: "CANCELLED"}[type(last)]
    assert (run.status("b"), run.status("d")) == (expected, "CANCELLED")


def test_abort_ends_the_run_under_continue() -> None:
    """An unhandled error whose suggestedAction is ABORT is failFast; a handled one is not."""
    more: dict[str, Any] = {"failurePolicy": "continue"}
    assert Driven([node("a"), node("b")], **more).bad("a", suggestedAction="ABORT").stopped == ["b"]
    handled = Driven([node("a"), node("b")], [edge("a", "b", sourcePort="error")], **more)
    assert handled.bad("a", suggestedAction="ABORT").ok("b").end == "COMPLETED"


@pytest.mark.parametrize(
    ("ending", "end"),
    [
        (NodeSucceeded("a", {}), "COMPLETED"),
        (NodeFailed("a", TOOL_ERROR), "FAILED"),
        (CancelRequested(reason="enough"), "CANCELLED"),
        (TimedOut(), "CANCELLED"),
    ],
)
def test_finally_runs_whatever_the_end(ending: Event, end: str) -> None:
    """finally nodes start when all else has ended, know the end as ``run.status``, and the end comes after them."""
    run = Driven([node("a"), node("b")], [edge("a", "b")], **CLEAN).do(ending)
    if isinstance(ending, NodeSucceeded):
        run.ok("b")
    elif not isinstance(ending, NodeFailed):
        assert "f" not in run.started
        run.do(NodeStopped("a"))
    assert run.started["f"] == {"was": end}
    assert run.ok("f").end == "RUNNING"
    assert run.ok("g").end == end
    if isinstance(ending, TimedOut):
        assert run.fact("PLAN_CANCELLED")["data"]["reason"] == "TIMEOUT"


@pytest.mark.parametrize("policy", ["failFast", "continue"])
def test_a_failing_finally_node_fails_the_run_and_stops_nothing(policy: str) -> None:
    """The other finally nodes go on; a run that was cancelled stays CANCELLED."""
    run = Driven([node("a")], failurePolicy=policy, **CLEAN).ok("a").bad("f")
    assert run.status("g") == "RUNNING"
    assert run.stopped == []
    assert run.ok("g").end == "FAILED"
    cancelled = Driven([node("a")], failurePolicy=policy, **CLEAN).do(CancelRequested(), NodeStopped("a"))
    assert cancelled.bad("f").ok("g").end == "CANCELLED"


def test_pause_drains() -> None:
    """What is in flight ends and its consequences follow, nothing starts and the run does not end; resume goes on."""
    nodes, edges = [node("a"), node("b"), node("c")], [edge("a", "b"), edge("a", "c", condition="false")]
    run = Driven(nodes, edges, **CLEAN).do(PauseRequested("ann", "lunch")).ok("a")
    assert run.statuses == dict(a="SUCCESS", b="PENDING", c="SKIPPED", f="PENDING", g="PENDING")
    assert run.end == "PAUSED"
    assert "b" in run.do(ResumeRequested()).started
    run.do(PauseRequested()).ok("b")
    assert (run.end, "f" in run.started) == ("PAUSED", False)
    assert run.do(ResumeRequested()).ok("f").ok("g").end == "COMPLETED"


@pytest.mark.parametrize("request_", [CancelRequested(), TimedOut()])
def test_cancel_of_a_paused_run(request_: Event) -> None:
    """A paused run can be cancelled: it goes on only to end, with its finally nodes."""
    run = Driven([node("a"), node("b")], [edge("a", "b")], **CLEAN).do(PauseRequested(), request_)
    assert (run.end, run.stopped, run.status("b")) == ("RUNNING", ["a"], "CANCELLED")
    assert run.do(NodeStopped("a")).ok("f").ok("g").end == "CANCELLED"


def test_fail_fast_while_paused() -> None:
    """A failure while paused stops what is in flight at once; the run ends when it is resumed."""
    run = Driven([node("a"), node("b")]).do(PauseRequested()).bad("a")
    assert run.stopped == ["b"]
    assert run.do(NodeStopped("b")).end == "PAUSED"
    assert run.do(ResumeRequested()).end == "FAILED"


def test_cancel_of_a_failing_run() -> None:
    """A cancel while a failing run is still stopping its nodes decides the end; nothing is stopped twice."""
    run = Driven([node("a"), node("b")]).bad("a").do(CancelRequested())
    assert run.stopped == ["b"]
    assert run.do(NodeStopped("b")).end == "CANCELLED"


def test_an_empty_main_part_ends_at_once() -> None:
    """A plan without nodes is complete when it begins; one with only finally nodes runs them."""
    assert Driven([]).end == "COMPLETED"
    assert Driven([], **CLEAN).ok("f").ok("g").end == "COMPLETED"


def test_order_of_starts() -> None:
    """Priority, then the longest remaining path of estimated work, then plan order; a slot frees one start."""
    nodes = [
        node("short"),
        node("also"),
        node("long", requirements={"estimatedDuration": "1h"}),
        node("behind"),
        node("urgent", priority=2),
        node("work", requirements={"estimatedDuration": "2h"}),
    ]
    run = Driven(nodes, [edge("behind", "work")], maxInFlight=1)
    for name in ("urgent", "behind", "work", "long", "short", "also"):
        assert list(run.started)[-1] == name
        run.ok(name)
    assert run.end == "COMPLETED"


def test_sleeping_nodes_hold_no_slot_unless_the_plan_counts() -> None:
    """A timer costs nobody a slot; with maxInFlight in the plan every node counts."""
    nodes = [{**node(name), "type": "sleep"} for name in "ab"] + [node("c"), node("d")]
    free = Run(program(nodes), {}, ABOUT, 1)
    free.apply(Begin(), 0)
    assert [step.node_id for step in free.due(0)] == ["c", "a", "b"]
    counted = Driven(nodes, maxInFlight=1)
    assert list(counted.started) == ["a"]


# -- impossible moves ------------------------------------------------------------------------------------------------


def _in(state: str) -> Driven:
    """Return a run of a -> b, with finally node f, in one of the states of the table below."""
    run = Driven([node("a"), node("b")], [edge("a", "b")], begin=state != "PENDING", **last("f"))
    events: dict[str, tuple[Event, ...]] = {
        "PENDING": (),
        "RUNNING": (),
        "PAUSED": (PauseRequested(),),
        "ending": (CancelRequested(),),
        "failing": (NodeFailed("a", TOOL_ERROR),),
        "closing": (NodeSucceeded("a", {}), NodeSucceeded("b", {})),
        "ended": (NodeSucceeded("a", {}), NodeSucceeded("b", {}), NodeSucceeded("f", {})),
    }
    if state == "failing":
        run = Driven([node("a"), node("b"), node("c")], [edge("c", "b")], **last("f"))
    return run.do(*events[state])


TABLE: dict[str, tuple[Event, str]] = {
    "begin": (Begin(), "PENDING"),
    "succeeded a": (NodeSucceeded("a", {}), "RUNNING PAUSED ending"),
    "failed a": (NodeFailed("a", TOOL_ERROR), "RUNNING PAUSED ending"),
    "stopped a": (NodeStopped("a"), "ending"),
    "stopped f": (NodeStopped("f"), ""),
    "succeeded b": (NodeSucceeded("b", {}), ""),
    "stopped b": (NodeStopped("b"), ""),
    "succeeded f": (NodeSucceeded("f", {}), "closing"),
    "pause": (PauseRequested(), "RUNNING"),
    "resume": (ResumeRequested(), "PAUSED"),
    "cancel": (CancelRequested(), "RUNNING PAUSED failing"),
    "time out": (TimedOut(), "RUNNING PAUSED failing"),
    "skip a": (SkipRequested("a"), ""),
    "skip b": (SkipRequested("b"), "RUNNING PAUSED"),
    "skip f": (SkipRequested("f"), "RUNNING PAUSED"),
    "skip nobody": (SkipRequested("nobody"), ""),
    "succeeded nobody": (NodeSucceeded("nobody", {}), ""),
    "rejected": (Rejected("signal pause", "malformed"), "PENDING RUNNING PAUSED ending failing closing ended"),
}


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "PAUSED", "ending", "failing", "closing", "ended"])
@pytest.mark.parametrize("name", TABLE)
def test_table_of_possible_events(name: str, state: str) -> None:
    """Each event in each state is taken, or refused by an ImpossibleMove that says what it met, changing nothing."""
    event, possible = TABLE[name]
    driven = _in(state)
    run = driven.run
    before, facts = json.dumps(run.snapshot()), len(run.facts)
    refusal = run.refusal(event)
    assert json.dumps(run.snapshot()) == before
    if state in possible.split():
        assert refusal is None
        driven.do(event)
        assert len(run.facts) > facts
        return
    assert refusal is not None
    with pytest.raises(ImpossibleMove) as raised:
        run.apply(event, 0)
    assert str(raised.value) == str(refusal)
    subject = f"node {event.node}" if hasattr(event, "node") else "the run"
    assert raised.value.subject in (subject, "the run")
    assert raised.value.status
    assert (json.dumps(run.snapshot()), len(run.facts)) == (before, facts)


def test_a_rejected_request_is_recorded() -> None:
    """It becomes a fact and changes nothing else."""
    run = Driven([node("a")]).do(Rejected("signal pause", "it was a number"))
    assert run.fact("REQUEST_REJECTED")["data"] == {"request": "signal pause", "reason": "it was a number"}
    assert run.statuses == {"a": "RUNNING"}


# -- size ------------------------------------------------------------------------------------------------------------

LONG = 100_000


def chain(
    first: dict[str, Any], nodes: list[dict[str, Any]], edges: list[dict[str, Any]], count: int = LONG
) -> Program:
    """Return a chain whose last node and last edge are repeated until there are ``count`` of them."""
    document = compile_plan(Plan.model_validate({"name": "c", "nodes": [first, *nodes], "edges": edges}))
    *head, link = document["nodes"]
    *head_edges, last = document["edges"]
    document["nodes"] = head + [{**link, "id": f"n{number}"} for number in range(count)]
    document["edges"] = head_edges + [
        [f"e{number}", len(head) - 1 + number, last[2], len(head) + number, *last[4:]] for number in range(count)
    ]
    document["finally"] = len(document["nodes"])
    return Program(document)


@pytest.mark.parametrize("fail", [False, True])
def test_a_chain_of_100000_skips(fail: bool) -> None:
    """One failure, or one dead edge, at the head of a long chain skips all of it in one event."""
    run = Run(chain(node("a"), [node("b")], [edge("a", "b", condition="false")]), {}, ABOUT)
    run.program.conditions[1:] = [None] * (LONG - 1)
    run.apply(Begin(), 0)
    assert [step.node_id for step in run.due(0)] == ["a"]
    run.apply(NodeFailed("a", TOOL_ERROR) if fail else NodeSucceeded("a", {}), 1)
    assert run.counts[run.statuses[-1]] == LONG
    assert {fact["data"].get("skipReason") for fact in run.facts[-LONG - 1 : -1]} == {
        "upstreamFailed" if fail else "condition"
    } | ({None} if fail else set())
    assert run.status is (RunStatus.FAILED if fail else RunStatus.COMPLETED)


def test_a_chain_of_100000_conditions_that_raise() -> None:
    """Each node fails by the condition of its predecessor's error edge: one event, no recursion, the run ends."""
    first = edge("a", "b", condition="outputs.gone")
    second = edge("b", "c", sourcePort="error", condition="error.gone")
    run = Run(chain(node("a"), [node("b"), node("c")], [first, second]), {}, ABOUT)
    run.apply(Begin(), 0)
    run.due(0)
    run.apply(NodeSucceeded("a", {}), 1)
    assert run.status is RunStatus.FAILED
    assert run.counts[run.statuses[-1]] == LONG + 1
    assert str(run.statuses[-1]) == "FAILED"


def test_20000_nodes_whose_inputs_raise() -> None:
    """Each fails when it is about to start and its error edge makes the next one ready: one call of ``due``."""
    link = node("b", inputs={"x": "${inputs.gone}"})
    run = Run(chain(node("a"), [link], [edge("a", "b", sourcePort="error")], 20_000), {}, ABOUT)
    run.apply(Begin(), 0)
    run.due(0)
    run.apply(NodeFailed("a", TOOL_ERROR), 1)
    assert run.due(2) == []
    assert run.status is RunStatus.FAILED
    assert str(run.statuses[-2]) == "ERROR"


def test_a_boolean_join_of_many_edges() -> None:
    """A join over hundreds of edges is decided as they come, and read only once."""
    names = [f"s{number}" for number in range(400)]
    nodes = [node(name) for name in names] + [node("d", join=" && ".join(f"{name}d" for name in names))]
    run = Driven(nodes, [edge(name, "d") for name in names], maxInFlight=400)
    for name in names:
        assert "d" not in run.started
        run.ok(name)
    assert run.ok("d").end == "COMPLETED"


# -- what the properties found ---------------------------------------------------------------------------------------


def test_regression_finally_waits_although_its_join_is_decided() -> None:
    """Skipping finally node f with outputs while others run must not start g, which depends on f."""
    run = Driven([node("a")], [edge("f", "g")], **last("f", "g")).do(SkipRequested("f", {"x": 1}))
    assert "g" not in run.started
    assert run.ok("a").started["g"] == {"x": 1}
    assert run.ok("g").end == "COMPLETED"


def test_regression_a_finally_node_that_fails_early_stops_nothing() -> None:
    """A condition that raises into finally node g before its turn fails the run in the end, but cancels no node now."""
    edges = [edge("a", "b"), edge("f", "g", condition="outputs.gone")]
    run = Driven([node("a"), node("b")], edges, **last("f", "g")).do(SkipRequested("f", {}))
    assert run.statuses == {"a": "RUNNING", "b": "PENDING", "f": "SKIPPED", "g": "FAILED"}
    assert run.ok("a").ok("b").end == "FAILED"


def test_regression_a_snapshot_keeps_stops_that_are_due() -> None:
    """A snapshot between a cancel and the next ``due`` must not lose the stops of what is in flight."""
    run = Driven([node("a"), node("b")]).run
    run.apply(CancelRequested(), 0)
    again = Run.restore(run.program, {}, json.loads(json.dumps(run.snapshot())))
    assert again.due(0) == run.due(0) == [Stop("a"), Stop("b")]


def test_regression_only_a_stop_can_be_acknowledged() -> None:
    """A node that nobody told to stop cannot be CANCELLED: the run would end COMPLETED without its work."""
    run = Driven([node("a"), node("b")], [edge("a", "b")])
    refusal = run.run.refusal(NodeStopped("a"))
    assert refusal is not None
    assert refusal.status == "RUNNING and was not told to stop"


def test_regression_nothing_is_skipped_before_the_run_begins() -> None:
    """A skip before Begin would be recorded before the run's own first fact."""
    refusal = Driven([node("a")], begin=False).run.refusal(SkipRequested("a"))
    assert refusal is not None
    assert (refusal.subject, refusal.status) == ("the run", "PENDING")


def test_regression_a_chain_of_raises_holds_no_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure of a condition keeps neither traceback nor context: each held the failure before it, to the head."""
    seen = []
    original = Run._fail_target

    def fail_target(self: Run, edge: int, failure: Exception) -> None:
        seen.append((failure.__traceback__, failure.__context__))
        original(self, edge, failure)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "_fail_target", fail_target)
    edges = [edge("a", "b", condition="outputs.gone"), edge("b", "c", sourcePort="error", condition="error.gone")]
    assert Driven([node("a"), node("b"), node("c")], edges).ok("a").end == "FAILED"
    assert seen == [(None, None)] * 2


def test_notes_become_data_of_the_fact() -> None:
    """What the driver notes about an end stands in the fact, beside status and attempt."""
    run = Driven([node("a")]).do(replace(NodeSucceeded("a", {}, 2), notes={"worker": "w1"}))
    assert run.fact("NODE_COMPLETED", "a")["data"] == {"status": "SUCCESS", "attempt": 2, "worker": "w1"}
