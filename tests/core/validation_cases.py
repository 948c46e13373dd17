"""A good plan, and every change that makes it a bad one: what is said of it, and where."""


# ruff: noqa: E501 - in the tables a case is one line, so that they can be read down

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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
