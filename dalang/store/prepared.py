"""Statements that are written out once: for what every batch of events asks for.

Putting a statement together, and finding out that it was compiled before, costs more than sending it. What runs
thousands of times in a minute is compiled when it is first used, and from then on is its text and the order of its
parameters.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, ClauseElement, CursorResult
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store.engine import DRIVER

_DIALECT = URL.create(DRIVER).get_dialect()()


class Prepared:
    """A statement as text. Values go to the driver as they are, so none of its parameters is JSON."""

    def __init__(self, statement: ClauseElement) -> None:
        compiled = statement.compile(dialect=_DIALECT)
        self.sql = compiled.string
        self._fixed = compiled.params
        self._order = tuple(getattr(compiled, "positiontup", None) or ())

    async def run(self, conn: AsyncConnection, **values: Any) -> CursorResult[Any]:
        """Execute with values for all its parameters, by name."""
        given = {**self._fixed, **values}
        return await conn.exec_driver_sql(self.sql, tuple(given[name] for name in self._order))
