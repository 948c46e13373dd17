"""Paths that a session may change, and the field ``memory`` of plans."""

from __future__ import annotations

from typing import Any

import pytest

from dalang.compilation import compile_plan
from dalang.scopes import outside, pattern_problem
from dalang.validation import validate

PATHS = ["README.md", "src/a.py", "src/deep/b.py", "srcx/c.py", "tests/a.py", "src/tests/b.py"]


@pytest.mark.parametrize(
    ("paths", "read_only", "refused"),
    [
        ([], [], []),
        (["src"], [], ["README.md", "srcx/c.py", "tests/a.py"]),
        (["/src/"], [], ["README.md", "srcx/c.py", "tests/a.py"]),
        (["src/**"], [], ["README.md", "srcx/c.py", "tests/a.py"]),
        (["src/*"], [], ["README.md", "src/deep/b.py", "srcx/c.py", "tests/a.py", "src/tests/b.py"]),
        (["**/*.py"], [], ["README.md"]),
        (["**/b.py"], [], ["README.md", "src/a.py", "srcx/c.py", "tests/a.py"]),
        (["README.??"], [], PATHS[1:]),
        ([], ["**/tests/**"], ["tests/a.py", "src/tests/b.py"]),
        (["src"], ["src/tests"], ["README.md", "srcx/c.py", "tests/a.py", "src/tests/b.py"]),
    ],
)
def test_what_is_outside_of_a_scope(paths: list[str], read_only: list[str], refused: list[str]) -> None:
    """Read-only wins."""
    assert outside(PATHS, paths, read_only) == refused


@pytest.mark.parametrize("pattern", ["", "/", "../x", "a/../b", "a//b", "./a", "a/**b", "x" * 301, "a\0"])
def test_patterns_that_are_none(pattern: str) -> None:
    assert pattern_problem(pattern) is not None


def problems(memory: Any, type_: str = "agent", **more: Any) -> list[tuple[str, str]]:
    plan = {"name": "x", "nodes": [{"nodeId": "a", "type": type_, "memory": memory, **more}]}
    return [(one.code, one.pointer.removeprefix("/nodes/0/memory")) for one in validate(plan).problems]


@pytest.mark.parametrize(
    ("memory", "found"),
    [
        ({}, []),
        ({"session": {"repository": "site", "base": "release/1.2", "onConflict": "review"}}, []),
        ({"session": {"workspace": "w", "paths": ["src/**"], "readOnlyPaths": ["tests"]}, "required": True}, []),
        ({"episodes": 51}, [("BAD_VALUE", "/episodes")]),
        ({"episodes": 0}, [("WITHOUT_EFFECT", "")]),
        ({"episodes": 0, "query": "x", "session": {}}, [("WITHOUT_EFFECT", "/query")]),
        ({"session": {"repository": "../site"}}, [("BAD_VALUE", "/session/repository")]),
        ({"session": {"repository": "site", "base": "-x"}}, [("BAD_VALUE", "/session/base")]),
        ({"session": {"repository": "site", "base": "a..b"}}, [("BAD_VALUE", "/session/base")]),
        ({"session": {"paths": ["src", "../x"]}}, [("BAD_VALUE", "/session/paths/1")]),
        (
            {"session": {"base": "main", "onConflict": "review"}},
            [("WITHOUT_EFFECT", "/session/base"), ("WITHOUT_EFFECT", "/session/onConflict")],
        ),
        ({"session": {"repository": "site", "workspace": "w"}}, [("WITHOUT_EFFECT", "/session/workspace")]),
        ({"sesion": {}}, [("UNKNOWN_FIELD", "/sesion")]),
    ],
)
def test_all_that_is_wrong_with_a_memory_is_said(memory: Any, found: list[tuple[str, str]]) -> None:
    assert problems(memory) == found


def test_some_nodes_have_no_use_for_a_memory() -> None:
    """They wait, call a service with their inputs and nothing else, or end after their session."""
    assert problems({}, "sleep", inputs={"seconds": 1}) == [("WITHOUT_EFFECT", "")]
    assert problems({}, "http", inputs={"url": "https://x.example"}) == [("WITHOUT_EFFECT", "")]
    assert problems({"session": {}}, callback={}) == [("WITHOUT_EFFECT", "/session")]


def test_the_program_holds_what_is_asked_for_and_no_more() -> None:
    nodes = [
        {"nodeId": "a", "type": "agent", "memory": {"session": {"repository": "r"}}},
        {"nodeId": "b", "type": "noop"},
    ]
    plan = validate({"name": "x", "nodes": nodes}).require()
    first, second = compile_plan(plan)["nodes"]
    assert first["memory"] == {"episodes": 5, "session": {"repository": "r"}}
    assert "memory" not in second
