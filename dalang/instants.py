"""Points in time as people write them, RFC 3339 with an offset: ``"2026-12-24T18:00:00Z"``; milliseconds inside."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_instant(value: Any) -> int:
    """Return ``value`` in milliseconds since the epoch, parts of one rounded down.

    Raises:
        ValueError: it is no RFC 3339 time with an offset, or none of a year from 1970 to 9999.
    """
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        try:
            found = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", value.upper()))
            ms = (found - _EPOCH) // _MILLISECOND
        except (ValueError, OverflowError):
            ms = -1
        if ms >= 0:
            return ms
    raise ValueError('a time is RFC 3339 with an offset, such as "2026-12-24T18:00:00Z" or "2026-12-24T19:00:00+01:00"')


def format_instant(ms: int) -> str:
    """Return RFC 3339 in UTC with milliseconds: ``0`` is ``"1970-01-01T00:00:00.000Z"``."""
    return (_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
