"""Masking: secrets taken out of whatever a handler gives back.

A handler gets the values, and what it returns, raises, reports or logs may hold them: as they are, within an address,
in the header of a service's answer. A mask knows the spellings in which a value commonly comes back - JSON, URL, HTML,
hexadecimal, base64 at any offset - and puts ``***`` in their place. It cannot know a value that was cut into pieces,
reversed or encrypted: masks guard against accidents, not against a handler that wants to tell.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "***"
MIN_LENGTH = 4
"""Shorter values cannot be masked: they would be found everywhere."""
_MIN_ENCODED = 5
_MIN_LINE = 12


class Mask:
    """Replaces the given values, and their usual encodings, by ``***``."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values = tuple(values)
        spellings = {spelling for value in self._values for spelling in spellings_of(value)}
        ordered = sorted(spellings, key=lambda one: (-len(one), one))
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def __bool__(self) -> bool:
        return self._pattern is not None

    def also(self, values: Iterable[str]) -> Mask:
        """Return one that replaces these values, too."""
        return Mask((*self._values, *values))

    def text(self, text: str) -> str:
        """Return a text without the values."""
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)

    def __call__(self, value: Any) -> Any:
        """Return a JSON value without the values: in its texts, keys, and numbers that are spelled like one."""
        return value if self._pattern is None else self._masked(value)

    def _masked(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self._masked(key): self._masked(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._masked(item) for item in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return HIDDEN if self.text(repr(value)) != repr(value) else value
        return value


def spellings_of(value: str) -> set[str]:
    """Return the forms in which a value may come back."""
    found = {value, value.strip()}
    found |= {line.strip() for line in value.splitlines() if len(line.strip()) >= _MIN_LINE}  # of a key, say
    for one in list(found):
        found |= {
            json.dumps(one)[1:-1],
            json.dumps(one, ensure_ascii=False)[1:-1],
            json.dumps(json.dumps(one))[3:-3],
            repr(one)[1:-1],
            quote(one),
            quote(one, safe=""),
            quote_plus(one),
            _lower_percent(quote(one, safe="")),
            _lower_percent(quote_plus(one)),
            html.escape(one),
            html.escape(one, quote=False),
        }
    raw = value.encode("utf-8", "surrogatepass")
    for data in {raw, raw.strip()}:
        found |= {data.hex(), data.hex().upper(), *_in_base64(data)}
    return {one for one in found if len(one) >= MIN_LENGTH}


def _lower_percent(text: str) -> str:
    return re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), text)


def _in_base64(data: bytes) -> set[str]:
    """Return what is the same in the base64 of every text that holds ``data``, for each of the three offsets."""
    found = set()
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + data).decode()
        core = encoded[-(-offset * 8 // 6) : (offset + len(data)) * 8 // 6]
        if len(core) >= _MIN_ENCODED:
            found |= {core, core.replace("+", "-").replace("/", "_")}
    return found
