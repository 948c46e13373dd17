"""The inputs of a run against the plan's schema, and schemas that mean harm."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from dalang.plan import Plan
from dalang.validation import inputs_problems, validate, with_input_defaults
from dalang.validation.bounded_schema import Budget, schema_errors
from dalang.validation.input_schema import schema_problems
from tests.effort import tries

SECONDS = 20.0
"""What the worst schema may take here; a machine that is busy with other tests included."""


def plan(inputs: dict[str, Any]) -> Plan:
    return validate({"name": "p", "nodes": [{"nodeId": "a", "type": "noop"}], "inputs": inputs}).require()


def unchecked(inputs: dict[str, Any]) -> Plan:
    """A plan whose schema validation would refuse: inputs_problems must stand it all the same."""
    return plan({}).model_copy(update={"inputs": inputs})


def found(schema: dict[str, Any], inputs: Any) -> list[tuple[str, str]]:
    return [(problem.pointer, problem.code) for problem in inputs_problems(plan(schema), inputs)]


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "pattern": "^[A-Z]"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150, "default": 18},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "uniqueItems": True, "maxItems": 3},
        "role": {"enum": ["viewer", "admin"]},
        "contact": {"oneOf": [{"required": ["mail"]}, {"required": ["phone"]}]},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
    "$defs": {"tag": {"type": "string"}},
}


def test_good_inputs() -> None:
    """What the schema asks for has no problems, with a required property filled from its default."""
    assert found(PERSON, {"name": "Ada", "tags": ["a"], "role": "admin", "contact": {"mail": "x"}}) == []


@pytest.mark.parametrize(
    ("inputs", "pointer", "code"),
    [
        ({}, "", "MISSING_INPUT"),
        ({"name": "ada"}, "/name", "INVALID_INPUT"),
        ({"name": 5}, "/name", "INVALID_INPUT"),
        ({"name": "Ada", "age": 151}, "/age", "INVALID_INPUT"),
        ({"name": "Ada", "age": True}, "/age", "INVALID_INPUT"),
        ({"name": "Ada", "tags": ["a", 1]}, "/tags/1", "INVALID_INPUT"),
        ({"name": "Ada", "tags": ["a", "a"]}, "/tags", "INVALID_INPUT"),
        ({"name": "Ada", "role": "root"}, "/role", "INVALID_INPUT"),
        ({"name": "Ada", "contact": {}}, "/contact", "INVALID_INPUT"),
        ({"name": "Ada", "contact": {"mail": 1, "phone": 1}}, "/contact", "INVALID_INPUT"),
        ({"name": "Ada", "a/b": 1}, "/a~1b", "UNKNOWN_INPUT"),
        ({"name": float("nan")}, "/name", "NOT_JSON"),
        ({"name": "A" * 2**20}, "", "TOO_LARGE"),
        (None, "", "NOT_AN_OBJECT"),
    ],
)
def test_wrong_inputs(inputs: Any, pointer: str, code: str) -> None:
    """One thing wrong is one problem at its place, in a short sentence."""
    problems = inputs_problems(plan(PERSON), inputs)
    assert [(p.pointer, p.code, p.severity) for p in problems] == [(pointer, code, "error")]
    assert len(problems[0].message) < 300
    assert problems[0].message.endswith(".")


def test_all_problems_at_once_within_bounds() -> None:
    """Several wrong inputs are several problems; ten thousand are a bounded number with a word about the rest."""
    assert len(found(PERSON, {"age": -1, "x": 1, "y": 2})) == 4
    many = found({"items": {}, "additionalProperties": {"type": "string"}}, {f"k{i}": i for i in range(10_000)})
    assert len(many) == 201
    assert many[-1][1] == "TOO_MANY_PROBLEMS"


def test_defaults_are_copies_of_top_level_defaults() -> None:
    """Only what is not given is filled in, null counts as given, and plan and inputs stay as they are."""
    p = plan(
        {"properties": {"a": {"default": []}, "b": {"default": 1}, "c": {}, "d": {"properties": {"e": {"default": 1}}}}}
    )
    given_inputs = {"b": None}
    filled = with_input_defaults(p, given_inputs)
    assert filled == {"a": [], "b": None}
    filled["a"].append(1)
    assert with_input_defaults(p, None) == {"a": [], "b": 1}
    assert given_inputs == {"b": None}


def test_references_and_anchors_within_the_schema() -> None:
    """Local references work by pointer, by anchor and to the whole, which may recur."""
    schema = {
        "properties": {"child": {"$ref": "#"}, "size": {"$ref": "#size"}, "x": {"$ref": "#/$defs/a~1b"}},
        "$defs": {"n": {"$anchor": "size", "type": "integer"}, "a/b": {"type": "string"}},
    }
    assert found(schema, {"child": {"child": {"size": "x", "x": 1}}}) == [
        ("/child/child/size", "INVALID_INPUT"),
        ("/child/child/x", "INVALID_INPUT"),
    ]


@pytest.mark.parametrize("name", ["$ref", "$id", "$schema", "pattern", "patternProperties", "$anchor"])
def test_properties_may_be_called_like_keywords(name: str) -> None:
    """An input called ``pattern`` is an input, not a keyword."""
    assert found({"properties": {name: {"type": "integer"}}}, {name: "x"}) == [(f"/{name}", "INVALID_INPUT")]


def doubling(depth: int) -> dict[str, Any]:
    """A schema whose references double at each level: 2 ** depth evaluations."""
    levels = {f"l{i}": {"allOf": [{"$ref": f"#/$defs/l{i + 1}"}] * 2} for i in range(depth)}
    return {"$defs": {**levels, f"l{depth}": {}}, "properties": {"a": {"$ref": "#/$defs/l0"}}}


HOSTILE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "backtracking": ({"properties": {"a": {"pattern": "^(a+)+$"}}}, {"a": "a" * 100_000 + "b"}),
    "backtracking names": ({"patternProperties": {"^(a|a)*$": False}}, {"a" * 100_000 + "b": 1}),
    "many heavy patterns": (
        {"additionalProperties": {"allOf": [{"pattern": f"(([ab]{{10}}){{10}}){{2}}{i}"} for i in range(150)]}},
        {f"k{i}": "a" * 500 for i in range(1500)},
    ),
    "doubling references": (doubling(60), {"a": 1}),
    "a reference to itself": ({"properties": {"a": {"$ref": "#/properties/a"}}}, {"a": 1}),
    "a circle of references": (
        {
            "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}},
            "allOf": [{"$ref": "#/$defs/a"}],
        },
        {},
    ),
    "unique objects": ({"properties": {"a": {"uniqueItems": True}}}, {"a": [{"i": i} for i in range(90_000)]}),
    "long enumeration": (
        {"properties": {"a": {"items": {"enum": [f"e{i}" for i in range(20_000)]}}}},
        {"a": ["x"] * 200_000},
    ),
    "alternatives of a large value": (
        {"properties": {"a": {"anyOf": [{"type": "string"}] * 5000}}},
        {"a": list(range(150_000))},
    ),
    "unevaluated": ({"unevaluatedProperties": False, "properties": {}}, {f"{i}": 0 for i in range(90_000)}),
    "many properties": (
        {"properties": {"a": {"items": {"properties": {f"p{i}": {} for i in range(10_000)}}}}},
        {"a": [{}] * 300_000},
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_end(name: str) -> None:
    """A schema made to hang, and inputs made for it, end in time with an answer."""
    schema, inputs = HOSTILE[name]
    started = time.process_time()
    assert isinstance(inputs_problems(unchecked(schema), inputs), list)
    schema_problems(schema)
    assert time.process_time() - started < SECONDS


def test_too_costly_is_said() -> None:
    """When the budget is used up, that is the problem."""
    assert [p.code for p in inputs_problems(unchecked(doubling(60)), {"a": 1})] == ["SCHEMA_TOO_COSTLY"]
    recursive = {"properties": {"a": {"$ref": "#/properties/a"}}}
    assert [p.code for p in inputs_problems(unchecked(recursive), {"a": 1})] == ["SCHEMA_TOO_COSTLY"]


@pytest.mark.parametrize(
    "schema",
    [
        {"required": [{}] * 100_000},
        {"enum": [[i] for i in range(30_000)]},
        {"properties": {"a": {"pattern": r"\pL{1000}"}}},
        {"patternProperties": {f"(\\pL{{30}}){{{i}}}": {} for i in range(30, 3000)}},
        {"properties": {f"p{i}": {"pattern": f"((a{{10}}){{10}}){{9}}{i}"} for i in range(3000)}},
        {"$ref": "#" + "/a" * 50_000},
        {"properties": {"a": {**doubling(60), "default": {"a": 1}}}},
    ],
)
def test_hostile_schemas_are_judged_in_time(schema: dict[str, Any]) -> None:
    """Validation of the plan itself does not hang either."""
    started = time.process_time()
    schema_problems(schema)
    assert time.process_time() - started < SECONDS


def test_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A remote reference is refused with the plan, and never fetched when a plan without validation has one."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a schema was fetched")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    schema = {"properties": {"a": {"$ref": "http://127.0.0.1:1/schema"}}}
    (problem,) = schema_problems(schema)
    assert "nothing is loaded" in problem[1]
    assert [p.code for p in inputs_problems(unchecked(schema), {"a": 1})] == ["BAD_INPUT_SCHEMA"]


def test_a_nested_dialect_cannot_escape_the_bounds() -> None:
    """``$schema`` below the root, for which the library would take its own validator, is refused."""
    nested = {"properties": {"a": {"$schema": "https://json-schema.org/draft/2020-12/schema", "pattern": "^(a+)+$"}}}
    assert [steps for steps, _ in schema_problems(nested)] == [("properties", "a", "$schema")]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, 1.0, 1.5])
    | st.sampled_from(["", "a", "ab"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=8,
)
numbers = st.integers(0, 3)
schemas: st.SearchStrategy[Any] = st.recursive(
    st.booleans()
    | st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null"]),
            "enum": st.lists(values, min_size=1, max_size=3),
            "const": values,
            "minLength": numbers,
            "maximum": numbers,
            "minItems": numbers,
            "uniqueItems": st.booleans(),
            "pattern": st.sampled_from(["a", "^b", "b$", "^[ab]+$"]),
            "required": st.lists(st.sampled_from(["a", "b"]), unique=True),
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "c"]), inner, max_size=2),
            "additionalProperties": inner,
            "unevaluatedProperties": inner,
            "items": inner,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
            "if": inner,
            "then": inner,
        },
    ),
    max_leaves=6,
)


@settings(max_examples=tries(150), deadline=None)
@given(schema=schemas, value=values)
def test_the_same_verdict_as_the_library(schema: Any, value: Any) -> None:
    """Bounded or not, a value is valid exactly if the library finds it so."""
    whole = {"properties": {"x": schema}}
    ours = next(schema_errors(whole, {"x": value}, Budget()), None) is None
    assert ours == Draft202012Validator(whole).is_valid({"x": value})


@settings(max_examples=tries(120), deadline=None)
@given(schema=schemas.filter(lambda s: isinstance(s, dict)))
def test_good_schemas_are_accepted(schema: dict[str, Any]) -> None:
    """A schema that the meta-schema accepts is accepted unless its type is not object."""
    Draft202012Validator.check_schema(schema)
    problems = schema_problems(schema)
    assert all(steps == ("type",) for steps, _ in problems)
    assert bool(problems) == (schema.get("type", "object") != "object")


@settings(max_examples=tries(100), deadline=None)
@given(
    schema=st.dictionaries(st.sampled_from(["type", "properties", "$ref", "items", "enum", "allOf", "pattern"]), values)
)
def test_any_schema_and_any_inputs_raise_nothing(schema: dict[str, Any]) -> None:
    """Whatever stands in a schema, both checks answer."""
    for _, message in schema_problems(schema):
        assert message
    assert isinstance(inputs_problems(unchecked(schema), {"a": 1}), list)
