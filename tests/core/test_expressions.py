"""What CEL expressions mean in a plan, and that nothing in them can end or divide the workers."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dalang.expressions import MAX_SOURCE, ExpressionError, compile, evaluate, evaluate_condition

CONTEXT: dict[str, Any] = {
    "inputs": {
        "a": 1,
        "s": "text",
        "f": 0.5,
        "none": None,
        "yes": True,
        "list": [3, 1, 2],
        "map": {"k": 1, "j": 0},
        "big": 2**70,
        "nul": "a\0b",
    },
    "nodes": {"n1": {"outputs": {"score": 0.9}, "status": "SUCCESS"}, "a-b": {"outputs": {"x": 1}, "status": "ERROR"}},
    "run": {"id": "r1"},
    "outputs": {"score": 0.9},
}


def value(source: str, context: dict[str, Any] = CONTEXT) -> Any:
    return evaluate(compile(source), context)


def code(source: str, context: dict[str, Any] = CONTEXT) -> str:
    with pytest.raises(ExpressionError) as caught:
        value(source, context)
    assert caught.value.message
    return caught.value.code


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("outputs.score > 0.8", True),
        ("inputs.a + 1", 2),
        ("inputs.s + '!'", "text!"),
        ("nodes.n1.outputs.score * 2.0", 1.8),
        ("nodes['a-b'].outputs.x == 1 && nodes.n1.status == 'SUCCESS'", True),
        ("inputs.?missing.orValue('default')", "default"),
        ("inputs.?a.hasValue()", True),
        ("has(inputs.a) && !has(inputs.zzz)", True),
        ("inputs.list.all(x, x > 0) && inputs.map.exists(k, k == 'j')", True),
        ("math.greatest(inputs.list)", 3),
        ("inputs.s.upperAscii().split('E')", ["T", "XT"]),
        ("inputs.list + [4]", [3, 1, 2, 4]),
        ("[null, {'b': null, 'a': [1u, 1.5, true]}]", [None, {"a": [1, 1.5, True], "b": None}]),
        ("timestamp('2024-05-01T12:00:00.5+02:00')", "2024-05-01T10:00:00.5Z"),
        ("duration('1h') + duration('1.5s')", "3601.5s"),
        ("duration('-90s')", "-90s"),
        ("error == null", True),
        ("'a' // comment with ' and nodes\n + 'b'", "ab"),
        ("inputs.big", 2**70),
        ("inputs.nul", "a\0b"),
        ("inputs.none", None),
        ("timestamp('2024-05-01T00:30:00Z').getHours('+02:00')", 2),
        ("inputs.s.replace('t', 'T')", "TexT"),
        ("[?inputs.?zzz, 1]", [1]),
    ],
)
def test_values(source: str, expected: Any) -> None:
    """An expression gives plain JSON of the type it says."""
    answer = value(source)
    assert answer == expected
    assert type(answer) is type(expected)
    json.dumps(answer, allow_nan=False)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", "SYNTAX"),
        ("1 +", "SYNTAX"),
        ("'open", "SYNTAX"),
        ("\ud800", "SYNTAX"),
        ("'\ud800'", "SYNTAX"),
        ("1 # 2", "SYNTAX"),
        ("x" * (MAX_SOURCE + 1), "TOO_LONG"),
        ("(" * 500, "NESTING"),
        ("!(" * 40 + "true" + ")" * 40, "NESTING"),
        ("+".join(["1"] * 40), "NESTING"),
        ("true ? 1 : " * 60 + "1", "NESTING"),
        ("foo", "UNKNOWN_NAME"),
        ("now()", "UNKNOWN_NAME"),
        ("nodes.a-b.outputs", "UNKNOWN_NAME"),
        ("'a' + 1", "TYPE_MISMATCH"),
        ("inputs.map.map(k, k)", "FORBIDDEN_MACRO"),
        ("inputs.list . filter (x, x > 1)", "FORBIDDEN_MACRO"),
        ("nodes", "NODES_USE"),
        ("nodes.all(n, true)", "NODES_USE"),
        ("nodes[inputs.s].outputs", "NODES_USE"),
        ("nodes['a' + 'b']", "NODES_USE"),
        ("size(nodes)", "NODES_USE"),
        ("inputs.list.all(nodes, nodes > 1)", "NODES_USE"),
        (".nodes.a", "FORBIDDEN"),
        ("google.protobuf.Struct{}", "FORBIDDEN"),
        ("timestamp(0).getHours('Europe/Berlin')", "TIME_ZONE"),
        ("timestamp(0).getHours(inputs.s)", "TIME_ZONE"),
        ("'a'.replace('a', inputs.s)", "UNBOUNDED"),
        ("'a'" + ".replace('a', 'aaaaaaaaaa')" * 3, "UNBOUNDED"),
        ("inputs.?a", "NOT_JSON"),
    ],
)
def test_refusals(source: str, expected: str) -> None:
    """What cannot be compiled, or could differ between processes, is refused with a code."""
    with pytest.raises(ExpressionError) as caught:
        compile(source)
    assert caught.value.code == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("inputs.zzz", "NO_SUCH_KEY"),
        ("inputs.zzz + 1", "NO_SUCH_KEY"),
        ("nodes.unknown.outputs", "NO_SUCH_KEY"),
        ("inputs.a.b", "TYPE_MISMATCH"),
        ("inputs.a.b + 1", "TYPE_MISMATCH"),
        ("error.type == 'TIMEOUT'", "TYPE_MISMATCH"),
        ("inputs.a * 1.5", "TYPE_MISMATCH"),
        ("inputs.list[9]", "NO_SUCH_INDEX"),
        ("inputs.a / 0", "DIVISION_BY_ZERO"),
        ("9223372036854775807 + inputs.a", "OUT_OF_RANGE"),
        ("inputs.big > 1", "OUT_OF_RANGE"),
        ("inputs.nul == 'a'", "NOT_READABLE"),
        ("1.0 / 0.0", "NOT_JSON"),
        ("b'abc'", "NOT_JSON"),
        ("type(1)", "NOT_JSON"),
        ("{1: 2}", "NOT_JSON"),
        ("[inputs.?a]", "NOT_JSON"),
        ("{'k': {'l': inputs.?zzz}}", "NOT_JSON"),
        ("inputs.?zzz.value()", "NO_VALUE"),
        ("inputs.map.all(k, 1 / inputs.map[k] == 1)", "RUNTIME"),
        ("int(inputs.s)", "RUNTIME"),
    ],
)
def test_failures(source: str, expected: str) -> None:
    """A failed evaluation has a code, and a sentence that holds nothing of the data."""
    assert code(source) == expected


def test_a_large_value_elsewhere_does_no_harm() -> None:
    """What an expression does not name cannot make it fail, whatever it is."""
    context = {"inputs": {"a": 1, "x": 10**5000, "y": object(), "z": math.nan}}
    assert value("inputs.a + 1", context) == 2
    assert code("inputs.x > 1", context) == "OUT_OF_RANGE"
    assert code("inputs.z", context) == "NOT_JSON"


def test_only_named_nodes_are_touched() -> None:
    """The cost of an expression is in the nodes it names: no other entry is looked at."""

    class Counting(dict[str, Any]):
        asked: list[str] = []  # noqa: RUF012  (one instance)

        def __getitem__(self, key: str) -> Any:
            self.asked.append(key)
            return super().__getitem__(key)

        def __iter__(self) -> Any:
            raise AssertionError("iterated")

    nodes = Counting({str(i): {"outputs": {}} for i in range(10)}, a={"outputs": {"x": 1}})
    assert value("nodes.a.outputs.x + 1", {"nodes": nodes}) == 2
    assert nodes.asked == ["a"]


def test_conditions_are_boolean() -> None:
    """A condition is true or false; anything else is NOT_BOOLEAN."""
    assert evaluate_condition(compile("inputs.yes"), CONTEXT) is True
    assert evaluate_condition(compile("inputs.a == 2"), CONTEXT) is False
    for source in ("inputs.a", "inputs.a + 1", "'true'", "null", "[true]"):
        with pytest.raises(ExpressionError) as caught:
            evaluate_condition(compile(source), CONTEXT)
        assert caught.value.code == "NOT_BOOLEAN"
    assert not compile("1 + 1").could_be_boolean
    assert compile("inputs.a").could_be_boolean


def test_references() -> None:
    """An expression says which variables, nodes and outputs it reads, strings and comments aside."""
    found = compile(
        """nodes.b.outputs.score > 1.0 && 'nodes.x' != r"nodes.y" // nodes.z
        && nodes['a-b'].outputs['k'] == inputs.nodes.c && nodes.b.status == "S" && nodes . b.outputs.list[0] > 1
        && nodes.?c.?outputs.hasValue() && nodes["\\u0064"].outputs.size() == 0"""
    )
    assert found.references == ("b", "a-b", "c", "d")
    assert found.variables == ("nodes", "inputs")
    assert found.node_paths == (
        ("b", "outputs", "score"),
        ("a-b", "outputs", "k"),
        ("b", "status"),
        ("b", "outputs", "list"),
        ("c", "outputs"),
        ("d", "outputs"),
    )


def test_compile_is_memoised_and_position_is_told() -> None:
    """The same source is compiled once; an error tells where in the source it is."""
    assert compile("1 + 1") is compile("1 + 1")
    with pytest.raises(ExpressionError) as caught:
        compile("true &&\n  foo")
    assert caught.value.position == "true &&\n  foo".index("foo")


def test_subclasses_and_tuples_are_plain() -> None:
    """Members of a StrEnum, tuples and read-only mappings are data like any other."""

    class Status(StrEnum):
        DONE = "DONE"

    context = {"inputs": MappingProxyType({"s": Status.DONE, "t": (1, 2)})}
    assert value("inputs.s == 'DONE' && inputs.t == [1, 2]", context) is True
    answer = value("inputs", context)
    assert answer == {"s": "DONE", "t": [1, 2]}
    assert type(answer["s"]) is str


def test_quantifiers_have_a_limit_that_no_order_moves() -> None:
    """An early end cannot make the difference between an answer and COST where a map is about."""
    assert value("inputs.l.exists(x, x == 0)", {"inputs": {"l": list(range(20_000))}}) is True
    assert code("inputs.l.all(x, x >= 0)", {"inputs": {"l": list(range(20_000))}}) == "COST"
    wide = {"inputs": {"m": {str(i): i for i in range(20_000)}, "l": list(range(6_000))}}
    assert code("inputs.m.exists(k, true)", wide) == "COST"
    assert code("['a'].exists(k, {'a': 1, 'b': 2}.exists(j, inputs.m.all(i, true)))", wide) == "COST"
    pairs = {"inputs": {"l": [{"tags": ["x", "y"]}] * 90}}
    assert value("inputs.l.all(e, e.tags.exists(t, t == 'y'))", pairs) is True


def test_data_has_limits() -> None:
    """Too much or too deeply nested data is refused before the engine sees it."""
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert code("inputs == 1", {"inputs": deep}) == "NESTING"
    assert code("inputs", {"inputs": deep}) == "NESTING"
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    assert code("inputs == 1", {"inputs": cyclic}) == "NESTING"
    assert code("size(inputs) > 1", {"inputs": [0] * 100_001}) == "TOO_LARGE"
    assert code("inputs == ''", {"inputs": "x" * 1_000_001}) == "TOO_LARGE"
    assert value("inputs", {"inputs": "x" * 1_000_001}) == "x" * 1_000_001
    work = {"inputs": {"l": list(range(9_000)), "s": "x" * 900_000}}
    assert code("inputs.l.all(i, inputs.s.contains('y'))", work) == "COST"
    while isinstance(deep, list):  # a list this deep cannot be freed recursively
        deep = deep.pop()


def test_none_keeps_its_references() -> None:
    """Reading nulls leaves the reference count of None alone (the engine's own conversion takes one away)."""
    sources = ["inputs.n == null ? inputs.n : 1", "[null, {'a': null}]", "inputs.l + [null]"]
    expressions = [compile(source) for source in sources]
    context = {"inputs": {"n": None, "l": [None, {"x": None}]}}
    before = sys.getrefcount(None)
    for _ in range(2000):
        for expression in expressions:
            evaluate(expression, context)
    assert sys.getrefcount(None) > before - 500


def test_answers_do_not_differ_between_processes() -> None:
    """Two processes give byte-equal answers and errors, for maps of any order too."""
    program = """
import json
from dalang.expressions import compile, evaluate, ExpressionError
m = {f"k{i}": i for i in range(50)}
for source in ("{'z': inputs.m, 'a': 1}", "'%s'.format([inputs.m])", "inputs.m.all(k, 1 / inputs.m[k] > inputs.m.x)",
               "inputs.m.exists_one(k, k == 'k1' || inputs.m[k] / 0 == 1)", "inputs.m", "[inputs.m, inputs.m.zz]"):
    try:
        print(json.dumps(evaluate(compile(source), {"inputs": {"m": m}})))
    except ExpressionError as error:
        print(error.code, error.message)
"""
    answers = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(4)
    }
    assert len(answers) == 1
    assert answers.pop().count("\n") == 6


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.sampled_from("abkxs"), children, max_size=4),
    max_leaves=20,
)
WORDS = """inputs nodes outputs error . .? [ ] ( ) { } , : ? && || ! - + * / % == < in 'a' ''' " b'y' r' 1 1u 1e9 \\ //
null true .all( .exists( .map( has( size( .a x .orValue( optional.none() .format( nodes.a \0 é"""
FRAGMENTS = [*WORDS.split(), " ", "\n", "9" * 400, "(" * 40, "[0]" * 40, "\ud800"]
SOURCES = st.text(max_size=2000) | st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join)


@given(SOURCES, JSON)
@example("(" * 1000, None)
@example("-" * 1000, None)
@example("[" * 500 + "]" * 500, None)
@example("inputs" + ".a" * 400, None)
@example("9" * 1000, None)
def test_no_source_does_harm(source: str, data: Any) -> None:
    """Any text compiles or is an ExpressionError, and what compiles gives JSON or an ExpressionError."""
    try:
        answer = evaluate(compile(source), {"inputs": data, "outputs": data})
    except ExpressionError:
        return
    json.dumps(answer, allow_nan=False)


@given(
    st.sampled_from(
        [
            "inputs.a == inputs.b",
            "inputs.a + 1",
            "[inputs, inputs.?a.orValue(1)]",
            "inputs.all(x, x == 1)",
            "inputs.a.b",
        ]
    ),
    JSON,
    st.integers(0, 120),
)
def test_no_data_does_harm(source: str, data: Any, depth: int) -> None:
    """Whatever the context holds, an evaluation gives JSON or an ExpressionError."""
    for _ in range(depth):
        data = {"a": data, "b": [data]} if depth < 8 else {"a": data}
    with contextlib.suppress(ExpressionError):
        json.dumps(value(source, {"inputs": data}), allow_nan=False)


PATHS = st.lists(st.sampled_from("abkx"), max_size=3).map(lambda keys: ".".join(["inputs", *keys]))
SMALL = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.sampled_from("abkx"), children, max_size=3),
    max_leaves=10,
)


@given(PATHS, SMALL)
def test_a_path_means_what_the_engine_means(path: str, data: Any) -> None:
    """A plain path followed without the engine gives what the engine gives for it in brackets."""
    assert _outcome(path, data) == _outcome(f"({path})", data)


def _outcome(source: str, data: Any) -> tuple[str, Any]:
    try:
        answer = value(source, {"inputs": data})
        return type(answer).__name__, answer
    except ExpressionError as error:
        return "error", error.code
