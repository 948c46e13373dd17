"""What a program that ran apart from the worker came to: outputs on its stdout, or a failure.

Shared by the node types ``wasm`` and ``container``. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dalang.canonical import safe_text
from dalang.nodes import NodeContext, ToolError

MAX_STDOUT_BYTES = 17 * 1024 * 1024
"""A little more than the outputs of a node may have."""
MAX_STDERR_BYTES = 8 * 1024
TEMPORARY_EXIT = 75
"""EX_TEMPFAIL of sysexits.h: try again later. Any other exit code says that another attempt would end the same way."""


class Tail:
    """The last bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self.dropped = 0

    def add(self, part: bytes) -> None:
        """Take what came next."""
        self._kept += part
        if len(self._kept) > 2 * self._limit:  # cut now and then, so that each byte is moved once
            self._cut()

    def _cut(self) -> None:
        over = len(self._kept) - self._limit
        if over > 0:
            del self._kept[:over]
            self.dropped += over

    @property
    def data(self) -> bytes:
        """What is kept."""
        self._cut()
        return bytes(self._kept)


def environment(ctx: NodeContext) -> dict[str, str]:
    """Return what a program gets to know of its node besides the inputs."""
    return {
        "DALANG_RUN_ID": ctx.run_id,
        "DALANG_NODE_ID": ctx.node_id,
        "DALANG_ATTEMPT": str(ctx.attempt),
        "DALANG_IDEMPOTENCY_KEY": ctx.idempotency_key,
    }


def outputs_of(stdout: bytes, what: str, details: Mapping[str, Any], *, no_effect: bool = False) -> Any:
    """Return the JSON that a program wrote; nothing at all is no outputs.

    Raises:
        ToolError: it is no JSON.
    """
    if not stdout.strip():
        return {}
    try:
        return json.loads(stdout)
    except (ValueError, RecursionError) as error:
        about = {**details, "stdout": text_tail(stdout, 500)}
        message = f"{what} did not write JSON to its stdout: {error}"
        raise ToolError(safe_text(message, 500), details=about, no_effect=no_effect) from None


def last_line(stdout: bytes) -> bytes:
    """Return the last line that is not blank."""
    return stdout.rstrip().rpartition(b"\n")[2]


def exit_failure(code: int, what: str, details: Mapping[str, Any], *, no_effect: bool = False) -> ToolError:
    """Return the failure for a program that did not exit with 0."""
    said = str(details.get("stderr", "")).strip().rpartition("\n")[2]
    message = f"{what} exited with {code}" + (f": {said}" if said else "")
    retryable = code == TEMPORARY_EXIT
    return ToolError(
        safe_text(message, 500), retryable=retryable, details={"exitCode": code, **details}, no_effect=no_effect
    )


def text_tail(data: bytes, limit: int = MAX_STDERR_BYTES) -> str:
    """Return the end of what was written, as text that can be stored."""
    return data[-limit:].decode("utf-8", "replace").replace("\x00", "\ufffd")
