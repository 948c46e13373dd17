"""Inputs of the node type ``runtime-hub``, as far as they hold no expression."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from dalang.durations import parse_duration
from dalang.validation.report import kind_of, shown


def _url(value: Any) -> str | None:
    if isinstance(value, str) and re.match(r"https?://[^\s/]", value):
        return None
    return f'is the address of the hub, such as "https://wayang.example", not {shown(value)}.'


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and value else f"is the name of a type of the hub, not {shown(value)}."


def _object(value: Any) -> str | None:
    return None if isinstance(value, Mapping) else f"is an object, not {kind_of(value)}."


def _headers(value: Any) -> str | None:
    if isinstance(value, Mapping) and all(isinstance(item, str) for item in value.values()):
        return None
    return f"is an object whose values are texts (in quotes), not {kind_of(value)}."


def _interval(value: Any) -> str | None:
    try:
        ms = parse_duration(value)
    except ValueError as error:
        return f"is no duration: {error}, not {shown(value)}."
    return None if 20 <= ms <= 3_600_000 else "is at least 20ms and at most 1h."


HUB_INPUTS: Mapping[str, Callable[[Any], str | None]] = {
    "url": _url,
    "nodeType": _text,
    "input": _object,
    "metadata": _object,
    "headers": _headers,
    "pollInterval": _interval,
}
