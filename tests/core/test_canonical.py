"""Canonical JSON and what may cross a boundary."""

from __future__ import annotations

import math
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from dalang.canonical import MAX_DEPTH, canonical_bytes, compact_json, find_unsafe, plain_json, pointer, safe_text

TEXT = st.text(st.characters(codec="utf-8"))
SAFE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(SAFE)
def test_the_fast_encoder_writes_what_rfc_8785_says(value: Any) -> None:
    """Whichever way it takes, canonical_bytes gives the bytes of the reference implementation."""
    assert canonical_bytes(value) == rfc8785.dumps(value)


@given(SAFE)
@example({"a": [1, True, None, "x", {}], "b": {"é": "ü"}, "c": "ü"})
@example({"f": 1.5})
@example({"n": "\x00"})
def test_what_is_written_once_is_canonical_and_may_cross(value: Any) -> None:
    """Either it is the canonical JSON of something that nothing refuses, or it wants a closer look."""
    text = plain_json(value)
    if text is None:
        assert not isinstance(value, str) or find_unsafe(value) is not None
    else:
        assert text.encode() == rfc8785.dumps(value)
        assert find_unsafe(value) is None


@pytest.mark.parametrize(
    "value", ['\x00\x01\x1f\x7f\u2028\u2029"\\/\b\f\n\r\t', {"é": 1, "z": 2, "\U0001f600": 3, "\ufb33": 4}]
)
def test_escapes_and_key_order_are_those_of_rfc_8785(value: Any) -> None:
    """Control characters, line separators and keys beyond ASCII come out as the RFC wants."""
    assert canonical_bytes(value) == rfc8785.dumps(value)


def test_what_histories_depend_on_is_written_as_ever() -> None:
    """Encoders differ in how they write numbers; the digests and sizes of large bodies may not."""
    value = {"é": [1e-07, 1e16, 2**70], "a": {"x": 0.1, "s": "ü\n\x7f"}}
    assert compact_json(value) == '{"a":{"s":"ü\\n\x7f","x":0.1},"é":[1e-07,1e+16,1180591620717411303424]}'.encode()


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [1, math.nan]}, "/a/1"),
        ({"a": math.inf}, "/a"),
        ({"a/b": {"c~d": 2**53}}, "/a~1b/c~0d"),
        (["\ud800"], "/0"),
        ({"a": "x\x00"}, "/a"),
        ({1: 2}, ""),
        ({"k\x00": 1}, ""),
        (object(), ""),
        ({"a": b"bytes"}, "/a"),
    ],
)
def test_what_may_not_cross_is_found_with_its_pointer(value: Any, where: str) -> None:
    """NaN, infinities, large integers, lone surrogates, U+0000, other keys and other types are refused by place."""
    found = find_unsafe(value)
    assert found is not None
    assert found[0] == where


@given(SAFE)
def test_what_is_json_may_cross(value: Any) -> None:
    """Nothing is refused that canonical JSON and Postgres take."""
    text = repr(value)
    if "\\x00" not in text:
        assert find_unsafe(value) is None


def test_depth_is_bounded_without_recursion() -> None:
    """A document a million levels deep is refused, not fatal."""
    deep: Any = []
    for _ in range(1_000_000):
        deep = [deep]
    found = find_unsafe(deep)
    assert found is not None
    assert f"{MAX_DEPTH} levels" in found[1]
    while deep:  # freeing it level by level, since the interpreter would recurse
        deep = deep.pop()


def test_pointers_escape_as_rfc_6901_says() -> None:
    """~ and / in a key are ~0 and ~1."""
    assert pointer("a/b", 0, "m~n") == "/a~1b/0/m~0n"


@given(st.text())
def test_safe_text_is_always_storable(text: str) -> None:
    """Whatever it is made of, the result may cross and is not longer than asked."""
    cleaned = safe_text(text, 20)
    assert find_unsafe(cleaned) is None
    assert len(cleaned) <= 20
