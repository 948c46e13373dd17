"""Joins written as a boolean over edge ids."""

from __future__ import annotations

import contextlib
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dalang.expressions import ExpressionError
from dalang.joins import parse_join

EDGES = ("a", "b", "c-d")
TERMS = st.recursive(
    st.sampled_from(["a", "b", "edges['c-d']"]),
    lambda terms: (
        st.tuples(terms, terms).map(lambda two: f"({two[0]} && {two[1]})")
        | st.tuples(terms, terms).map(lambda two: f"({two[0]} || {two[1]})")
        | terms.map(lambda term: f"!{term}")
    ),
    max_leaves=8,
)


def test_grammar() -> None:
    """Not binds tighter than and, and tighter than or; edges are listed as they appear."""
    join = parse_join('a || b && !edges["c-d"] || !(a && edges)')
    assert join.edges == ("a", "b", "c-d", "edges")
    assert parse_join("a || b && c").decide({"a": True, "b": False, "c": False}) is True
    assert parse_join("!a && b").decide({"a": False, "b": False}) is False
    assert parse_join("!!a").decide({"a": True}) is True


@given(TERMS)
def test_decides_as_soon_as_it_can(source: str) -> None:
    """The answer is what every completion of the open edges would give, as far as Kleene's logic sees."""
    join = parse_join(source)
    python = source.replace("edges['c-d']", "c").replace("&&", " and ").replace("||", " or ").replace("!", " not ")
    for values in product([True, False, None], repeat=3):
        states = dict(zip(EDGES, values, strict=True))
        answer = join.decide(states)
        completions = set()
        for filled in product([True, False], repeat=3):
            names = {n[0]: f if v is None else v for n, v, f in zip(EDGES, values, filled, strict=True)}
            completions.add(eval(python, {}, names))
        if None not in values:
            assert answer in completions
        elif answer is not None:
            assert completions == {answer}


def test_open_edges_matter_only_while_they_can() -> None:
    """One live edge decides an or, one dead edge an and, whatever is still open."""
    join = parse_join("a || b")
    assert join.decide({"a": True, "b": None}) is True
    assert join.decide({"a": False, "b": None}) is None
    assert parse_join("a && b").decide({"a": None, "b": False}) is False
    assert parse_join("!a").decide({}) is None


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("", "SYNTAX"),
        ("a b", "SYNTAX"),
        ("a &&", "SYNTAX"),
        ("(a", "SYNTAX"),
        ("a)", "SYNTAX"),
        ("edges[x]", "SYNTAX"),
        ("a + b", "SYNTAX"),
        ("a-b", "SYNTAX"),
        ("(" * 5000, "NESTING"),
        ("a" * 10_001, "TOO_LONG"),
    ],
)
def test_refusals(source: str, code: str) -> None:
    """What is no join is refused with a code."""
    with pytest.raises(ExpressionError) as caught:
        parse_join(source)
    assert caught.value.code == code


@given(st.text(max_size=200) | st.text("ab()&|!'[]edges ", max_size=200))
@example("!" * 9999 + "a")
@example("||".join(["a"] * 3000))
def test_no_source_does_harm(source: str) -> None:
    """Any text is a join or an ExpressionError."""
    with contextlib.suppress(ExpressionError):
        parse_join(source).decide({})
