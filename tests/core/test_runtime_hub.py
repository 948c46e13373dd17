"""What both sides of the Runtime Hub's contract agree on."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from dalang import runtime_hub as hub
from dalang.compilation import compile_plan
from dalang.needs import CAPABILITY, needs_of
from dalang.program import Program
from dalang.statuses import RUN_ENDS, RunStatus
from dalang.validation import validate

TASK = uuid.UUID("3f0e6f0e-6b5a-4a9e-9d8e-0a4f3c0e8a11")
TYPES = ("noop", "agent", "count")


def test_ids_are_the_same_everywhere() -> None:
    """They stand in databases of others: a change would make second tasks of those under way."""
    assert str(hub.task_id("run-1:n:0:0", 0)) == "5ffcddf8-58a5-5a01-9d31-74f5657badc9"
    assert hub.task_id("k", 0) != hub.task_id("k", 1)
    assert hub.run_id("acme", TASK) != hub.run_id("globex", TASK)
    assert hub.run_id("acme", TASK) == hub.run_id("acme", uuid.UUID(str(TASK)))


@pytest.mark.parametrize("status", list(RunStatus))
def test_every_status_of_a_run_is_one_of_a_task(status: RunStatus) -> None:
    """A client knows the ends, and takes all else for under way; only COMPLETED is a success."""
    word = hub.status_of(status)
    assert (word in hub.SUCCEEDED | hub.FAILED) == (status in RUN_ENDS)
    result = hub.result_of(TASK, status, {"result": {"a": 1}}, {"type": "TOOL_ERROR"}, "why")
    assert result["success"] == (status is RunStatus.COMPLETED)
    assert ("outputs" in result, "error" in result) == (result["success"], not result["success"])
    if status not in RUN_ENDS:
        assert hub.error_in(result).retryable


@pytest.mark.parametrize(
    ("descriptor", "metadata", "kind"),
    [
        ({"id": "count"}, {"nodeType": "noop"}, "noop"),
        ({"id": "count"}, {"nodeType": "THEIRS"}, "count"),
        ({"name": "count"}, {}, "count"),
        ({"id": "x", "capabilities": ["counting"]}, {"nodeType": "THEIRS"}, "agent"),
        ({"id": "x", "implementation": {"type": "python", "coordinate": "count"}}, {"nodeType": "noop"}, hub.OWN_NAME),
        ({"id": "count", "implementation": {"type": "maven", "coordinate": "a:b:1"}}, {}, "count"),
        ({}, {"nodeType": "THEIRS"}, "THEIRS"),
        ({"id": {}, "name": 7}, {"nodeType": None}, None),
    ],
)
def test_what_a_task_asks_for(descriptor: dict[str, Any], metadata: dict[str, Any], kind: str | None) -> None:
    """A type that there is wins over names that mean nothing here."""
    plan = hub.plan_of(descriptor, {}, metadata, TYPES)
    assert (None if plan is None else plan["nodes"][0]["type"]) == kind


def test_plans_of_one_kind_are_one_plan() -> None:
    """Values are the run's inputs: a thousand tasks store one plan. Any name of an input is one."""
    names = {"a": 1, 'q"}${x} \\ ü': 2}
    one = hub.plan_of({"id": "count"}, names, {"startTime": 1, "timeoutMs": 5000}, TYPES)
    other = hub.plan_of({"id": "count"}, dict.fromkeys(names, "${evil}"), {"startTime": 2, "timeoutMs": 5000}, TYPES)
    assert one == other
    report = validate(one or {}, node_types=TYPES)
    assert report.ok, report.problems
    assert report.require().nodes[0].timeouts.start_to_close == 5000


@pytest.mark.parametrize(
    ("status", "outputs"),
    [
        ({"metadata": {"result": {"outputs": {"a": 1}}}}, {"a": 1}),
        ({"outputs": {"a": 2}}, {"a": 2}),
        ({"metadata": {"outputs": {"a": 3}}}, {"a": 3}),
        ({"metadata": None}, None),
        ({"metadata": {"result": {}}}, None),
    ],
)
def test_results_in_statuses(status: dict[str, Any], outputs: dict[str, Any] | None) -> None:
    """Wherever a hub puts them."""
    found = hub.result_in(status)
    assert (None if found is None else found["outputs"]) == outputs


def test_what_a_node_of_a_hub_requires_is_not_looked_for_here() -> None:
    """Neither are agents of this Dalang asked, nor is it doubtful that there are none."""
    needed = {"requirements": {"capabilities": ["counting"]}, "inputs": {"url": "https://wayang.example"}}
    document = {"name": "p", "nodes": [{"nodeId": "a", "type": "runtime-hub", **needed}]}
    report = validate(document, node_types=(), agents=[])
    assert report.problems == ()
    program = Program(compile_plan(report.require()))
    assert needs_of(program, 0, frozenset({CAPABILITY + "counting"}), dict) is None
