"""Validation of whatever may come: it raises nothing, ends, and what it accepts can be compiled and run."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dalang import graph
from dalang.compilation import compile_plan
from dalang.program import Program
from dalang.validation import CODES, Report, validate
from tests.core.test_validation import GOOD
from tests.effort import tries

Document = dict[str, Any]

TEXTS = st.sampled_from(
    [
        "fetch", "code-review", "wait", "handle", "clean", "e1", "success", "error", "allLive", "any", "a->b",
        "http", "sleep", "python", "agent", "llm", "string", "integer", "5m", "0s", "P1D", "-1s", "#/x", "(?=",
        "${", "${inputs.feature}", "${nodes.fetch.outputs.x}", "${nodes['code-review']}", "error.type",
        "e1||e2", "outputs.x > 1", "", "\u0000",
    ]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers(-5, 2**54) | st.floats() | TEXTS | st.text(max_size=5)
NAMES = st.sampled_from(
    [
        "nodeId", "node_id", "name", "type", "inputs", "outputs", "descriptor", "requirements", "capabilities",
        "join", "retryPolicy", "initialDelayMs", "retryOn", "timeouts", "startToClose", "startToCloseMs",
        "priority", "metadata", "edgeId", "sourceNodeId", "targetNodeId", "sourcePort", "targetPort", "mapping",
        "condition", "nodes", "edges", "finally", "version", "timeout", "timeoutMs", "failurePolicy",
        "properties", "$ref", "pattern", "url", "duration", "resources", "cpuCores", "estimatedDuration",
        "compensation", "planId", "x", "",
    ]
)  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5), max_leaves=20
)


def checked(document: Any, **options: Any) -> Report:
    """The report on ``document``, after what holds for every report."""
    report = validate(document, **options)
    for problem in report.problems:
        assert CODES[problem.code].severity in (problem.severity, "both")
        assert problem.message
        assert problem.pointer == "" or problem.pointer.startswith("/")
    assert (report.plan is None) == bool(report.errors)
    if report.plan is not None:
        Program(compile_plan(report.plan))
        assert validate(report.plan).plan == report.plan
    return report


@settings(max_examples=tries(150), deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=6) | VALUES)
def test_any_document(document: Any) -> None:
    """Whatever JSON-like document comes, there is a report."""
    checked(document, node_types=["x"], agents=[["a"]])


def places(value: Any, steps: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [steps, *(place for key, item in entries for place in places(item, (*steps, key)))]


PLACES = places(GOOD)[1:]


@settings(max_examples=tries(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(["set", "delete", "copy", "add"]), VALUES), max_size=4)
)
def test_mutated_plans(changes: list[tuple[tuple[Any, ...], str, Any]]) -> None:
    """A good plan with anything replaced, removed, repeated or added is judged, and compiled if it is accepted."""
    document = copy.deepcopy(GOOD)
    for steps, kind, value in changes:
        at: Any = document
        try:
            for step in steps[:-1]:
                at = at[step]
            if kind == "set":
                at[steps[-1]] = value
            elif kind == "delete":
                del at[steps[-1]]
            elif kind == "copy" and isinstance(at, list):
                at.append(copy.deepcopy(at[steps[-1]]))
            elif kind == "add" and isinstance(at[steps[-1]], dict):
                at[steps[-1]]["x"] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    checked(document)


@st.composite
def reading_plans(draw: st.DrawFn) -> Document:
    """Small plans, cyclic or not, whose nodes and conditions read any node."""
    size = draw(st.integers(1, 6))
    pick = st.integers(0, size - 1)
    nodes: list[Document] = [{"nodeId": f"n{i}", "type": "noop"} for i in range(size)]
    for reader, read in draw(st.lists(st.tuples(pick, pick), max_size=4)):
        nodes[reader].setdefault("inputs", {})[f"i{read}"] = f"${{nodes.n{read}.outputs}}"
    edges = []
    for source, target, read in draw(st.lists(st.tuples(pick, pick, st.none() | pick), max_size=8)):
        edge: Document = {"sourceNodeId": f"n{source}", "targetNodeId": f"n{target}"}
        if read is not None:
            edge["condition"] = f"nodes.n{read}.status == 'SUCCESS'"
        edges.append(edge)
    return {"name": "p", "nodes": nodes, "edges": edges}


@settings(max_examples=tries(150), deadline=None)
@given(reading_plans())
def test_reads_against_the_plain_definition(document: Document) -> None:
    """A read is refused exactly if the node is no ancestor of its reader (a condition reads its source too)."""
    names = [node["nodeId"] for node in document["nodes"]]
    pairs = [(edge["sourceNodeId"], edge["targetNodeId"]) for edge in document["edges"]]
    report = checked(document)
    cyclic = graph.find_cycle(names, pairs) is not None
    assert cyclic == any(problem.code in ("CYCLE", "SELF_LOOP") for problem in report.problems)
    if cyclic:
        return
    expected = set()
    for index, node in enumerate(document["nodes"]):
        known = graph.ancestors(pairs, node["nodeId"])
        wrong = [key for key in node.get("inputs", {}) if f"n{key[1:]}" not in known]
        expected |= {f"/nodes/{index}/inputs/{key}" for key in wrong}
    for index, edge in enumerate(document["edges"]):
        if "condition" in edge:
            source = edge["sourceNodeId"]
            if edge["condition"].split(".")[1] not in [source, *graph.ancestors(pairs, source)]:
                expected.add(f"/edges/{index}/condition")
    assert {p.pointer for p in report.problems if p.code == "REFERENCE_NOT_UPSTREAM"} == expected


LARGE = 10_000


def chain(size: int) -> list[Document]:
    return [{"sourceNodeId": f"n{i}", "targetNodeId": f"n{i + 1}"} for i in range(size - 1)]


def noops(size: int, **fields: Any) -> list[Document]:
    return [{"nodeId": f"n{i}", "type": "noop", **fields} for i in range(size)]


LARGE_PLANS: dict[str, Document] = {
    "a chain": {"nodes": noops(LARGE), "edges": chain(LARGE)},
    "a circle": {
        "nodes": noops(LARGE),
        "edges": [*chain(LARGE), {"sourceNodeId": f"n{LARGE - 1}", "targetNodeId": "n0"}],
    },
    "each reads the first and a far one": {
        "nodes": [
            {**node, "inputs": {"a": f"${{nodes.n0.outputs.a}}${{nodes.n{i // 2}.outputs.a}}"}} if i > 1 else node
            for i, node in enumerate(noops(LARGE))
        ],
        "edges": chain(LARGE),
    },
    "each reads a later one": {
        "nodes": noops(LARGE, inputs={"a": f"${{nodes.n{LARGE - 1}.outputs}}"}),
        "edges": chain(LARGE),
    },
    "everything is wrong": {
        "nodes": noops(LARGE, join="n", retrypolicy=1, compensation={}, timeouts={"heartbeatMs": -1}),
        "edges": [{"sourceNodeId": f"m{i}", "targetNodeId": f"k{i}", "edgeId": "e"} for i in range(LARGE)],
    },
    "one node with all edges": {
        "nodes": noops(LARGE),
        "edges": [{"sourceNodeId": f"n{i}", "targetNodeId": f"n{LARGE - 1}"} for i in range(LARGE - 1)],
    },
    "one edge again and again": {"nodes": noops(2), "edges": chain(2) * LARGE},
    "one id again and again": {
        "nodes": [{"nodeId": "n", "type": "noop", "inputs": {"a": "${nodes.n.status}"}}] * LARGE
    },
    "long ids that look alike": {
        "nodes": [{"nodeId": "n" * 190 + str(i), "type": "noop", "join": "n" * 60} for i in range(LARGE)],
        "edges": [{"sourceNodeId": "n" * 199, "targetNodeId": "n" * 60} for _ in range(LARGE)],
    },
    "one join over many edges": {
        "nodes": [*noops(300), {"nodeId": "last", "type": "noop", "join": " && ".join(f"e{i}" for i in range(300))}],
        "edges": [{"sourceNodeId": f"n{i}", "targetNodeId": "last", "edgeId": f"e{i}"} for i in range(300)],
    },
    "many ports": {
        "nodes": [
            {"nodeId": name, "type": "noop", "descriptor": {"inputs": ports, "outputs": ports}}
            for name, ports in (("a", [{"name": f"p{i}"} for i in range(LARGE)]), ("b", [{"name": "p0"}] * LARGE))
        ],
        "edges": [{"sourceNodeId": "a", "targetNodeId": "b", "mapping": {f"q{i}": f"q{i}" for i in range(LARGE)}}],
    },
}


GOOD_ONES = {
    "a chain",
    "each reads the first and a far one",
    "one node with all edges",
    "one edge again and again",
    "one join over many edges",
}


@pytest.mark.parametrize("name", LARGE_PLANS)
def test_large_plans_take_linear_time(name: str) -> None:
    """Ten thousand nodes, good or bad, take seconds; anything quadratic would take minutes."""
    started = time.process_time()
    report = validate({"name": "p", "timeout": "1h", **LARGE_PLANS[name]}, node_types=[], agents=[["x"]])
    assert time.process_time() - started < 15
    assert report.ok == (name in GOOD_ONES)


def test_pure() -> None:
    """Nothing here reads a clock, the environment or a random source, or calls out."""
    forbidden = ("import os", "import time", "import random", "import asyncio", "temporalio", "sqlalchemy", "httpx")
    folder = Path(__file__).parents[2] / "dalang" / "validation"
    for path in folder.glob("*.py"):
        assert not [word for word in forbidden if word in path.read_text()], path
