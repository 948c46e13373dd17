"""References to secrets in plans, and the mask that takes values out of what comes back."""

from __future__ import annotations

import base64
import html
import json
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalang.canonical import find_unsafe
from dalang.compilation import compile_plan
from dalang.masking import MIN_LENGTH, Mask
from dalang.plan import Plan
from dalang.secret_references import (
    BadReference,
    names_in,
    nodes_given_otherwise,
    patterns_of,
    revealed,
    written_places,
)
from dalang.validation import validate

VALUES = {"key": "k-value", "eu-token": "t-value", "other": "o-value"}


def shown(written: Any, given: Any | None = None) -> Any:
    """What a handler gets of inputs; ``written`` by the plan, ``given`` when it is run."""
    places = written_places(written)
    inputs = written if given is None else given
    names_in(inputs, places)
    return revealed(inputs, places, VALUES)


def test_references_become_values_where_the_plan_writes_them() -> None:
    """Whole texts, and parts of texts, at any depth; all else stays."""
    inputs = {
        "token": "secret://key",
        "headers": {"Authorization": "Bearer {{secret://key}}", "a/b~c": "{{secret://other}}:{{secret://key}}"},
        "list": [1, "x", "secret://other"],
        "plain": "secrets are {{nice}}",
    }
    assert shown(inputs) == {
        "token": "k-value",
        "headers": {"Authorization": "Bearer k-value", "a/b~c": "o-value:k-value"},
        "list": [1, "x", "o-value"],
        "plain": "secrets are {{nice}}",
    }
    assert names_in(inputs, written_places(inputs)) == ["key", "other"]


@pytest.mark.parametrize(
    ("written", "given"),
    [
        ("${nodes.a.outputs.text}", "secret://key"),
        ("${nodes.a.outputs.text}", "{{secret://key}}"),
        ("Bearer {{secret://key}} ${inputs.more}", "Bearer {{secret://key}} {{secret://other}}"),
        ("secret://key", "secret://other"),
        ("secret://${inputs.region}-token", "secret://key"),
        ("secret://${inputs.region}-token", "secret://../../x-token"),
        ("$${ {{secret://key}}", "{{secret://other}}"),
    ],
)
def test_what_others_write_is_no_reference(written: str, given: str) -> None:
    """An output that reads like a reference stays that text; so does a name that the plan does not write."""
    got = shown({"text": written}, {"text": given, "more": given})
    assert got["more"] == given
    assert "o-value" not in got["text"]
    assert got["text"] in (given, given.replace("{{secret://key}}", "k-value"))
    if "key" not in written:
        assert got["text"] == given


def test_a_name_may_have_an_expression_in_it() -> None:
    """Which stands for letters of a name, and nothing else."""
    written = {"token": "secret://${inputs.region}-token", "in": "Bearer {{secret://${inputs['a}']}}}"}
    assert written_places(written) == {"/token": ["*-token"], "/in": ["*"]}
    assert shown(written, {"token": "secret://eu-token", "in": "Bearer {{secret://key}}"}) == {
        "token": "t-value",
        "in": "Bearer k-value",
    }


@pytest.mark.parametrize(
    "text", ["Bearer secret://key", "secret://", "secret://a b", "secret://../x", "{{secret://a/b}}", "{{secret://}}"]
)
def test_what_is_badly_written_is_refused_with_the_plan(text: str) -> None:
    """Else it would be sent as it stands."""
    with pytest.raises(BadReference):
        patterns_of(text)
    plan = {"name": "p", "nodes": [{"nodeId": "a", "type": "http", "inputs": {"url": "http://x/", "body": [text]}}]}
    (problem,) = validate(plan).problems
    assert (problem.code, problem.pointer) == ("BAD_SECRET", "/nodes/0/inputs/body/0")


def test_nodes_without_a_handler_cannot_have_secrets() -> None:
    """Their inputs are recorded: a timer's, a person's, a sub-plan's."""
    node = {"nodeId": "a", "type": "human", "inputs": {"shown": "secret://key"}}
    assert [one.code for one in validate({"name": "p", "nodes": [node]}).problems] == ["BAD_SECRET"]


def test_a_compiled_plan_says_where_it_writes_references() -> None:
    """Of a node, of its undo, and of the undo that is given the node's inputs; plans without any are as before."""
    plan = Plan.model_validate(
        {
            "name": "p",
            "nodes": [
                {
                    "nodeId": "a",
                    "type": "http",
                    "inputs": {"url": "secret://url"},
                    "compensation": {"type": "http", "inputs": {"headers": {"X": "{{secret://key}}"}}},
                },
                {"nodeId": "b", "type": "http", "inputs": {"url": "secret://url"}, "compensation": {"type": "http"}},
                {"nodeId": "c", "type": "noop", "inputs": {"x": 1}},
            ],
        }
    )
    a, b, c = compile_plan(plan)["nodes"]
    assert (a["secrets"], a["compensation"]["secrets"]) == ({"/url": ["url"]}, {"/headers/X": ["key"]})
    assert b["compensation"]["secrets"] == {"/url": ["url"]}
    assert "secrets" not in c


def test_a_planner_may_move_a_node_with_a_secret_and_nothing_else() -> None:
    """Not change it, and not write one, at whatever depth."""
    node = {"nodeId": "a", "type": "http", "inputs": {"url": "http://shop/", "body": ["secret://key"]}}
    plain = {"nodeId": "b", "type": "http", "inputs": {"url": "http://x/"}}
    before = {"nodes": [node, plain], "finally": []}
    assert nodes_given_otherwise(before, {"nodes": [{**plain, "inputs": {}}], "finally": [node]}) == []
    assert nodes_given_otherwise(before, {"nodes": [{**node, "type": "noop"}, plain]}) == ["a"]
    deep = {"nodeId": "c", "type": "map", "map": {"body": {"inputs": {"x": "{{secret://key}}"}}}}
    assert nodes_given_otherwise(before, {"nodes": [node, deep]}) == ["c"]


SECRET = st.text(min_size=MIN_LENGTH).filter(lambda text: find_unsafe(text) is None and len(text.strip()) >= MIN_LENGTH)


@settings(max_examples=40)
@given(SECRET, st.text(max_size=5).filter(lambda text: find_unsafe(text) is None))
def test_no_usual_spelling_of_a_value_is_left(value: str, before: str) -> None:
    """Within texts of any kind."""
    mask = Mask([value])
    spelled = [
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        quote(value),
        quote(value, safe=""),
        quote_plus(value),
        html.escape(value),
        value.encode().hex(),
        repr(value)[1:-1],
    ]
    for one in spelled:
        assert one not in mask.text(f"{before}{one}{before}").replace("***", "") or one in before
        assert mask.text(one) != one
    text = mask.text(base64.b64encode(f"{before}{value}".encode()).decode())
    assert "***" in text or len(value.encode()) < MIN_LENGTH + 1
    assert "***" in mask.text(urlencode({"a": value}))


def test_all_of_a_value_is_masked() -> None:
    """Keys, numbers, nested texts, lines of a key."""
    lines = "-----BEGIN-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\nxyz\n-----END-----"
    mask = Mask(["hunter22", "12345678", lines])
    assert mask({"hunter22": [1, True, None, 12345678, "a hunter22 b"], "x": {"y": 3.5}}) == {
        "***": [1, True, None, "***", "a *** b"],
        "x": {"y": 3.5},
    }
    assert mask.text("at line MIIEvQIBADANBgkqhkiG9w0BAQ") == "at line ***"
    assert not Mask()
    assert Mask()({"a": 1}) == {"a": 1}
