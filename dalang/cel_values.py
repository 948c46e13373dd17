"""Values on their way into the CEL engine and out of it; :mod:`dalang.expressions` says why never plainly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

Tree = dict[str, Any]
"""What to read of a value: key -> the tree below it, or None for all that is there."""
MAX_DEPTH = 100
"""How deep the data an expression reads may be nested; the engine overflows its stack at some thousands."""
MAX_VALUES = 100_000
"""How many values an expression may read: about 50 ms of a workflow task, which may take two seconds."""
MAX_CHARACTERS = 1_000_000
"""How many characters of text an expression may read."""
# Beginnings of the engine's texts, which hold names and values of the data further on.
_RUNTIME_CODES = (
    ("NOT_FOUND: Key not found", "NO_SUCH_KEY"),
    ("UNKNOWN: Index error: index", "NO_SUCH_INDEX"),
    ("UNKNOWN: Index error", "TYPE_MISMATCH"),
    ("UNKNOWN: No matching overloads", "TYPE_MISMATCH"),
    ("INVALID_ARGUMENT: Applying SELECT", "TYPE_MISMATCH"),
    ("INVALID_ARGUMENT: divide by zero", "DIVISION_BY_ZERO"),
    ("INVALID_ARGUMENT: modulus by zero", "DIVISION_BY_ZERO"),
    ("OUT_OF_RANGE", "OUT_OF_RANGE"),
    ("FAILED_PRECONDITION: optional.none", "NO_VALUE"),
)


class Failure(Exception):
    """An error of which only the code is known yet."""


class Room:
    """What an expression may still read, and the largest collections it met."""

    __slots__ = ("characters", "largest", "largest_map", "values")

    def __init__(self) -> None:
        self.values = MAX_VALUES
        self.characters = MAX_CHARACTERS
        self.largest = 0
        self.largest_map = 0

    def take(self, size: int) -> None:
        """Count a collection of ``size``; raises Failure TOO_LARGE."""
        self.values -= size
        if self.values < 0:
            raise Failure("TOO_LARGE")
        if size > self.largest:
            self.largest = size


def part(value: Any, tree: Tree | None, room: Room) -> Any:
    """Return the part of ``value`` below the keys of ``tree``, made safe for the engine.

    Raises Failure: TOO_LARGE, NESTING, OUT_OF_RANGE, NOT_READABLE.
    """
    if tree is None or not isinstance(value, Mapping):
        return _safe(value, room, 0)
    return {key: part(value[key], below, room) for key, below in tree.items() if key in value}


def _safe(value: Any, room: Room, depth: int) -> Any:
    """Return ``value`` in the exact types that the engine converts faithfully."""
    kind = type(value)
    if kind is float or kind is bool or value is None:
        return value
    if kind is str:
        room.characters -= len(value)
        if room.characters < 0:
            raise Failure("TOO_LARGE")
        if "\0" in value or not (value.isascii() or encodable(value)):
            raise Failure("NOT_READABLE")
        return value
    if kind is int:
        if not -(2**63) <= value < 2**63:
            raise Failure("OUT_OF_RANGE")
        return value
    if depth >= MAX_DEPTH:
        raise Failure("NESTING")
    if isinstance(value, Mapping):
        room.take(len(value))
        room.largest_map = max(room.largest_map, len(value))
        return {_key(key, room): _safe(item, room, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        room.take(len(value))
        return [_safe(item, room, depth + 1) for item in value]
    return _safe(_scalar(value, "NOT_READABLE"), room, depth)


def _key(key: Any, room: Room) -> Any:
    if not isinstance(key, str):
        raise Failure("NOT_READABLE")
    return _safe(key, room, 0)


def _scalar(value: Any, code: str) -> Any:
    """Return the plain scalar of a subclass (the members of a StrEnum, say)."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise Failure(code)


def encodable(text: str) -> bool:
    """Return whether UTF-8 can hold ``text``: half a surrogate pair it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_value(value: Any, depth: int) -> Any:
    """Return a copy of ``value`` in plain JSON types; raises Failure NESTING or NOT_JSON."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is float:
        return _finite(value)
    if depth >= MAX_DEPTH:
        raise Failure("NESTING")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise Failure("NOT_JSON")
        return {str.__str__(key): json_value(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item, depth + 1) for item in value]
    return json_value(_scalar(value, "NOT_JSON"), depth)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise Failure("NOT_JSON")
    return value


def error_code(value: Any) -> str:
    """Return the code of the engine's error ``value``; an optional reads as an error too, but converts to nothing."""
    try:
        text = str(value.plain_value())
    except Exception:
        return "NOT_JSON"
    return next((code for start, code in _RUNTIME_CODES if text.startswith(start)), "RUNTIME")


def plain_value(value: Any, kind: str) -> Any:
    """Return the engine's ``value`` as JSON data.

    ``kind`` is the name of its type. Never asks for the whole of a collection (an optional in it crashes the process)
    nor for the value of a null (each time None loses a reference). Raises Failure NOT_JSON.
    """
    if kind == "NULL":
        return None
    if kind in ("BOOL", "INT", "UINT", "STRING"):
        return value.plain_value()
    if kind == "DOUBLE":
        return _finite(value.plain_value())
    if kind == "TIMESTAMP":
        return _rfc3339(value.plain_value())
    if kind == "DURATION":
        return _seconds(value.plain_value())
    if kind.startswith("LIST"):
        return [plain_value(item, item.type().name()) for item in value.value()]
    if kind.startswith("MAP"):
        entries = value.value()
        if not all(isinstance(key, str) for key in entries):
            raise Failure("NOT_JSON")
        return {key: plain_value(entries[key], entries[key].type().name()) for key in sorted(entries)}
    raise Failure("NOT_JSON")


def _rfc3339(moment: datetime) -> str:
    text = moment.replace(tzinfo=None).isoformat()
    return (text.rstrip("0") if moment.microsecond else text) + "Z"


def _seconds(span: timedelta) -> str:
    total = span // timedelta(microseconds=1)
    seconds, rest = divmod(abs(total), 1_000_000)
    fraction = f".{rest:06d}".rstrip("0") if rest else ""
    return f"{'-' if total < 0 else ''}{seconds}{fraction}s"
