"""Inputs of the node type ``a2a``, as far as they hold no expression."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from dalang.durations import parse_duration
from dalang.validation.report import kind_of, shown

PROTOCOLS = ("a2a", "wayang")
MODES = ("auto", "stream", "poll", "wait")
PERSON = ("assignee", "candidateGroup", "due")


def _url(value: Any) -> str | None:
    if isinstance(value, str) and re.match(r"https?://[^\s/]", value):
        return None
    return f'is the address of an agent, or of its card, such as "https://agents.example.org/", not {shown(value)}.'


def _one_of(*words: str) -> Callable[[Any], str | None]:
    return lambda value: None if value in words else f"is one of {', '.join(words)}, not {shown(value)}."


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and value else f"is a text, not {shown(value)}."


def _duration(value: Any) -> str | None:
    try:
        return None if parse_duration(value) > 0 else "is longer than nothing."
    except ValueError as error:
        return f"is no duration: {error}, not {shown(value)}."


def _headers(value: Any) -> str | None:
    if isinstance(value, Mapping) and all(isinstance(item, str) for item in value.values()):
        return None
    return f"is an object whose values are texts (in quotes), not {kind_of(value)}."


def _object(value: Any) -> str | None:
    return None if isinstance(value, Mapping) else f"is an object, not {kind_of(value)}."


def _person(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"is an object with {', '.join(PERSON)}, not {kind_of(value)}."
    unknown = [name for name in value if name not in PERSON]
    if unknown:
        return f"has no `{unknown[0]}`; there are {', '.join(PERSON)}."
    for name, one in value.items():
        wrong = _duration(one) if name == "due" else _text(one)
        if wrong is not None:
            return f"has a `{name}` which {wrong}"
    return None


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"is true or false, not {shown(value)}."


def _anything(value: Any) -> str | None:
    return None


A2A_INPUTS: Mapping[str, Callable[[Any], str | None]] = {
    "url": _url,
    "protocol": _one_of(*PROTOCOLS),
    "message": _anything,
    "skill": _text,
    "mode": _one_of(*MODES),
    "pollInterval": _duration,
    "patience": _duration,
    "headers": _headers,
    "metadata": _object,
    "person": _person,
    "target": _text,
    "source": _text,
    "cancel": _flag,
}
"""Each input with what says in a sentence that a value of it is wrong. All other inputs of a node are sent."""
