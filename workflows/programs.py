"""The program of a run on its way: a payload that a worker reads once, and that runs hand on as it came.

That of 100,000 nodes is 18 MB. Each continue-as-new read it and wrote it again, for a second and a half, and a run of
so many nodes does that a hundred times; every run that a worker held had its own copy of what had been read.
"""

from __future__ import annotations

import gc
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
"""Programs of so many nodes are set aside from the garbage collector, and it is called when another execution begins.

An execution that has ended is a circle of objects, which only the collector frees, with its payload. It looks at
everything only when a quarter as many new objects are there as there were before, and a program of 100,000 nodes has a
million: the memory of a worker grew by 50 MB with each continue-as-new. Without them it is done in milliseconds.
"""
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


def program_of(document: Any, told: Any = None) -> Program:
    """Return the program of a document or of its payload; ``told`` is the digest that was found of it before.

    Raises:
        Exception: it is none.
    """
    known = _kept.find(told) if isinstance(told, str) else None
    if known is not None:
        if len(known.nodes) >= LARGE:
            gc.collect()
        return known
    if not isinstance(document, RawValue):
        digest = body_reference(compact_json(document))["$ref"]
        return _kept.get(digest, lambda: Program(document, digest))
    payload = document.payload
    if payload.metadata.get("encoding") != _PLAIN:
        return program_of(_read(payload))
    digest = body_reference(payload.data)["$ref"]

    def made() -> Program:
        program = Program(read_in_columns(payload.data.decode()) or _in_columns(_read(payload)), digest)
        if len(program.nodes) >= LARGE:
            gc.collect()
            gc.freeze()
        return program

    return _kept.get(digest, made)


def _in_columns(document: dict[str, Any]) -> dict[str, Any]:
    """Return a packed document taken apart: as the payload is there, and handed on, the program need not keep it."""
    nodes, edges = NodeColumns.of(document["nodes"]), EdgeColumns.of(document["edges"])
    return {**document, "nodes": nodes, "edges": edges}


def _read(payload: Payload) -> Any:
    return workflow.payload_converter().from_payload(payload)
