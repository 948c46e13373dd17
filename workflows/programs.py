"""The program of a run on its way: a payload that a worker reads once, and that runs hand on as it came.

Each continue-as-new read it and wrote it again, which took a second and a half for 100,000 nodes, and a run of so many
nodes does that a hundred times; every run that a worker held had its own copy of what had been read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue

with workflow.unsafe.imports_passed_through():
    from dalang.canonical import body_reference, compact_json
    from dalang.program import Program, ProgramCache
    from dalang.program_columns import EdgeColumns, NodeColumns, read_in_columns

_kept = ProgramCache()
_PLAIN = b"json/plain"
LARGE = 10_000
"""A program of so many nodes makes executions that take much memory, and leave it to the garbage collector."""
F = TypeVar("F", bound=Callable[..., Any])


def taking_raw(function: F) -> F:
    """Let the SDK look at the types of the first arguments, so that it leaves a :class:`RawValue` as it came.

    It goes by no types where a function takes any number of arguments, which ours does: whoever starts a workflow by
    hand may send more, and must not stop it with that. So the SDK is shown a signature without them; where there are
    more or fewer arguments than it shows, it reads all of them.
    """
    of = inspect.signature(function)
    fixed = [one for one in of.parameters.values() if one.kind is not inspect.Parameter.VAR_POSITIONAL]
    function.__signature__ = of.replace(parameters=fixed)  # type: ignore[attr-defined]
    return function


def holds_large() -> bool:
    """Tell whether the program of a large plan is held."""
    return _kept.largest() >= LARGE


def program_of(document: Any, told: Any = None) -> Program:
    """Return the program of a document or of its payload; ``told`` is the digest that was found of it before.

    Raises:
        Exception: it is none.
    """
    known = _kept.find(told) if isinstance(told, str) else None
    if known is not None:
        return known
    if not isinstance(document, RawValue):
        digest = body_reference(compact_json(document))["$ref"]
        return _kept.get(digest, lambda: Program(document, digest))
    payload = document.payload
    if payload.metadata.get("encoding") != _PLAIN:
        return program_of(_read(payload))
    digest = body_reference(payload.data)["$ref"]

    return _kept.get(
        digest, lambda: Program(read_in_columns(payload.data.decode()) or _in_columns(_read(payload)), digest)
    )


def _in_columns(document: dict[str, Any]) -> dict[str, Any]:
    """Return a packed document taken apart: as the payload is there, and handed on, the program need not keep it."""
    nodes, edges = NodeColumns.of(document["nodes"]), EdgeColumns.of(document["edges"])
    return {**document, "nodes": nodes, "edges": edges}


def _read(payload: Payload) -> Any:
    return workflow.payload_converter().from_payload(payload)
