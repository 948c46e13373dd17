"""Implementations of descriptors: which type carries a node out, and what is said about those that none could."""

from __future__ import annotations

from typing import Any

import pytest

from dalang.activities.policy import subject_of
from dalang.builder import NodeBuilder
from dalang.compilation import compile_plan
from dalang.implementations import image_reference, sha256_of
from dalang.plan import Plan
from dalang.validation import validate

DIGEST = "sha256:" + "ab" * 32


def plan(kind: str, implementation: dict[str, Any] | None, **node: Any) -> dict[str, Any]:
    descriptor = {} if implementation is None else {"descriptor": {"implementation": implementation}}
    return {"name": "p", "nodes": [{"nodeId": "a", "type": kind, **descriptor, **node}]}


def found(document: dict[str, Any], types: tuple[str, ...] = ("words",)) -> list[tuple[str, str]]:
    at = "/nodes/0/descriptor/implementation"
    return [(one.code, one.pointer.removeprefix(at)) for one in validate(document, node_types=types).problems]


WASM = {"type": "wasm", "coordinate": "text/words-1.0.wasm", "digest": DIGEST}
CONTAINER = {"type": "container", "coordinate": "registry.example:5000/team/words:1.0", "digest": DIGEST}


@pytest.mark.parametrize(
    ("kind", "implementation"),
    [
        ("summarize", {"type": "python", "coordinate": "words"}),
        ("words", {"type": "python", "coordinate": "words", "digest": DIGEST}),
        ("summarize", {"type": "http", "coordinate": "https://example.org/score"}),
        ("summarize", WASM),
        ("wasm", {**WASM, "args": ["--fast"], "limits": {"fuel": 1000, "memoryMb": 16, "wallTime": "2s"}}),
        ("wasm", {**WASM, "digest": "ab" * 32}),
        ("summarize", CONTAINER),
        ("container", {"type": "container", "coordinate": f"alpine@{DIGEST}", "args": ["true"]}),
        ("words", {"type": "maven", "coordinate": "tech.kayys:words:1.0"}),
        ("noop", {"type": "maven", "coordinate": "tech.kayys:words:1.0"}),
    ],
)
def test_implementations_that_can_be_carried_out(kind: str, implementation: dict[str, Any]) -> None:
    """A name of one's own where the implementation says what runs, and records beside functions."""
    assert found(plan(kind, implementation)) == []


@pytest.mark.parametrize(
    ("kind", "implementation", "problems"),
    [
        ("wasm", None, [("MISSING_FIELD", "")]),
        ("container", WASM, [("BAD_IMPLEMENTATION", "/type")]),
        ("wasm", {**WASM, "digest": "sha1:12"}, [("BAD_IMPLEMENTATION", "/digest")]),
        ("s", {"type": "wasm", "coordinate": "a.wasm"}, [("MISSING_FIELD", "/digest")]),
        ("s", {**WASM, "coordinate": "../a.wasm"}, [("BAD_IMPLEMENTATION", "/coordinate")]),
        ("s", {**WASM, "coordinate": "/etc/a.wasm"}, [("BAD_IMPLEMENTATION", "/coordinate")]),
        ("s", {"type": "container", "coordinate": "alpine:3"}, [("MISSING_FIELD", "/digest")]),
        ("s", {**CONTAINER, "coordinate": "Not An Image"}, [("BAD_IMPLEMENTATION", "/coordinate")]),
        (
            "s",
            {"type": "container", "coordinate": f"alpine@{DIGEST}", "digest": "sha256:" + "cd" * 32},
            [("BAD_IMPLEMENTATION", "/digest")],
        ),
        ("s", {"type": "http", "coordinate": "example.org"}, [("BAD_IMPLEMENTATION", "/coordinate")]),
        (
            "s",
            {"type": "http", "coordinate": "https://example.org/", "digest": DIGEST},
            [("BAD_IMPLEMENTATION", "/digest")],
        ),
        ("s", {"type": "python", "coordinate": "werds"}, [("UNKNOWN_HANDLER", "/coordinate")]),
        ("s", {"type": "python", "coordinate": "words", "digest": "x"}, [("BAD_IMPLEMENTATION", "/digest")]),
        ("words", WASM, [("AMBIGUOUS_IMPLEMENTATION", "")]),
        ("s", {"type": "maven", "coordinate": "a:b:1"}, [("UNKNOWN_NODE_TYPE", "/nodes/0/type")]),
        ("s", {**CONTAINER, "limits": {"fuel": 5}}, [("WITHOUT_EFFECT", "/limits")]),
        ("noop", {**WASM, "args": ["x"]}, [("WITHOUT_EFFECT", "/args")]),
        ("wasm", {**WASM, "limits": {"fuel": 0}}, [("BAD_VALUE", "/limits/fuel")]),
    ],
)
def test_implementations_that_cannot(kind: str, implementation: Any, problems: list[tuple[str, str]]) -> None:
    """Each has its code and its place."""
    assert found(plan(kind, implementation)) == problems


def test_what_only_waits_or_undoes() -> None:
    """A module cannot be called back, and neither module nor container can be named as a compensation or planner."""
    document = plan("s", WASM, callback={"timeout": "1h"}, compensation={"type": "container"})
    codes = {one.code for one in validate(document, node_types=()).problems}
    assert codes == {"CALLBACK_OF_NOBODY", "BAD_COMPENSATION"}


def test_a_handler_beside_an_implementation() -> None:
    """It would be run instead, or not at all."""
    document = plan("s", {"type": "python", "coordinate": "words"}, handler="words")
    assert found(document) == [("WITHOUT_EFFECT", "/nodes/0/handler")]


def test_the_program_says_what_runs() -> None:
    """The type is the implementation's, and the name of the plan stays with it; a record changes nothing."""
    limits = {"limits": {"wallTime": "2s"}}
    (node,) = compile_plan(Plan.model_validate(plan("summarize", {**WASM, **limits})))["nodes"]
    assert node["type"] == "wasm"
    assert node["implementation"] == {**WASM, "limits": {"wallTime": 2000}, "of": "summarize"}
    record = {"type": "maven", "coordinate": "a:b:1"}
    (node,) = compile_plan(Plan.model_validate(plan("words", record)))["nodes"]
    assert (node["type"], node["implementation"]) == ("words", record)


def test_image_references() -> None:
    """Tags go, digests stay, and two that differ are no reference."""
    assert image_reference("team/words:1.0", DIGEST) == f"team/words@{DIGEST}"
    assert image_reference(f"localhost:5000/words@{DIGEST}", None) == f"localhost:5000/words@{DIGEST}"
    assert image_reference("words", None) is None
    assert image_reference(f"words@{DIGEST}", "0" * 64) is None
    assert sha256_of(DIGEST.upper()) is None


def test_builders_and_policies_name_it() -> None:
    """A plan made in Python says the same, and a rule sees which code it is that is to run."""
    built = NodeBuilder("Count", "summarize").implementation("wasm", WASM["coordinate"], DIGEST, args=("--fast",))
    assert built.document()["descriptor"] == {"implementation": {**WASM, "args": ["--fast"]}}
    task: Any = {"tenantId": "t", "runId": "r", "nodeId": "n", "type": "wasm", "inputs": {}, "run": {}}
    assert subject_of({**task, "implementation": WASM}, 1)["node"]["implementation"] == WASM
