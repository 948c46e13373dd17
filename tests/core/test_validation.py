"""Validation: every code, by a document that has this problem and where it has it."""

# ruff: noqa: E501 - in the tables a case is one line, so that they can be read down

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest

from dalang.errors import InvalidDocument
from dalang.nodes import BUILT_IN_TYPES
from dalang.plan import MAX_EDGES, MAX_NODES, Node, Plan
from dalang.validation import CODES, MAX_PROBLEMS, inputs_problems, later, validate
from dalang.validation.patterns import weight

Document = dict[str, Any]

GOOD: Document = {
    "name": "good",
    "version": "1.0.0",
    "timeout": "2h",
    "inputs": {
        "type": "object",
        "properties": {"feature": {"type": "string"}, "size": {"type": "integer", "default": 1}},
    },
    "nodes": [
        {
            "nodeId": "fetch",
            "type": "http",
            "inputs": {"url": "https://example.org/${inputs.feature}", "method": "POST"},
            "descriptor": {"outputs": [{"name": "body", "type": "object"}, {"name": "status", "type": "integer"}]},
            "requirements": {"estimatedDuration": "5m"},
        },
        {
            "nodeId": "code-review",
            "type": "agent",
            "inputs": {"status": "${nodes.fetch.outputs.status}"},
            "descriptor": {"inputs": [{"name": "status", "type": "number"}, {"name": "body", "type": "object"}]},
        },
        {"nodeId": "wait", "type": "sleep", "inputs": {"duration": "90s"}, "join": "allDone"},
        {"nodeId": "handle", "type": "noop", "join": "e1 && !edges['fetch:error->handle']"},
    ],
    "edges": [
        {"sourceNodeId": "fetch", "targetNodeId": "code-review", "mapping": {"body": "body"}},
        {"sourceNodeId": "code-review", "targetNodeId": "wait", "condition": "outputs.score > 0.8"},
        {
            "sourceNodeId": "fetch",
            "sourcePort": "error",
            "targetNodeId": "handle",
            "condition": "error.type == 'TIMEOUT'",
        },
        {"edgeId": "e1", "sourceNodeId": "code-review", "targetNodeId": "handle"},
    ],
    "finally": [{"nodeId": "clean", "type": "noop", "inputs": {"was": "${nodes['code-review'].status}"}}],
    "outputs": {"review": "${nodes['code-review'].outputs.text}", "clean": "${nodes.clean.status}"},
}

Change = Callable[[Document], Any]
LATER_TYPE, LATER_FIELD = "hologram", "telepathy"


@pytest.fixture(autouse=True)
def _a_type_of_a_later_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which there need not be just now."""
    monkeypatch.setattr(later, "NODE_TYPES", {**later.NODE_TYPES, LATER_TYPE: "what nobody has built"})
    monkeypatch.setattr(later, "NODE_FIELDS", {**later.NODE_FIELDS, LATER_FIELD: "what nobody can do"})


def setting(*path: Any) -> Change:
    """Return the change that sets what the steps before the last argument lead to."""
    *steps, value = path

    def change(document: Document) -> None:
        at: Any = document
        for step in steps[:-1]:
            at = at[step] if isinstance(at, list) else at.setdefault(step, {})
        at[steps[-1]] = value

    return change


def changes(*each: Change) -> Change:
    """Return the change that makes all of ``each``."""
    return lambda document: [change(document) for change in each]


def adding(name: str, entry: Any) -> Change:
    return lambda document: document[name].append(entry)


def port(side: str, **fields: Any) -> Change:
    return setting("nodes", 3, "descriptor", {side: [fields]})


def asking(**task: Any) -> Change:
    return changes(setting("nodes", 3, "type", "human"), setting("nodes", 3, "task", task))


def edge(source: str, target: str, **fields: Any) -> Change:
    return adding("edges", {"sourceNodeId": source, "targetNodeId": target, **fields})


HTTP = ("nodes", 0, "inputs")
ERRORS: list[tuple[Change, str, str]] = [
    # shape
    (setting("nodes", {}), "/nodes", "WRONG_TYPE"),
    (setting("nodes", 1, "x"), "/nodes/1", "WRONG_TYPE"),
    (setting("edges", 0, []), "/edges/0", "WRONG_TYPE"),
    (setting("name", 5), "/name", "WRONG_TYPE"),
    (setting("version", 1.0), "/version", "WRONG_TYPE"),
    (setting("metadata", []), "/metadata", "WRONG_TYPE"),
    (setting("nodes", 0, "retryPolicy", "x"), "/nodes/0/retryPolicy", "WRONG_TYPE"),
    (setting("nodes", 0, "retryPolicy", {"maxAttempts": "3"}), "/nodes/0/retryPolicy/maxAttempts", "WRONG_TYPE"),
    (setting("nodes", 0, "retryPolicy", {"jitter": "yes"}), "/nodes/0/retryPolicy/jitter", "WRONG_TYPE"),
    (setting("nodes", 0, "retryPolicy", {"maxAttempts": 0}), "/nodes/0/retryPolicy/maxAttempts", "BAD_VALUE"),
    (setting("nodes", 0, "retryPolicy", {"retryOn": ["TIME"]}), "/nodes/0/retryPolicy/retryOn/0", "BAD_VALUE"),
    (setting("nodes", 0, "requirements", "resources", {"gpu": -1}), "/nodes/0/requirements/resources/gpu", "BAD_VALUE"),
    (setting("nodes", 0, "nodeId", "x" * 201), "/nodes/0/nodeId", "BAD_VALUE"),
    (setting("nodes", 0, "nodeId", ""), "/nodes/0/nodeId", "BAD_VALUE"),
    (setting("priority", "urgent"), "/priority", "BAD_VALUE"),
    (setting("priority", True), "/priority", "BAD_VALUE"),
    (setting("planId", "x"), "/planId", "BAD_VALUE"),
    (setting("failurePolicy", "failfast"), "/failurePolicy", "BAD_VALUE"),
    (setting("timeout", "soon"), "/timeout", "BAD_DURATION"),
    (setting("timeout", 5), "/timeout", "BAD_DURATION"),
    (setting("nodes", 0, "timeouts", {"startToCloseMs": -1}), "/nodes/0/timeouts/startToCloseMs", "BAD_DURATION"),
    (setting("nodes", 0, "timeouts", {"heartbeatMs": 10**15}), "/nodes/0/timeouts/heartbeat", "BAD_DURATION"),
    (lambda d: d.pop("name"), "/name", "MISSING_FIELD"),
    (lambda d: d["nodes"][0].pop("type"), "/nodes/0/type", "MISSING_FIELD"),
    (lambda d: d["edges"][0].pop("targetNodeId"), "/edges/0/targetNodeId", "MISSING_FIELD"),
    (setting("nodes", 0, "retrypolicy", {}), "/nodes/0/retrypolicy", "UNKNOWN_FIELD"),
    (setting("nodes", 0, "timeouts", {"start": "1s"}), "/nodes/0/timeouts/start", "UNKNOWN_FIELD"),
    (setting("edges", 0, "when", "true"), "/edges/0/when", "UNKNOWN_FIELD"),
    (setting("node", []), "/node", "UNKNOWN_FIELD"),
    (setting("nodes", 0, "inputs", {"url": math.nan}), "/nodes/0/inputs/url", "NOT_JSON"),
    (setting("metadata", {"a": {1, 2}}), "/metadata/a", "NOT_JSON"),
    (setting("metadata", {"a/b": ["\x00"]}), "/metadata/a~1b/0", "NOT_JSON"),
    # graph
    (setting("nodes", []), "/nodes", "NO_NODES"),
    (adding("nodes", {"nodeId": "wait", "type": "noop"}), "/nodes/4/nodeId", "DUPLICATE_NODE_ID"),
    (adding("finally", {"nodeId": "wait", "type": "noop"}), "/finally/1/nodeId", "DUPLICATE_NODE_ID"),
    (edge("wait", "handle", edgeId="e1"), "/edges/4/edgeId", "DUPLICATE_EDGE_ID"),
    (edge("wait", "nobody"), "/edges/4/targetNodeId", "UNKNOWN_NODE"),
    (edge("nobody", "wait"), "/edges/4/sourceNodeId", "UNKNOWN_NODE"),
    (edge("wait", "wait"), "/edges/4", "SELF_LOOP"),
    (edge("wait", "code-review"), "/nodes/1", "CYCLE"),
    (edge("wait", "fetch"), "/nodes", "NO_ROOT"),
    (edge("wait", "clean"), "/edges/4", "FINALLY_EDGE"),
    (edge("clean", "wait"), "/edges/4", "FINALLY_EDGE"),
    # ports
    (setting("nodes", 3, "descriptor", {"inputs": [{"name": "a"}, {"name": "a"}]}), "/nodes/3/descriptor/inputs/1/name", "DUPLICATE_PORT"),
    (port("outputs", name="error"), "/nodes/3/descriptor/outputs/0/name", "RESERVED_PORT"),
    (port("inputs", name="a", type="integer", defaultValue=1.5), "/nodes/3/descriptor/inputs/0/defaultValue", "BAD_DEFAULT"),
    (port("inputs", name="a", type="string", defaultValue=[]), "/nodes/3/descriptor/inputs/0/defaultValue", "BAD_DEFAULT"),
    (setting("edges", 0, "sourcePort", "text"), "/edges/0/sourcePort", "UNKNOWN_PORT"),
    (setting("edges", 0, "mapping", {"text": "body"}), "/edges/0/mapping/text", "UNKNOWN_PORT"),
    (setting("edges", 0, "mapping", {"body": "text"}), "/edges/0/mapping/body", "UNKNOWN_PORT"),
    (setting("edges", 2, "mapping", {"text": "text"}), "/edges/2/mapping/text", "UNKNOWN_PORT"),
    (edge("fetch", "code-review", targetPort="text"), "/edges/4/targetPort", "UNKNOWN_PORT"),
    (setting("edges", 0, "mapping", {"body": "status"}), "/edges/0/mapping/body", "PORT_TYPE_MISMATCH"),
    (edge("fetch", "code-review", targetPort="status"), "/edges/4/targetPort", "PORT_TYPE_MISMATCH"),
    (edge("fetch", "code-review", sourcePort="status", targetPort="body"), "/edges/4/targetPort", "PORT_TYPE_MISMATCH"),
    # inputs of types
    (setting("nodes", 0, "descriptor", "inputs", [{"name": "a", "required": True}]), "/nodes/0/descriptor/inputs/0", "MISSING_INPUT"),
    (setting(*HTTP, {}), "/nodes/0/inputs", "MISSING_INPUT"),
    (setting(*HTTP, "url", "example.org"), "/nodes/0/inputs/url", "BAD_INPUT"),
    (setting(*HTTP, "method", "get"), "/nodes/0/inputs/method", "BAD_INPUT"),
    (setting(*HTTP, "method", ["GET"]), "/nodes/0/inputs/method", "BAD_INPUT"),
    (setting(*HTTP, "headers", {"x-count": 5}), "/nodes/0/inputs/headers", "BAD_INPUT"),
    (setting(*HTTP, "query", {"q": {}}), "/nodes/0/inputs/query", "BAD_INPUT"),
    (setting(*HTTP, "query", "a=b"), "/nodes/0/inputs/query", "BAD_INPUT"),
    (setting(*HTTP, "expectedStatuses", ["6xx"]), "/nodes/0/inputs/expectedStatuses", "BAD_INPUT"),
    (setting(*HTTP, "parse", "xml"), "/nodes/0/inputs/parse", "BAD_INPUT"),
    (setting(*HTTP, "timeout", 5), "/nodes/0/inputs/timeout", "BAD_INPUT"),
    (adding("nodes", {"nodeId": "s", "type": "sleep"}), "/nodes/4/inputs", "MISSING_INPUT"),
    (adding("nodes", {"nodeId": "s", "type": "sleep", "inputs": {"seconds": -1}}), "/nodes/4/inputs/seconds", "BAD_INPUT"),
    (setting("nodes", 2, "inputs", {"duration": 90}), "/nodes/2/inputs/duration", "BAD_INPUT"),
    (setting("nodes", 2, "inputs", {"duration": "367d"}), "/nodes/2/inputs/duration", "BAD_INPUT"),
    (adding("nodes", {"nodeId": "s", "type": "timer"}), "/nodes/4/inputs", "MISSING_INPUT"),
    (adding("nodes", {"nodeId": "s", "type": "timer", "inputs": {"duration": "400d"}}), "/nodes/4/inputs/duration", "BAD_INPUT"),
    (adding("nodes", {"nodeId": "s", "type": "timer", "inputs": {"until": "2026-12-24"}}), "/nodes/4/inputs/until", "BAD_INPUT"),
    (adding("nodes", {"nodeId": "s", "type": "timer", "inputs": {"until": "2026-12-24T18:00:00Z", "duration": "1s"}}), "/nodes/4/inputs/until", "BAD_INPUT"),
    (adding("nodes", {"nodeId": "s", "type": "event"}), "/nodes/4/inputs", "MISSING_INPUT"),
    (adding("nodes", {"nodeId": "s", "type": "event", "inputs": {"name": ""}}), "/nodes/4/inputs/name", "BAD_INPUT"),
    (adding("nodes", {"nodeId": "s", "type": "event", "inputs": {"name": "n", "correlationKey": []}}), "/nodes/4/inputs/correlationKey", "BAD_INPUT"),
    (adding("nodes", {"nodeId": "s", "type": "event", "inputs": {"name": "n", "timeout": 9}}), "/nodes/4/inputs/timeout", "BAD_INPUT"),
    (adding("nodes", {"nodeId": "s", "type": "noop", "callback": {}}), "/nodes/4/callback", "CALLBACK_OF_NOBODY"),
    (setting("nodes", 0, "callback", {"timeout": "400d"}), "/nodes/0/callback/timeout", "BAD_DURATION"),
    (setting("finally", [{"nodeId": "s", "type": "python", "handler": "f", "callback": {}}]), "/finally/0", "ENDLESS_FINALLY"),
    (setting("finally", [{"nodeId": "s", "type": "event", "inputs": {"name": "n"}}]), "/finally/0", "ENDLESS_FINALLY"),
    (setting("nodes", 3, "type", "python"), "/nodes/3/handler", "MISSING_FIELD"),
    # expressions
    (setting(*HTTP, "body", "${inputs.feature +}"), "/nodes/0/inputs/body", "BAD_EXPRESSION"),
    (setting(*HTTP, "body", {"a": ["${x"]}), "/nodes/0/inputs/body/a/0", "BAD_EXPRESSION"),
    (setting("edges", 1, "condition", "${outputs.score > 1}"), "/edges/1/condition", "BAD_EXPRESSION"),
    (setting("edges", 1, "condition", ""), "/edges/1/condition", "BAD_EXPRESSION"),
    (setting("outputs", "x", "${nodes.code-review.outputs.text}"), "/outputs/x", "BAD_EXPRESSION"),
    (setting("edges", 1, "condition", "outputs.a + 'x' + 'y'"), "/edges/1/condition", "NOT_BOOLEAN"),
    (setting("edges", 1, "condition", "error.type == 'TIMEOUT'"), "/edges/1/condition", "WRONG_VARIABLE"),
    (setting("edges", 2, "condition", "outputs.a == 1"), "/edges/2/condition", "WRONG_VARIABLE"),
    (setting("outputs", "x", "${outputs.a}"), "/outputs/x", "WRONG_VARIABLE"),
    (setting(*HTTP, "body", "${outputs.a}"), "/nodes/0/inputs/body", "WRONG_VARIABLE"),
    (setting(*HTTP, "body", "${nodes.wait.outputs}"), "/nodes/0/inputs/body", "REFERENCE_NOT_UPSTREAM"),
    (setting(*HTTP, "body", "${nodes.fetch.outputs}"), "/nodes/0/inputs/body", "REFERENCE_NOT_UPSTREAM"),
    (setting(*HTTP, "body", "${nodes.clean.status}"), "/nodes/0/inputs/body", "REFERENCE_NOT_UPSTREAM"),
    (setting("edges", 1, "condition", "nodes.wait.outputs.a == 1"), "/edges/1/condition", "REFERENCE_NOT_UPSTREAM"),
    (setting("outputs", "x", "${nodes.nobody.outputs}"), "/outputs/x", "UNKNOWN_NODE"),
    (setting("outputs", "x", "${nodes.fetch.body}"), "/outputs/x", "UNKNOWN_NODE_PART"),
    (lambda d: (setting("inputs", "additionalProperties", False)(d), setting(*HTTP, "body", "${inputs.featur}")(d)), "/nodes/0/inputs/body", "UNKNOWN_INPUT"),
    (setting("nodes", 2, "join", "alllive"), "/nodes/2/join", "UNKNOWN_JOIN"),
    (setting("nodes", 2, "join", "e1 &&"), "/nodes/2/join", "BAD_JOIN"),
    (setting("nodes", 2, "join", "code-review->wait"), "/nodes/2/join", "BAD_JOIN"),
    (setting("nodes", 2, "join", "e1 || e1"), "/nodes/2/join", "JOIN_UNKNOWN_EDGE"),
    (setting("nodes", 2, "join", "e1"), "/nodes/2/join", "JOIN_UNKNOWN_EDGE"),
    # the schema of the inputs
    (setting("inputs", {"type": "array"}), "/inputs/type", "BAD_INPUT_SCHEMA"),
    (setting("inputs", {"type": "objekt"}), "/inputs/type", "BAD_INPUT_SCHEMA"),
    (setting("inputs", "properties", "size", {"minimum": "1"}), "/inputs/properties/size/minimum", "BAD_INPUT_SCHEMA"),
    (setting("inputs", "properties", "size", {"$ref": "https://example.org/x"}), "/inputs/properties/size/$ref", "BAD_INPUT_SCHEMA"),
    (setting("inputs", "properties", "size", {"$ref": "#/$defs/x"}), "/inputs/properties/size/$ref", "BAD_INPUT_SCHEMA"),
    (setting("inputs", "properties", "size", {"pattern": "(?=a)"}), "/inputs/properties/size/pattern", "BAD_INPUT_SCHEMA"),
    (setting("inputs", "patternProperties", {"(": {}}), "/inputs/patternProperties/(", "BAD_INPUT_SCHEMA"),
    (setting("inputs", "$schema", "http://json-schema.org/draft-07/schema#"), "/inputs/$schema", "BAD_INPUT_SCHEMA"),
    (setting("inputs", "properties", "size", {"$id": "x"}), "/inputs/properties/size/$id", "BAD_INPUT_SCHEMA"),
    (setting("inputs", "properties", "size", "default", "1"), "/inputs/properties/size/default", "BAD_INPUT_SCHEMA"),
    (setting("inputs", "properties", "size", "description", "x" * 2**18), "/inputs", "BAD_INPUT_SCHEMA"),
    (setting("inputs", "properties", "size", "default", {}), "/inputs/properties/size/default", "BAD_INPUT_SCHEMA"),
    # durations
    (setting("timeout", "0s"), "/timeout", "ZERO_DURATION"),
    (setting("nodes", 0, "timeouts", {"heartbeat": "0s"}), "/nodes/0/timeouts/heartbeat", "ZERO_DURATION"),
    # later versions
    (setting("nodes", 0, LATER_FIELD, "x"), f"/nodes/0/{LATER_FIELD}", "FEATURE_UNAVAILABLE"),
    (setting("nodes", 3, "type", LATER_TYPE), "/nodes/3/type", "FEATURE_UNAVAILABLE"),
    (setting("nodes", 0, "execution", "swift"), "/nodes/0/execution", "BAD_VALUE"),
    (changes(setting("nodes", 0, "execution", "local"), setting("nodes", 0, "pivot", True)), "/nodes/0/execution", "NOT_LOCAL"),
    # human nodes
    (setting("nodes", 3, "task", {"title": "x"}), "/nodes/3/task", "TASK_WITHOUT_PERSON"),
    (setting("nodes", 3, "task", {"titel": "x"}), "/nodes/3/task/titel", "UNKNOWN_FIELD"),
    (asking(onExpiry="approve", due="1h"), "/nodes/3/task/onExpiry", "BAD_VALUE"),
    (asking(onExpiry="skip"), "/nodes/3/task/onExpiry", "BAD_TASK"),
    (asking(quorum=0), "/nodes/3/task/quorum", "BAD_VALUE"),
    (asking(quorum=3, candidates=["ann", "bob"]), "/nodes/3/task/quorum", "BAD_TASK"),
    (asking(quorum=2, assignee="ann"), "/nodes/3/task/assignee", "BAD_TASK"),
    (asking(candidates=["bob"], assignee="ann"), "/nodes/3/task/assignee", "BAD_TASK"),
    (asking(candidates=["bob", "bob"]), "/nodes/3/task/candidates", "BAD_TASK"),
    (asking(candidates=["bob", ""]), "/nodes/3/task/candidates", "BAD_TASK"),
    (asking(candidates=[]), "/nodes/3/task/candidates", "BAD_VALUE"),
    (asking(fourEyes="yes"), "/nodes/3/task/fourEyes", "WRONG_TYPE"),
    (asking(due="0s"), "/nodes/3/task/due", "ZERO_DURATION"),
    (asking(due="soon"), "/nodes/3/task/due", "BAD_DURATION"),
    (asking(dueMs=10**15), "/nodes/3/task/due", "BAD_DURATION"),
    (asking(reminder="1h"), "/nodes/3/task/reminder", "BAD_TASK"),
    (asking(reminder="1h", due="1h"), "/nodes/3/task/reminder", "BAD_TASK"),
    (asking(due="1h", escalation={"after": "1h", "to": "x"}), "/nodes/3/task/escalation/after", "BAD_TASK"),
    (asking(escalation={"after": "1h"}), "/nodes/3/task/escalation/to", "MISSING_FIELD"),
    (asking(form={"type": "array"}), "/nodes/3/task/form/type", "BAD_FORM"),
    (asking(form={"properties": {"a": {"$ref": "https://example.org/x"}}}), "/nodes/3/task/form/properties/a/$ref", "BAD_FORM"),
    (asking(title="${nodes.nobody.outputs.x}"), "/nodes/3/task/title", "UNKNOWN_NODE"),
    (asking(description="${1 +}"), "/nodes/3/task/description", "BAD_EXPRESSION"),
    (asking(assignee="${nodes.wait.outputs.x}"), "/nodes/3/task/assignee", "REFERENCE_NOT_UPSTREAM"),
    (asking(candidateGroup="${error.type}"), "/nodes/3/task/candidateGroup", "WRONG_VARIABLE"),
    # undoing
    (setting("compensate", "sometimes"), "/compensate", "BAD_VALUE"),
    (setting("nodes", 0, "compensation", {}), "/nodes/0/compensation/type", "MISSING_FIELD"),
    (setting("nodes", 0, "compensation", {"type": "sleep"}), "/nodes/0/compensation/type", "BAD_COMPENSATION"),
    (setting("nodes", 0, "compensation", {"type": LATER_TYPE}), "/nodes/0/compensation/type", "FEATURE_UNAVAILABLE"),
    (setting("nodes", 0, "compensation", {"type": "python"}), "/nodes/0/compensation/handler", "MISSING_FIELD"),
    (setting("nodes", 0, "compensation", {"type": "http", "inputs": {}}), "/nodes/0/compensation/inputs", "MISSING_INPUT"),
    (setting("nodes", 0, "compensation", {"type": "noop", "timeouts": {"heartbeat": "0s"}}), "/nodes/0/compensation/timeouts/heartbeat", "ZERO_DURATION"),
    (setting("nodes", 0, "compensation", {"type": "noop", "retryPolicy": {"x": 1}}), "/nodes/0/compensation/retryPolicy/x", "UNKNOWN_FIELD"),
    (setting("nodes", 0, "compensation", {"type": "noop", "inputs": {"x": "${nodes.wait.outputs.x}"}}), "/nodes/0/compensation/inputs/x", "REFERENCE_NOT_UPSTREAM"),
    (setting("nodes", 0, "inputs", "x", "${undoes.inputs.x}"), "/nodes/0/inputs/x", "WRONG_VARIABLE"),
    (setting("finally", 0, "pivot", True), "/finally/0/pivot", "FINALLY_UNDO"),
    (setting("finally", 0, "compensation", {"type": "noop"}), "/finally/0/compensation", "FINALLY_UNDO"),
    # plans that change
    (setting("planner", {"type": "sleep"}), "/planner/type", "BAD_PLANNER"),
    (setting("planner", {"type": LATER_TYPE}), "/planner/type", "FEATURE_UNAVAILABLE"),
    (setting("planner", {"type": "python"}), "/planner/handler", "MISSING_FIELD"),
    (setting("planner", {"type": "http"}), "/planner/inputs", "MISSING_INPUT"),
    (setting("planner", {"capability": "x"}), "/planner/capability", "UNKNOWN_FIELD"),
    (setting("maxReplans", 0), "/maxReplans", "BAD_VALUE"),
    (setting("nodes", 0, "evaluator", "yes"), "/nodes/0/evaluator", "WRONG_TYPE"),
    (changes(setting("planner", {}), setting("finally", 0, "evaluator", True)), "/finally/0/evaluator", "FINALLY_EVALUATOR"),
]  # fmt: skip

WARNINGS: list[tuple[Change, str, str]] = [
    (changes(asking(), setting("nodes", 3, "retryPolicy", {})), "/nodes/3/retryPolicy", "IGNORED_FIELD"),
    (changes(asking(), setting("nodes", 3, "timeouts", {"heartbeat": "1s"})), "/nodes/3/timeouts", "IGNORED_FIELD"),
    (adding("nodes", {"nodeId": "alone", "type": "noop"}), "/nodes/4", "ORPHAN"),
    (port("outputs", name="a", type="text"), "/nodes/3/descriptor/outputs/0/type", "UNKNOWN_PORT_TYPE"),
    (setting(*HTTP, "header", {}), "/nodes/0/inputs/header", "IGNORED_INPUT"),
    (setting("outputs", "x", "${nodes.fetch.outputs.bodi}"), "/outputs/x", "UNKNOWN_OUTPUT"),
    (setting(*HTTP, "body", "${inputs.featur}"), "/nodes/0/inputs/body", "UNKNOWN_INPUT"),
    (setting("nodes", 0, "timeouts", {"startToClose": "5m", "scheduleToClose": "4m"}), "/nodes/0/timeouts/scheduleToClose", "DURATION_ORDER"),
    (setting("nodes", 0, "timeouts", {"startToClose": "5m", "heartbeat": "6m"}), "/nodes/0/timeouts/heartbeat", "DURATION_ORDER"),
    (setting("nodes", 0, "retryPolicy", {"initialDelay": "5m"}), "/nodes/0/retryPolicy/maxDelay", "DURATION_ORDER"),
    (setting("nodes", 0, "retryPolicy", {"retryOn": []}), "/nodes/0/retryPolicy/retryOn", "NO_RETRY_ON"),
    (setting("timeout", "6m"), "/timeout", "CRITICAL_PATH"),
    (setting("maxReplans", 2), "/maxReplans", "NO_PLANNER"),
    (setting("nodes", 0, "evaluator", True), "/nodes/0/evaluator", "NO_PLANNER"),
    (setting("compensate", "always"), "/compensate", "NOTHING_TO_UNDO"),
    (setting("nodes", 0, "pivot", True), "/nodes/0/pivot", "NOTHING_TO_UNDO"),
    (changes(setting("nodes", 0, "compensation", {"type": "noop"}), setting("compensate", "never")), "/compensate", "NOTHING_TO_UNDO"),
    (changes(setting("nodes", 0, "compensation", {"type": "noop"}), setting("nodes", 0, "pivot", True)), "/nodes/0/compensation", "PIVOT_COMPENSATION"),
]  # fmt: skip


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
