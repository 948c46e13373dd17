"""Rules of policies: which of them decides, and what is wrong with a document of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalang.errors import InvalidDocument
from dalang.policies import NODE, RUN, read_policy
from tests.harness import ROOT

NODE_SUBJECT: dict[str, Any] = {
    "tenant": "acme",
    "plan": {"id": "p", "name": "release", "version": "1"},
    "run": {"id": "r", "priority": 0, "metadata": {}},
    "node": {
        "id": "ship",
        "type": "http",
        "inputs": {"url": "http://x", "method": "GET"},
        "capabilities": [],
        "metadata": {},
    },
    "inputs": {"url": "http://x", "method": "GET"},
    "requester": "kim",
    "roles": [],
}


def policy(*rules: dict[str, Any], **more: Any) -> Any:
    return read_policy(json.dumps({"rules": list(rules), **more}))


def test_the_first_rule_that_holds_decides() -> None:
    rules = policy(
        {"name": "kim-may", "when": "requester == 'kim'", "effect": "allow"},
        {"name": "nobody", "effect": "deny", "message": "Closed."},
    )
    assert rules.decide(NODE, NODE_SUBJECT).data() == {"effect": "allow", "rule": "kim-may"}
    other = rules.decide(NODE, {**NODE_SUBJECT, "requester": "lee"})
    assert (other.allowed, other.rule, other.message) == (False, "nobody", "Closed.")


def test_what_no_rule_decides_is_the_default() -> None:
    rule = {"name": "runs", "applies": "run", "effect": "deny"}
    assert policy(rule).decide(NODE, NODE_SUBJECT).data() == {"effect": "allow", "rule": None}
    assert not policy(rule).decide(RUN, NODE_SUBJECT).allowed
    assert policy(default="deny").decide(NODE, NODE_SUBJECT).data() == {"effect": "deny", "rule": "default"}


def test_a_rule_that_cannot_be_evaluated_denies() -> None:
    rules = policy({"name": "team", "when": "plan.metadata.team == 'a'", "effect": "allow"})
    decision = rules.decide(RUN, NODE_SUBJECT)
    assert not decision.allowed
    assert decision.rule == "team"
    assert "NO_SUCH_KEY" in decision.message


def test_a_costly_rule_denies_instead_of_taking_its_time() -> None:
    rules = policy({"name": "all", "when": "inputs.list.all(a, inputs.list.all(b, a + b >= 0))", "effect": "allow"})
    decision = rules.decide(NODE, {**NODE_SUBJECT, "inputs": {"list": list(range(2_000))}})
    assert (decision.allowed, decision.rule) == (False, "all")


def test_all_problems_are_told_at_once() -> None:
    document = {
        "default": "perhaps",
        "extra": 1,
        "rules": [
            {"name": "a", "effect": "allow", "when": "nodes.x.status == 'SUCCESS'"},
            {"name": "a", "effect": "block", "applies": ["run", "edge"], "wehn": "true"},
            {"effect": "deny", "when": "1 + 1"},
            "deny all",
        ],
    }
    with pytest.raises(InvalidDocument) as raised:
        read_policy(json.dumps(document))
    found = {(one.pointer, one.code) for one in raised.value.problems}
    assert found >= {
        ("/extra", "UNKNOWN_FIELD"),
        ("/default", "BAD_VALUE"),
        ("/rules/0/when", "UNKNOWN_NAME"),
        ("/rules/1/effect", "BAD_VALUE"),
        ("/rules/1/applies", "BAD_VALUE"),
        ("/rules/1/wehn", "UNKNOWN_FIELD"),
        ("/rules/1/name", "DUPLICATE"),
        ("/rules/2/name", "BAD_VALUE"),
        ("/rules/2/when", "NOT_BOOLEAN"),
        ("/rules/3", "WRONG_TYPE"),
    }


@given(st.lists(st.tuples(st.sampled_from(["true", "false", "inputs.none"]), st.sampled_from(["allow", "deny"]))))
def test_the_decision_is_that_of_the_first_rule_that_is_not_false(rules: list[tuple[str, str]]) -> None:
    """With an error taken as a denial."""
    made = [{"name": f"r{at}", "when": when, "effect": effect} for at, (when, effect) in enumerate(rules)]
    decision = policy(*made).decide(NODE, NODE_SUBJECT)
    first = next((at for at, (when, _) in enumerate(rules) if when != "false"), None)
    if first is None:
        assert (decision.allowed, decision.rule) == (True, None)
    else:
        assert decision.rule == f"r{first}"
        assert decision.allowed == (rules[first] == ("true", "allow"))


@pytest.mark.parametrize(
    ("applies", "change", "rule"),
    [
        (RUN, {"inputs": {"environment": "production"}}, "production-is-for-release-managers"),
        (RUN, {"inputs": {"environment": "production"}, "roles": ["admin"]}, None),
        (RUN, {"inputs": {}}, None),
        (NODE, {}, "no-plain-http"),
        (NODE, {"node": {"type": "http", "inputs": {"url": "http://127.0.0.1:1/", "method": "GET"}}}, "health-checks"),
        (NODE, {"node": {"type": "noop", "inputs": {}}}, None),
    ],
)
def test_the_example_means_what_it_says(applies: str, change: dict[str, Any], rule: str | None) -> None:
    example = read_policy((ROOT / "examples/release-policy.yaml").read_bytes())
    assert example.decide(applies, {**NODE_SUBJECT, **change}).rule == rule
