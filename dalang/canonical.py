"""Canonical JSON, digests, and what JSON may cross a boundary of Dalang.

Postgres ``jsonb`` refuses U+0000, RFC 8785 refuses NaN and integers past 2^53, UTF-8 refuses lone surrogates. One
such value in an output would stop a run from ever being recorded, so every boundary asks :func:`find_unsafe` first.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import orjson
import rfc8785

MAX_DEPTH = 64
"""How deeply arrays and objects may be nested in anything that comes from outside."""
MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader reads exactly (RFC 8785, I-JSON)."""


def canonical_bytes(value: Any) -> bytes:
    """Return ``value`` in canonical JSON (RFC 8785).

    Almost all values are texts, small integers and ASCII keys; for these the standard library's encoder writes the
    same bytes thirty times as fast, which matters since every event is hashed. A property test holds both equal.
    """
    if _is_plain(value):
        return _encode_sorted(value).encode()
    return rfc8785.dumps(value)


def _encode_sorted(value: Any) -> str:
    """Return sorted JSON of plain values, without floats: what the standard library writes, in a tenth of its time."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONEncodeError:  # lone surrogates, hundreds of levels
        return _encode_slowly(value)


_encode_slowly = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode


def quoted(text: str) -> str:
    """Return a text in canonical JSON."""
    return _encode_sorted(text)


def _is_plain(value: Any) -> bool:
    """Tell whether JCS and sorted JSON are the same: no floats, no integers past 2^53, no keys but short ASCII."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is int:
        return bool(-MAX_INTEGER <= value <= MAX_INTEGER)
    if kind is dict:
        return all(type(key) is str and key.isascii() and _is_plain(item) for key, item in value.items())
    if kind is list:
        return all(map(_is_plain, value))
    return False


def plain_json(value: Any) -> str | None:
    """Return ``value`` in canonical JSON if that is simple and all of it may cross, which is nearly always so.

    None only means that it is worth a close look. What is written once serves row, digests and chain.
    """
    if not _has_plain_shape(value, MAX_DEPTH):
        return None
    text = _encode_sorted(value)
    if text.isascii():
        return None if "\\u0000" in text else text
    return text if _is_plain(value) and find_unsafe(value) is None else None


def _has_plain_shape(value: Any, depth: int) -> bool:
    """Tell whether there are no floats, no integers past 2^53 and no keys but texts; characters are not looked at."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is int:
        return bool(-MAX_INTEGER <= value <= MAX_INTEGER)
    if depth == 0:
        return False
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        value = value.values()
    elif kind is not list:
        return False
    for item in value:  # noqa: SIM110 - a generator would take twice as long
        if type(item) is not str and not _has_plain_shape(item, depth - 1):
            return False
    return True


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of ``value`` in lower-case hexadecimal."""
    return hashlib.sha256(canonical_bytes(value)).hexdigest()


def pointer(*steps: str | int) -> str:
    """Return the JSON Pointer (RFC 6901) that leads through ``steps``."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


def find_unsafe(value: Any) -> tuple[str, str] | None:
    """Return (JSON Pointer, sentence) of the first thing in ``value`` that may not cross, or None.

    Refused: what is not JSON, NaN and infinities, integers past 2^53 - 1, lone surrogates, U+0000, keys that are no
    strings, more than :data:`MAX_DEPTH` levels. It is iterative: a hostile depth does not exhaust the stack.
    """
    if _is_safe(value, MAX_DEPTH):
        return None
    stack: list[tuple[Any, tuple[str | int, ...]]] = [(value, ())]
    while stack:
        item, path = stack.pop()
        reason = _unsafe_scalar(item)
        if reason is not None:
            return pointer(*path), reason
        if not isinstance(item, (Mapping, list, tuple)):
            continue
        if len(path) >= MAX_DEPTH:
            return pointer(*path), f"is nested deeper than {MAX_DEPTH} levels"
        if isinstance(item, Mapping):
            for key, child in item.items():
                if not isinstance(key, str):
                    return pointer(*path), f"has the key {key!r}, which is no string"
                bad_key = _unsafe_text(key)
                if bad_key is not None:
                    return pointer(*path), f"has a key that {bad_key}"
                stack.append((child, (*path, key)))
        else:
            stack.extend((child, (*path, index)) for index, child in enumerate(item))
    return None


def _is_safe(value: Any, depth: int) -> bool:
    """Tell quickly that nothing is wrong, which is nearly always so; False only means that it is worth a close look."""
    kind = type(value)
    if kind is str:
        return bool(value.isascii()) and "\x00" not in value
    if value is None or kind is bool:
        return True
    if kind is int:
        return bool(-MAX_INTEGER <= value <= MAX_INTEGER)
    if kind is float:
        return math.isfinite(value)
    if depth == 0:
        return False
    if kind is dict:
        return all(
            type(key) is str and key.isascii() and "\x00" not in key and _is_safe(item, depth - 1)
            for key, item in value.items()
        )
    return kind is list and all(_is_safe(item, depth - 1) for item in value)


def _unsafe_scalar(item: Any) -> str | None:
    if item is None or isinstance(item, (bool, Mapping, list, tuple)):
        return None
    if isinstance(item, str):
        return _unsafe_text(item)
    if isinstance(item, int):
        return None if abs(item) <= MAX_INTEGER else "is an integer past 2^53 - 1; give it as a string"
    if isinstance(item, float):
        return None if math.isfinite(item) else "is NaN or infinite, which JSON has no number for"
    return f"is of type {type(item).__name__}, which is not JSON"


def _unsafe_text(text: str) -> str | None:
    if "\x00" in text:
        return "holds the character U+0000"
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds a lone surrogate, which is no Unicode text"
    return None


def safe_text(text: str, limit: int = 4000) -> str:
    """Return ``text`` fit for a record: U+0000 and lone surrogates replaced, cut at ``limit`` characters."""
    cleaned = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1] + "…"


def compact_json(value: Any) -> bytes:
    """Return ``value`` as JSON with sorted keys and no spaces: not RFC 8785, but fast and the same in every process.

    It is also the same in every version: what histories hold depends on its bytes, and no two encoders write all
    numbers alike.
    """
    return _encode_slowly(value).encode()


def body_reference(encoded: bytes) -> dict[str, Any]:
    """Return what stands in an event for a large value whose :func:`compact_json` is ``encoded``."""
    return {"$ref": "sha256:" + hashlib.sha256(encoded).hexdigest(), "size": len(encoded)}
