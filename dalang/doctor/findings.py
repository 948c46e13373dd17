"""What the doctor finds: one line for each thing that is looked at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["OK", "WARN", "FAIL"]
OK: Level = "OK"
WARN: Level = "WARN"
FAIL: Level = "FAIL"


@dataclass(frozen=True)
class Finding:
    """How one thing is: ``what`` was seen, and where it is not well, what to ``do``."""

    name: str
    level: Level
    what: str
    do: str = ""


Examination = Callable[[], Awaitable[Sequence[Finding]]]


def by_limits(name: str, value: float, warn: float, fail: float, what: str, do: str) -> Finding:
    """Return a finding about a number that should be small."""
    level = FAIL if value > fail else WARN if value > warn else OK
    return Finding(name, level, what, "" if level is OK else do)
