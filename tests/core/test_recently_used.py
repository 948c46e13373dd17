"""What a process keeps: the values used last, as much as fits, each made once."""

from __future__ import annotations

import asyncio

import pytest

from dalang.recently_used import RecentlyUsed


def test_what_was_used_longest_ago_goes_first() -> None:
    """A value that is asked for stays when another has to go."""
    kept: RecentlyUsed[str, str] = RecentlyUsed(6, len)
    kept.keep("a", "two")
    kept.keep("b", "two")
    assert kept.get("a") == "two"
    kept.keep("c", "one")
    assert ("a" in kept, "b" in kept, "c" in kept) == (True, False, True)


def test_a_value_that_grows_is_counted_as_it_is_now() -> None:
    """What is kept anew under a key counts once, with its new size."""
    kept: RecentlyUsed[str, str] = RecentlyUsed(6, len)
    for _ in range(5):
        kept.keep("a", "two")
    kept.keep("b", "one")
    assert "a" in kept
    kept.keep("b", "three")
    assert "a" not in kept


def test_one_that_is_too_large_stays_alone() -> None:
    """What somebody has just asked for is kept even if it alone exceeds the limit."""
    kept: RecentlyUsed[str, str] = RecentlyUsed(3, len)
    kept.keep("a", "one")
    kept.keep("b", "too large")
    assert ("a" in kept, kept.get("b")) == (False, "too large")


async def test_what_many_ask_for_is_made_once() -> None:
    """Who asks while a value is being made waits for it; nothing is kept of a failure, or of None."""
    kept: RecentlyUsed[str, str | None] = RecentlyUsed(10, lambda one: len(one or ""))
    answers: list[str | Exception | None] = [ValueError("away"), None, "here", "never"]
    made: list[object] = []

    async def make() -> str | None:
        made.append(await asyncio.sleep(0))
        answer = answers[len(made) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(ValueError, match="away"):
        await kept.made("a", make)
    assert await kept.made("a", make) is None
    assert await asyncio.gather(*(kept.made("a", make) for _ in range(3))) == ["here"] * 3
    assert len(made) == 3
