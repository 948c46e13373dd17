"""Times, durations, figures and addresses as pages tell them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup
from starlette.requests import Request

_STEPS = ((86_400 * 365, "y"), (86_400 * 30, "mo"), (86_400, "d"), (3_600, "h"), (60, "min"))


def moment(at: datetime | None, now: datetime) -> Markup:
    """Return a time as how long ago, or in how long, it is; the time itself is its title. Scripts keep it right."""
    if at is None:
        return Markup('<span class="quiet">–</span>')
    at = at.astimezone(UTC)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), f"{at:%Y-%m-%d %H:%M:%S} UTC", relative(at, now)
    )


def relative(at: datetime, now: datetime) -> str:
    """Return how far a time is from now."""
    seconds = (at - now).total_seconds()
    size = abs(seconds)
    if size < 45:
        return "just now" if seconds <= 0 else "in a moment"
    for step, unit in _STEPS:
        if size >= step or unit == "min":
            told = f"{max(1, round(size / step))} {unit}"
            return f"in {told}" if seconds > 0 else f"{told} ago"
    raise AssertionError


def duration(length: timedelta | float | None) -> str:
    """Return a length of time with its two largest units."""
    if length is None:
        return "–"
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    if seconds < 1:
        return f"{round(max(seconds, 0) * 1000)} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{round(seconds)} s"
    whole = round(seconds)
    days, hours, minutes, rest = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60, whole % 60
    units = [f"{days} d", f"{hours} h", f"{minutes} min", f"{rest} s"]
    first = next(at for at, value in enumerate((days, hours, minutes, rest)) if value)
    return " ".join(one for one in units[first : first + 2] if not one.startswith("0 "))


def number(value: float) -> str:
    """Return a figure with thin spaces between thousands."""
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.2f}".rstrip("0").rstrip(".")
    return text.replace(",", "\u202f")


def priority(value: int) -> str:
    """Return a priority by its word, where it has one."""
    return {-1: "low", 0: "normal", 1: "high", 2: "critical"}.get(value, str(value))


def short(identifier: object) -> str:
    """Return the beginning of an id, enough to tell it from its neighbours."""
    return str(identifier)[:8]


def pretty(value: Any) -> str:
    """Return a value as indented JSON."""
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)


def with_query(request: Request, **changes: str | None) -> str:
    """Return the page's own address with a changed query; None takes a parameter away."""
    kept = [(key, value) for key, value in request.query_params.multi_items() if key not in changes]
    query = urlencode([*kept, *((key, value) for key, value in changes.items() if value is not None)])
    return request.url.path + (f"?{query}" if query else "")


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return a JSON object, or an empty one for what is none."""
    return value if isinstance(value, dict) else {}
