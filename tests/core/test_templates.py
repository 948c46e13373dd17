"""Templates in a node's inputs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalang.expressions import ExpressionError
from dalang.templates import compile_template

CONTEXT = {"inputs": {"n": 2, "s": "x", "m": {"b": 1, "a": [1.5, None]}, "none": None, "yes": True}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${inputs.n}", 2),
        ("${ inputs.n }", 2),
        ("n=${inputs.n}", "n=2"),
        ("${inputs.n}${inputs.s}", "2x"),
        ("${inputs.n} ", "2 "),
        ("${inputs.m}", {"b": 1, "a": [1.5, None]}),
        ("m=${inputs.m}", 'm={"a":[1.5,null],"b":1}'),
        ("<${inputs.none}|${inputs.yes}>", "<|true>"),
        ("$${inputs.n}", "${inputs.n}"),
        ("$${${inputs.n}}", "${2}"),
        ("${{'a}': {'b': \"}\"}}}", {"a}": {"b": "}"}}),
        ("${'''}'''}", "}"),
        ("${r'\\d}'}", "\\d}"),
        ("costs $5 {or} }", "costs $5 {or} }"),
        ("${inputs.n // a comment }\n}", 2),
    ],
)
def test_texts(text: str, expected: Any) -> None:
    """An expression alone keeps its type; in a text it becomes text; ``$${`` is a literal."""
    template = compile_template({"k": [text]})
    rendered = {"k": [text]} if template is None else template.render(CONTEXT)
    assert rendered == {"k": [expected]}


def test_places() -> None:
    """Expressions are listed with the JSON Pointer of their string, and an error tells it too."""
    template = compile_template({"a/b": [1, "${inputs.n}"], "c": {"d": "${inputs.zzz}", "e": "plain"}})
    assert template is not None
    assert [(place, each.source) for place, each in template.expressions] == [
        ("/a~1b/1", "inputs.n"),
        ("/c/d", "inputs.zzz"),
    ]
    with pytest.raises(ExpressionError) as caught:
        template.render(CONTEXT)
    assert (caught.value.code, caught.value.pointer) == ("NO_SUCH_KEY", "/c/d")


@pytest.mark.parametrize("text", ["${inputs.n", "a ${'}", "${", "${}", "${1 +}", "${{}"])
def test_broken_texts(text: str) -> None:
    """A ``${`` that is not closed, or holds no expression, is a SYNTAX error at its place."""
    with pytest.raises(ExpressionError) as caught:
        compile_template({"x": text})
    assert (caught.value.code, caught.value.pointer) == ("SYNTAX", "/x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=4), children, max_size=4),
    max_leaves=20,
)


@given(JSON, st.text("${}'\"\\ainputs.n", max_size=40))
def test_any_tree(tree: Any, text: str) -> None:
    """Any tree compiles and renders, or is an ExpressionError; one without ``${`` needs no template."""
    try:
        template = compile_template([tree, text])
        if template is None:
            assert "${" not in text
        else:
            assert template.render(CONTEXT)[0] == tree
    except ExpressionError as error:
        if error.pointer is None:
            raise AssertionError("an error without its place") from error


@given(st.text(max_size=30))
def test_escaping_is_faithful(text: str) -> None:
    """A text with ``$${`` written for each ``${`` comes out as it was."""
    if "$${" in text:
        return
    template = compile_template(text.replace("${", "$${"))
    assert (text if template is None else template.render({})) == text


def test_depth_has_a_limit() -> None:
    """A tree that is nested too deep is refused instead of ending the process."""
    tree: Any = "${inputs.n}"
    for _ in range(5000):
        tree = [tree]
    with pytest.raises(ExpressionError) as caught:
        compile_template(tree)
    assert caught.value.code == "NESTING"
