"""Cron expressions and calendars: what they mean, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dalang.timetable import Overlap, Timing, format_instant, parse_cron, parse_field


def values(ranges: tuple[tuple[int, int], ...]) -> list[int]:
    """Every value that is in the ranges."""
    return [value for first, last in ranges for value in range(first, last + 1)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("minute", "*/15", [0, 15, 30, 45]),
        ("minute", "50/5", [50, 55]),
        ("minute", "3,1,2,2", [1, 2, 3]),
        ("hour", "8-17/3", [8, 11, 14, 17]),
        ("day_of_month", "*", list(range(1, 32))),
        ("month", "JAN-mar,December", [1, 2, 3, 12]),
        ("day_of_week", "MON-FRI", [1, 2, 3, 4, 5]),
        ("day_of_week", "5-7", [0, 5, 6]),
        ("day_of_week", "FRI-SUN", [0, 5, 6]),
        ("day_of_week", "0,7,sunday", [0]),
        ("day_of_week", "*/2", [0, 2, 4, 6]),
        ("year", "2026-2028", [2026, 2027, 2028]),
    ],
)
def test_a_field(name: str, text: str, expected: list[int]) -> None:
    """Numbers, names, ranges, steps and lists."""
    assert values(parse_field(name, text)) == expected


def test_either_day_is_enough_where_both_are_given() -> None:
    """As in cron, and unlike Temporal's own reading."""
    of_month, of_week = parse_cron("0 9 1,15 * MON")
    assert (values(of_month.day_of_month), values(of_month.day_of_week)) == ([1, 15], list(range(7)))
    assert (values(of_week.day_of_month), values(of_week.day_of_week)) == (list(range(1, 32)), [1])
    assert len(parse_cron("0 9 * * MON")) == len(parse_cron("0 9 1 * *")) == len(parse_cron("@daily")) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 9 * *", "five fields"),
        ("0 0 9 * * MON", "five fields"),
        ("", "five fields"),
        ("60 * * * *", "0 to 59"),
        ("* 24 * * *", "0 to 23"),
        ("* * 0 * *", "1 to 31"),
        ("* * * 13 *", "1 to 12"),
        ("* * * * 8", "0 to 7"),
        ("* * * * FUN", "no day of the week"),
        ("5-1 * * * *", "backwards"),
        ("*/0 * * * *", "step"),
        ("1,,2 * * * *", "no minute"),
        ("1-2-3 * * * *", "no minute"),
        ("* * L * *", "no day of the month"),
        ("* * ? * *", "no day of the month"),
        ("\u0661 * * * *", "no minute"),
        ("0 0 30 2 *", "never"),
        ("0 0 31 4,6,9,11 *", "never"),
        ("@every 5m", "`every`"),
        ("CRON_TZ=UTC 0 9 * * *", "`timezone`"),
    ],
)
def test_what_is_no_expression(text: str, said: str) -> None:
    """Each with a sentence that says what is wrong."""
    with pytest.raises(ValueError, match=said):
        parse_cron(text)


@given(st.text(max_size=30) | st.lists(st.sampled_from("0123456789*/,- MONFRI@"), max_size=20).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but ValueError, and what is read stays within the fields' bounds."""
    try:
        found = parse_cron(text)
    except ValueError:
        return
    for times in found:
        assert set(values(times.minute)) <= set(range(60))
        assert set(values(times.day_of_week)) <= set(range(7))


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": {}},
        {"spec": {"every": "500ms"}},
        {"spec": {"every": "1h", "offset": "1h"}},
        {"spec": {"cron": ["@daily"], "offset": "5m"}},
        {"spec": {"every": "1h", "startAt": "2026-01-02T00:00:00Z", "endAt": "2026-01-01T00:00:00Z"}},
        {"spec": {"every": "1h", "startAt": "2026-01-02"}},
        {"spec": {"every": 3600}},
        {"spec": {"calendar": [{"hour": True}]}},
        {"spec": {"calendar": [{"dayOfMonth": 31, "month": "feb"}]}},
        {"spec": {"cron": ["@daily"] * 51}},
        {"overlap": "terminateOther"},
        {"overlap": "allowAll", "pauseOnFailure": True},
        {"catchupWindow": "5s"},
        {"remainingActions": 0},
        {"pauseOnFailure": "yes"},
    ],
)
def test_a_timing_that_makes_no_sense(changes: dict[str, object]) -> None:
    """Refused rather than guessed at."""
    with pytest.raises(ValidationError):
        Timing.model_validate({"spec": {"every": "1h"}, **changes})


def test_a_timing_is_read_as_it_was_written() -> None:
    """Its wire form is stored, and read again."""
    given = {
        "spec": {"cron": "0 9 * * *", "every": "90s", "calendar": {"hour": 9}, "startAt": "2026-01-31T12:00:00+07:00"},
        "overlap": "cancelOther",
        "catchupWindow": "1h",
    }
    timing = Timing.model_validate(given)
    assert timing.overlap is Overlap.CANCEL_OTHER
    assert timing.wire()["spec"]["startAt"] == "2026-01-31T05:00:00Z"
    assert Timing.model_validate(timing.wire()) == timing
    assert format_instant(datetime(2026, 1, 1, 9, 0, 0, 500_000, tzinfo=UTC)) == "2026-01-01T09:00:00.500000Z"
