"""The overview of a plan: levels, critical path, slack and sums."""

from __future__ import annotations

from pathlib import Path

from dalang.formats import load_document
from dalang.overview import overview
from dalang.plan import Plan

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_seeds_example_at_a_glance() -> None:
    """Axon's feature workflow takes 2h15m on its critical path, and documentation has 35 minutes of slack."""
    seen = overview(Plan.model_validate(load_document((EXAMPLES / "feature-development.yaml").read_bytes())))
    assert seen.levels == (
        ("design_api",),
        ("implement_api",),
        ("write_tests", "write_documentation"),
        ("code_review",),
    )
    assert (seen.depth, seen.widest_level) == (4, 2)
    assert seen.critical_path == ("design_api", "implement_api", "write_tests", "code_review")
    assert (seen.estimated_duration, seen.total_work) == (8_100_000, 8_700_000)
    assert seen.slack["write_documentation"] == 2_100_000
    assert (seen.types, seen.roots, seen.leaves) == (
        {"agent": 5},
        ("design_api",),
        ("code_review", "write_documentation"),
    )
    assert seen.timeout == 7_200_000
    assert round(seen.parallelism, 3) == 1.074


def test_sleeps_take_as_long_as_they_say_and_finally_is_apart() -> None:
    """A literal duration of a sleep counts, an expression does not; finally nodes are in no level."""
    plan = Plan.model_validate(
        {
            "name": "p",
            "nodes": [
                {"nodeId": "a", "type": "sleep", "inputs": {"duration": "2s"}},
                {"nodeId": "b", "type": "sleep", "inputs": {"duration": "${inputs.d}"}},
            ],
            "edges": [
                {"sourceNodeId": "a", "targetNodeId": "b"},
                {"sourceNodeId": "y", "targetNodeId": "z"},
            ],
            "finally": [{"nodeId": "y", "type": "noop"}, {"nodeId": "z", "type": "noop"}],
        }
    )
    seen = overview(plan)
    assert (seen.estimated_duration, seen.without_estimate) == (2000, 1)
    assert (seen.levels, seen.finally_nodes) == ((("a",), ("b",)), ("y", "z"))


def test_an_empty_plan_has_an_overview() -> None:
    """Nothing is no reason to fail."""
    seen = overview(Plan.model_validate({"name": "p"}))
    assert (seen.nodes, seen.depth, seen.widest_level, seen.critical_path, seen.parallelism) == (0, 0, 0, (), 1.0)
