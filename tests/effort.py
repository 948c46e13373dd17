"""How often a test run tries what may be tried for ever: ``PYTEST_EFFORT=20 make test`` tries 20 times as much."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

EFFORT = int(os.environ.get("PYTEST_EFFORT", "1"))


def tries(count: int) -> int:
    """Return how many examples or seeds a property is held against, ``count`` of them in an ordinary run."""
    return count * EFFORT


@contextlib.contextmanager
def noted(what: str) -> Iterator[None]:
    """Say with an exception which of many tries it was."""
    try:
        yield
    except Exception as error:
        error.add_note(what)
        raise
