"""When a schedule starts runs: cron expressions, intervals, calendars; checked here, given to Temporal as calendars.

Temporal takes cron expressions too, and reads ``0 9 1 * MON`` as "the first of a month that is a Monday"; cron itself
means the first *and* every Monday. So they are read here, strictly, and handed on in Temporal's structured form: what
was checked is what is done, whatever the server's own parser thinks.
"""

from __future__ import annotations

import calendar as months
import re
import zoneinfo
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from dalang.durations import Duration

MAX_EXPRESSIONS = 50
"""Cron expressions, or calendars, of one schedule."""
MIN_CATCHUP_MS = 10_000
"""Temporal takes no shorter window."""


class Overlap(StrEnum):
    """What happens when a run is due while the one before has not ended.

    Temporal's ``terminateOther`` is not offered: a terminated run cannot compensate, nor tell that it ended.
    """

    SKIP = "skip"
    """Nothing is started."""
    BUFFER_ONE = "bufferOne"
    """One more waits and is started when the run before ends; further ones are dropped."""
    BUFFER_ALL = "bufferAll"
    """All are started, one after the other."""
    CANCEL_OTHER = "cancelOther"
    """The run before is cancelled, in order, and when it has ended the new one is started."""
    ALLOW_ALL = "allowAll"
    """They run side by side."""


_MONTHS = {name.upper(): number for number, name in enumerate(months.month_abbr) if name}
_MONTHS |= {name.upper(): number for number, name in enumerate(months.month_name) if name}
_DAYS: dict[str, int] = {}
for _number in range(7):
    # calendar counts from Monday, cron from Sunday
    _DAYS[months.day_abbr[_number].upper()] = _DAYS[months.day_name[_number].upper()] = (_number + 1) % 7

_FIELDS: dict[str, tuple[str, int, int, Mapping[str, int]]] = {
    "second": ("second", 0, 59, {}),
    "minute": ("minute", 0, 59, {}),
    "hour": ("hour", 0, 23, {}),
    "day_of_month": ("day of the month", 1, 31, {}),
    "month": ("month", 1, 12, _MONTHS),
    "year": ("year", 2000, 2100, {}),  # as far as Temporal goes
    "day_of_week": ("day of the week", 0, 7, _DAYS),
}
_CRON = ("minute", "hour", "day_of_month", "month", "day_of_week")
_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_ITEM = re.compile(r"(?:(\*)|([A-Za-z]+|\d{1,4})(?:-([A-Za-z]+|\d{1,4}))?)(?:/(\d{1,4}))?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\dT", re.ASCII)
_LONGEST_MONTH = {month: months.monthrange(2000, month)[1] for month in range(1, 13)}

Range = tuple[int, int]
"""First and last, both included."""


@dataclass(frozen=True)
class Times:
    """Points in time: those where every field holds. An empty ``year`` is any year."""

    second: tuple[Range, ...]
    minute: tuple[Range, ...]
    hour: tuple[Range, ...]
    day_of_month: tuple[Range, ...]
    month: tuple[Range, ...]
    year: tuple[Range, ...]
    day_of_week: tuple[Range, ...]


def parse_cron(text: str) -> tuple[Times, ...]:
    """Return the times of a cron expression: five fields, or a macro such as ``@daily``.

    Two of them when both the day of the month and the day of the week are restricted: cron means either.

    Raises:
        ValueError: with a sentence.
    """
    given = text.strip()
    if given.startswith("@"):
        if given not in _MACROS:
            known = ", ".join(_MACROS)
            raise ValueError(f"{given[:50]} is no macro of cron; there are {known}, and `every` is for intervals")
        given = _MACROS[given]
    if given.upper().startswith(("CRON_TZ=", "TZ=")):
        raise ValueError("the time zone stands in `timezone`, not in the expression")
    parts = given.split()
    if len(parts) != len(_CRON):
        raise ValueError(
            f"a cron expression has five fields (minute, hour, day of the month, month, day of the week), not "
            f"{len(parts)}; `calendar` has seconds and years"
        )
    fields = {name: parse_field(name, part) for name, part in zip(_CRON, parts, strict=True)}
    days, weekdays = parts[2], parts[4]
    any_day: dict[str, Any] = {"day_of_month": ((1, 31),)}
    any_weekday: dict[str, Any] = {"day_of_week": ((0, 6),)}
    common: dict[str, Any] = {"second": ((0, 0),), "year": (), **fields}
    if days.startswith("*") or weekdays.startswith("*"):
        return (_possible(Times(**common)),)
    return _possible(Times(**common | any_weekday)), Times(**common | any_day)


def parse_field(name: str, text: str) -> tuple[Range, ...]:
    """Return the ranges of one field: ``*``, ``5``, ``1-5``, ``*/15``, ``10-20/5``, names, and lists of these.

    Raises:
        ValueError: with a sentence.
    """
    called, least, most, names = _FIELDS[name]
    values: set[int] = set()
    for item in text.split(","):
        found = _ITEM.fullmatch(item.strip())
        if found is None:
            raise ValueError(f"{item.strip()[:50]!r} is no {called}: *, 5, 1-5, */15, and lists of these")
        star, first, last, step = found.groups()
        if step is not None and int(step) == 0:
            raise ValueError(f"the step of {item.strip()!r} is 0")
        top = 6 if name == "day_of_week" else most
        if star:
            start, end = least, top
        else:
            start = _value(called, first, least, most, names)
            end = _value(called, last, least, most, names) if last else top if step else start
        if end < start and name == "day_of_week" and last and end == 0:
            end = 7  # FRI-SUN
        if end < start:
            raise ValueError(f"{item.strip()!r} runs backwards")
        values.update(range(start, end + 1, int(step or 1)))
    if name == "day_of_week":
        values = {value % 7 for value in values}
    return _ranges(sorted(values))


def _value(called: str, text: str, least: int, most: int, names: Mapping[str, int]) -> int:
    value = names.get(text.upper()) if text.isalpha() else int(text)
    if value is None:
        known = f"; it is {', '.join(sorted(names, key=names.__getitem__)[::2])}" if names else ""
        raise ValueError(f"{text[:50]!r} is no {called}{known}")
    if not least <= value <= most:
        raise ValueError(f"{value} is no {called}, which is {least} to {most}")
    return value


def _ranges(values: Iterable[int]) -> tuple[Range, ...]:
    found: list[Range] = []
    for value in values:
        if found and found[-1][1] == value - 1:
            found[-1] = (found[-1][0], value)
        else:
            found.append((value, value))
    return tuple(found)


def _possible(times: Times) -> Times:
    first = times.day_of_month[0][0]
    longest = max(_LONGEST_MONTH[month] for start, end in times.month for month in range(start, end + 1))
    if first > longest:
        raise ValueError(f"there is no day {first} in these months, so it would never be")
    return times


def _cron(text: str) -> str:
    parse_cron(text)
    return text.strip()


_Field = Annotated[
    str,
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}], "examples": ["*", "9-17", "*/15", "MON-FRI"]}),
]


def _instant(value: Any) -> Any:
    if isinstance(value, datetime):
        return value
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) and _DATE.match(value) else None
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ValueError("a time looks like 2026-01-31T12:00:00Z")
    return found


def _zone(name: str) -> str:
    known = zoneinfo.available_timezones()
    if known and name not in known:  # a machine without the database of zones leaves it to Temporal to refuse one
        near = [one for one in known if one.rpartition("/")[2].lower() == name.rpartition("/")[2].lower()]
        hint = f": {min(near, key=len)} is one" if near else ", such as Europe/Berlin"
        raise ValueError(f"{name[:100]!r} is no time zone of the IANA database{hint}")
    return name


def format_instant(value: datetime) -> str:
    """Return an RFC 3339 text in UTC, ``2026-01-31T12:00:00Z``."""
    offset = value.utcoffset()
    assert offset is not None
    text = (value - offset).replace(tzinfo=None).isoformat()
    return f"{text}Z"


Instant = Annotated[
    datetime,
    BeforeValidator(_instant),
    PlainSerializer(format_instant, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A point in time, RFC 3339 with a zone."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, (str, dict)) else value


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=True, use_enum_values=False
    )


class Calendar(_Model):
    """Points in time as in Temporal's calendars: those where every field holds; by default midnight, every day."""

    second: _Field = "0"
    minute: _Field = "0"
    hour: _Field = "0"
    day_of_month: _Field = "*"
    month: _Field = "*"
    year: _Field = "*"
    day_of_week: _Field = "*"

    @field_validator(*_FIELDS, mode="before")
    @classmethod
    def _check(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or len(value) > 500:
            raise ValueError('a field of a calendar is a number, or a text such as "9-17" or "MON-FRI"')
        assert info.field_name is not None
        parse_field(info.field_name, value)
        return value

    @model_validator(mode="after")
    def _may_be(self) -> Self:
        self.times()
        return self

    def times(self) -> Times:
        """Return the same as ranges."""
        fields = {name: parse_field(name, getattr(self, name)) for name in _FIELDS}
        if self.year == "*":
            fields["year"] = ()
        return _possible(Times(**fields))


class ScheduleSpec(_Model):
    """When: the union of ``cron``, ``every`` and ``calendar``, in ``timezone``, between ``startAt`` and ``endAt``."""

    cron: Annotated[
        tuple[Annotated[str, Field(max_length=500), AfterValidator(_cron)], ...],
        BeforeValidator(lambda value: tuple(_listed(value)) if isinstance(value, (str, list)) else value),
        Field(max_length=MAX_EXPRESSIONS),
    ] = ()
    every: Duration | None = Field(None, description="An interval of whole seconds, counted from 1970 plus `offset`.")
    offset: Duration = Field(0, description="Of `every`: `every: 1h, offset: 10m` is ten past every hour.")
    calendar: Annotated[
        tuple[Calendar, ...],
        BeforeValidator(lambda value: tuple(_listed(value)) if isinstance(value, (dict, list)) else value),
        Field(max_length=MAX_EXPRESSIONS),
    ] = ()
    timezone: Annotated[str, Field(max_length=100), AfterValidator(_zone)] = Field(
        "UTC", description="Of `cron` and `calendar`: a name of the IANA database."
    )
    start_at: Instant | None = Field(None, description="No time before this one counts.")
    end_at: Instant | None = Field(None, description="No time after this one counts.")
    jitter: Duration = Field(0, description="Each start is put off by a random time up to this one.")

    @field_validator("every")
    @classmethod
    def _whole_seconds(cls, value: int | None) -> int | None:
        if value is not None and (value < 1000 or value % 1000):
            raise ValueError("an interval is made of whole seconds, one at least")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.cron and self.every is None and not self.calendar:
            raise ValueError("give at least one of cron, every and calendar")
        if self.offset and (self.every is None or self.offset >= self.every or self.offset % 1000):
            raise ValueError("offset goes with every, is shorter, and made of whole seconds")
        if self.start_at is not None and self.end_at is not None and self.end_at <= self.start_at:
            raise ValueError("endAt is not after startAt")
        return self

    def times(self) -> list[Times]:
        """Return the times of ``cron`` and ``calendar``."""
        return [one for text in self.cron for one in parse_cron(text)] + [one.times() for one in self.calendar]


def _catchup(value: int | None) -> int | None:
    if value is not None and value < MIN_CATCHUP_MS:
        raise ValueError("a catchupWindow is 10 s at least")
    return value


class Timing(_Model):
    """When a schedule starts runs, and what happens when it cannot."""

    spec: ScheduleSpec
    overlap: Annotated[Overlap, Field(strict=False)] = Field(
        Overlap.SKIP, description="What happens when a run is due while the one before has not ended."
    )
    catchup_window: Annotated[Duration | None, AfterValidator(_catchup)] = Field(
        None, description="How late a start may be that was missed while Temporal was away. Default: a year."
    )
    pause_on_failure: bool = Field(False, description="Pause when a run, or its start, has failed; not with allowAll.")
    remaining_actions: int | None = Field(
        None, ge=1, le=2**31 - 1, description="So many times, then never again. Default: without end."
    )

    @model_validator(mode="after")
    def _watched(self) -> Self:
        if self.pause_on_failure and self.overlap is Overlap.ALLOW_ALL:
            raise ValueError("pauseOnFailure has no effect with allowAll: Temporal does not look how such runs end")
        return self

    def wire(self) -> dict[str, Any]:
        """Return it as JSON."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
