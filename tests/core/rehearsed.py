"""Short ways to rehearse a plan in tests."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

from dalang.plan import Plan
from dalang.rehearsal import Scenario, Trace, load_options, prepare, rehearse_once
from dalang.validation import validate
from tests.effort import tries

ordinary = settings(max_examples=tries(60), derandomize=True, database=None, deadline=None)
WILD: dict[str, Any] = {
    "crashes": 0.05,
    "types": {
        "noop": {
            "duration": "uniform(0s, 90s)",
            "failures": [{"rate": 0.1}, {"rate": 0.1, "type": "TOOL_ERROR", "action": "ABORT"}],
            "outcomes": [{"weight": 2, "outputs": {"x": 1, "y": 2}}, {"outputs": {"x": 2}}, {"outputs": {}}],
            "needs": {"cpu": 1},
        },
    },
    "pools": {"cpu": 2},
}


def plan_of(**fields: Any) -> Plan:
    """Return a valid plan of these fields."""
    return validate({"name": "test", **fields}).require()


def once(plan: Plan, **options: Any) -> tuple[Scenario, Trace]:
    scenario = prepare(plan, load_options(options))
    return scenario, rehearse_once(scenario, scenario.options.seed)


def spans(scenario: Scenario, trace: Trace) -> dict[str, tuple[int | None, int]]:
    """Return start and end of every node's work by its id."""
    return {scenario.program.ids[node]: (one.start, one.end) for node, one in trace.nodes.items()}


def known(plan: Plan, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options as far as the plan has the types they name."""
    kinds = {node.type for node in plan.all_nodes()}
    return {**options, "types": {name: value for name, value in options["types"].items() if name in kinds}}


def highest(changes: list[tuple[int, float]]) -> float:
    """Return the highest sum of changes over time; what ends at a moment is given back before it is taken again."""
    level = top = 0.0
    for _, change in sorted(changes):
        level += change
        top = max(top, level)
    return top
