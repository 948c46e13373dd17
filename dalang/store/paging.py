"""Pages of long lists by key: what is inserted or removed between two pages neither repeats nor hides a row."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar, TypeVarTuple
from uuid import UUID

from sqlalchemy import ColumnElement, tuple_
from sqlalchemy.sql.elements import KeyedColumnElement

from dalang.errors import DalangError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class InvalidCursor(DalangError):
    """A cursor is taken from the answer before as it is; this one is not such a text."""


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list; ``cursor`` asks for what follows, None says that nothing does."""

    items: Sequence[T]
    cursor: str | None


def write_cursor(*key: str | int | datetime | UUID) -> str:
    """Return an opaque text for the key of the last row of a page."""
    values = [
        one if isinstance(one, (str, int)) else one.isoformat() if isinstance(one, datetime) else str(one)
        for one in key
    ]
    return base64.urlsafe_b64encode(json.dumps(values, separators=(",", ":")).encode()).decode().rstrip("=")


def read_cursor(cursor: str, *kinds: type[Any]) -> list[Any]:
    """Return the key that :func:`write_cursor` was given, of these kinds. Raises :class:`InvalidCursor`."""
    try:
        values = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if not isinstance(values, list) or len(values) != len(kinds):
            raise ValueError("another list's cursor")
        key = [_read(value, kind) for value, kind in zip(values, kinds, strict=True)]
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidCursor("The cursor is none that this list answered.") from error
    return key


def after(
    *keys: tuple[ColumnElement[Any] | KeyedColumnElement[Any], Any], descending: bool = False
) -> ColumnElement[bool]:
    """Return the condition that a row comes after the row with these values of its ordering columns."""
    columns, values = tuple_(*(column for column, _ in keys)), tuple_(*(value for _, value in keys))
    return columns < values if descending else columns > values


def _read(value: Any, kind: type[Any]) -> Any:
    if kind is datetime:
        time = datetime.fromisoformat(value)
        if time.tzinfo is None:
            raise ValueError("a time without a zone")
        return time
    if kind is UUID:
        return UUID(value)
    if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, str) and "\x00" in value):
        raise ValueError("another kind of key")
    return value
