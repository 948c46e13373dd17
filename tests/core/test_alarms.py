"""Alarms: a heap with lazy deletion does what a sorted list would do."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from dalang.alarms import Alarms


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_alarms_are_a_sorted_list(rnd: Random) -> None:
    """Set, drop and take in any order; the same from what a snapshot keeps."""
    alarms, naive = Alarms(), set[tuple[int, str, int]]()
    for _ in range(rnd.randint(0, 300)):
        act = rnd.choice(["set", "set", "drop", "take", "keep"])
        if act == "set":
            alarm = (rnd.randint(0, 20), rnd.choice("ab"), rnd.randint(0, 6))
            alarms.set(*alarm)
            naive.add(alarm)
        elif act == "drop":
            subject = rnd.randint(0, 6)
            alarms.drop(subject)
            naive = {alarm for alarm in naive if alarm[2] != subject}
        elif act == "take":
            at = rnd.randint(0, 20)
            first = min(naive, default=None)
            due = first is not None and first[0] <= at
            assert alarms.take(at) == (first[1:] if first is not None and due else None)
            if due:
                naive.discard(min(naive))
        else:
            alarms = Alarms([list(alarm) for alarm in alarms])
        assert list(alarms) == sorted(naive)
        assert len(alarms) == len(naive)
        assert alarms.next == min((alarm[0] for alarm in naive), default=None)
        assert alarms.has("a", 3) == any(alarm[1:] == ("a", 3) for alarm in naive)


def test_what_is_dropped_does_not_pile_up() -> None:
    """A node that is asked again and again for years leaves no heap of what is not due any more."""
    alarms = Alarms()
    alarms.set(0, "first", "kept")
    for number in range(10_000):
        alarms.set(number + 1, "due", number)
        alarms.drop(number)
    assert len(alarms._heap) < 200
    assert list(alarms) == [(0, "first", "kept")]
