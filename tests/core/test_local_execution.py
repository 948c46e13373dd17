"""Which nodes are run together with others: what they say, what their plan says, what their function says."""

from __future__ import annotations

from typing import Any

import pytest

from dalang.compilation import compile_plan
from dalang.nodes import Registry, node, registry
from dalang.plan import Plan


@pytest.mark.parametrize(
    ("plan", "one", "light"),
    [
        ({}, {"type": "quick"}, True),
        ({}, {"type": "python", "handler": "quick"}, True),
        ({}, {"type": "slow"}, False),
        ({}, {"type": "quick", "pivot": True}, False),
        ({}, {"type": "quick", "execution": "durable"}, False),
        ({"execution": "durable"}, {"type": "quick"}, False),
        ({"execution": "durable"}, {"type": "slow", "execution": "local"}, True),
        ({"execution": "local"}, {"type": "slow"}, True),
    ],
)
def test_the_plan_wins_over_the_function(plan: dict[str, Any], one: dict[str, Any], light: bool) -> None:
    """A function that is registered as light makes nodes light of which nobody says anything else."""
    document = {"name": "p", **plan, "nodes": [{"nodeId": "a", **one}]}
    program = compile_plan(Plan.model_validate(document), frozenset({"quick"}))
    assert program["nodes"][0].get("light", False) is light


def test_a_body_is_compiled_like_the_plan_around_it() -> None:
    """What is light at the top is light in a map."""
    body = {"nodeId": "b", "type": "quick"}
    document = {"name": "p", "nodes": [{"nodeId": "m", "type": "map", "map": {"items": [1], "body": body}}]}
    program = compile_plan(Plan.model_validate(document), frozenset({"quick"}))
    assert program["nodes"][0]["container"]["body"]["nodes"][0]["light"] is True


def test_explicitly_durable_survives_being_stored() -> None:
    """A plan that says durable is not the plan that says nothing."""
    plan = Plan.model_validate({"name": "p", "execution": "durable", "nodes": [{"nodeId": "a", "type": "quick"}]})
    stored = Plan.model_validate(plan.wire())
    assert "light" not in compile_plan(stored, frozenset({"quick"}))["nodes"][0]


def test_functions_say_that_they_are_light(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, as registered."""
    own = Registry()
    monkeypatch.setattr("dalang.nodes.registry", own)

    @node("quick", light=True)
    def quick() -> None: ...

    @node("slow")
    def slow() -> None: ...

    assert own.light == {"quick"}
    assert "quick" not in registry.light
