"""Durations as people and the seeds write them: ``"90s"``, ``"1h30m"``, ISO 8601 ``"PT5M"``; milliseconds inside."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SHORT = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_ISO = re.compile(
    r"P(?:(?P<w>\d+(?:\.\d+)?)W)?(?:(?P<d>\d+(?:\.\d+)?)D)?"
    r"(?:T(?:(?P<h>\d+(?:\.\d+)?)H)?(?:(?P<m>\d+(?:\.\d+)?)M)?(?:(?P<s>\d+(?:\.\d+)?)S)?)?",
    re.ASCII,
)
MAX_DURATION_MS = 10 * 366 * 86_400_000
"""Ten years: nothing in a plan waits longer."""


def parse_duration(value: Any) -> int:
    """Return ``value`` in milliseconds.

    Takes ``"90s"``-like texts (units ms, s, m, h, d; they may be strung together) and ISO 8601 durations without
    months and years, which have no fixed length. A bare number is refused: nobody can see its unit.

    Raises:
        ValueError: it is neither, or longer than ten years.
    """
    if isinstance(value, str):
        text = value.strip()
        if _SHORT.fullmatch(text):
            total = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
            return _bounded(total)
        iso = _ISO.fullmatch(text)
        if iso and text not in ("P", "PT") and not text.endswith("T"):
            factors = {"w": 7 * 86_400_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000}
            return _bounded(sum(float(iso[name] or 0) * factor for name, factor in factors.items()))
    raise ValueError('a duration is a text such as "90s", "2h", "1h30m" or ISO 8601 "PT5M"')


def _bounded(total: float) -> int:
    if total > MAX_DURATION_MS:
        raise ValueError("a duration is at most ten years")
    return round(total)


def format_duration(ms: int) -> str:
    """Return the shortest exact text, largest unit first: ``5400000`` is ``"1h30m"``, ``0`` is ``"0s"``."""
    if ms == 0:
        return "0s"
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, ms = divmod(ms, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def _from_wire(value: Any) -> int:
    if isinstance(value, Milliseconds):
        return value.ms
    if isinstance(value, timedelta):
        return _bounded(value / timedelta(milliseconds=1))
    return parse_duration(value)


class Milliseconds:
    """A duration given as a number of milliseconds, as the ``...Ms`` fields of the seeds do."""

    def __init__(self, ms: int) -> None:
        self.ms = ms


Duration = Annotated[
    int,
    BeforeValidator(_from_wire),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "description": 'A duration: "90s", "2h", "1h30m", "500ms" or ISO 8601 such as "PT5M".',
            "examples": ["30s", "10m", "2h"],
        }
    ),
]
"""A field of a model that is written as a text and held in milliseconds."""
