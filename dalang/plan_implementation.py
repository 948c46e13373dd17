"""The code that stands behind a node, as a plan names it: which kind, which piece, and exactly which version of it."""

from __future__ import annotations

from pydantic import Field

from dalang.canonical import MAX_INTEGER
from dalang.durations import Duration
from dalang.plan_base import Model

CARRIED_OUT = ("python", "http", "wasm", "container")
"""Types of implementations that this version can run; others stand in a plan for the record."""


class Limits(Model):
    """What a WebAssembly module may use at most; never more than the operator allows."""

    duration_fields = frozenset({"wallTime"})

    fuel: int | None = Field(
        None, ge=1, le=MAX_INTEGER, strict=True, description="Instructions, about; the same on every machine."
    )
    memory_mb: float | None = Field(None, gt=0, le=4096, description="Memory in MiB.")
    wall_time: Duration | None = Field(None, description="How long it may take.")


class Implementation(Model):
    """What code carries a node out; of a node of a built-in type that does other work it is for the record."""

    type: str = Field(description="python, http, wasm or container; others are for the record.")
    coordinate: str = Field(
        description="python: the name of a function; http: a URL; wasm: a file in the operator's folder of modules; "
        "container: an image."
    )
    digest: str | None = Field(
        None,
        description="SHA-256, as `sha256:` and 64 hexadecimal digits. wasm: of the module; container: of the image; "
        "python: of the function's source file. What is found must have it.",
    )
    args: tuple[str, ...] = Field((), description="Arguments of a wasm module or a container.")
    limits: Limits | None = Field(None, description="Of a wasm module. Default: what the operator allows.")
