"""What nodes that hold other nodes say: ``plan``, ``map`` and ``loop``.

A *body* is an inline plan (an object with ``nodes``), a stored plan (``planId`` or ``name``, and ``version``), or one
node (an object with ``type``). It stands here as it is written: a plan in a plan is validated like any other, with
pointers into it, and ``nesting.py`` makes models of it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from dalang.plan_base import Model

MAX_ITERATIONS = 10_000
MAX_ELEMENTS = 100_000
"""Elements of one map: each is a node of a run, and a run has no more."""

_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,3})?)%")


def _tolerance(value: Any) -> Any:
    if isinstance(value, str):
        found = _PERCENT.fullmatch(value)
        if found is None or float(found[1]) > 100:
            raise ValueError('tolerated failures are a number of elements, or a share such as "10%"')
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError('tolerated failures are a number of elements, or a share such as "10%"')
    return value


Body = dict[str, Any]
Tolerance = Annotated[int | str, BeforeValidator(_tolerance)]


class MapSpec(Model):
    """The field ``map`` of a map node."""

    items: str | list[Any] = Field(description="The list, nearly always an expression: ${nodes.a.outputs.files}.")
    body: Body = Field(description="What runs for each element: a node, an inline plan or a stored one.")
    max_concurrency: int | None = Field(
        None, ge=1, le=1000, strict=True, description="Elements at once; 1 is one after the other."
    )
    tolerated_failures: Tolerance = Field(
        0, description='How many elements may fail without the node failing: a number, or a share such as "10%".'
    )


class LoopSpec(Model):
    """The field ``loop`` of a loop node."""

    body: Body = Field(description="What is repeated: a node, an inline plan or a stored one.")
    until: str = Field(
        min_length=1,
        max_length=4000,
        description="CEL over outputs (of the iteration), iteration (from 0) and inputs; true ends the loop.",
    )
    max_iterations: int = Field(
        ge=1, le=MAX_ITERATIONS, strict=True, description="When `until` is not true after so many, the node fails."
    )


def tolerated(tolerance: int | str, elements: int) -> int:
    """Return how many of so many elements may fail; a share is rounded down."""
    if isinstance(tolerance, int):
        return tolerance
    whole, _, part = tolerance.rstrip("%").partition(".")
    return elements * (int(whole) * 1000 + int(part.ljust(3, "0"))) // 100_000
