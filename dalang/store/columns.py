"""What the tables are made of: the metadata, and the columns and constraints that many of them have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Column, DateTime, ForeignKeyConstraint, Integer, MetaData, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.types import UserDefinedType


class TransactionId(UserDefinedType[Any]):
    """PostgreSQL's ``xid8``: the transaction that wrote a row; never wraps around, unlike ``xmin``."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Return the type's name in SQL."""
        return "XID8"


ischema_names.setdefault("xid8", TransactionId)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def quoted(values: Iterable[str]) -> str:
    """Return the values as a list of SQL strings, for CHECK constraints."""
    return ", ".join(f"'{value}'" for value in values)


def tenant() -> Column[Any]:
    """Return the column of the tenant, which every row but a blob has."""
    return Column("tenant_id", Text, nullable=False)


def json_column(name: str, default: str | None = None) -> Column[Any]:
    """Return a JSON column; None is SQL NULL, and with a ``default`` it is never null."""
    if default is None:
        return Column(name, JSONB(none_as_null=True))
    return Column(name, JSONB(none_as_null=True), nullable=False, server_default=text(f"'{default}'::jsonb"))


def moment(name: str, *, default: bool = False) -> Column[Any]:
    """Return a column of a time; with ``default`` it is when the row was written."""
    if default:
        return Column(name, DateTime(timezone=True), nullable=False, server_default=text("now()"))
    return Column(name, DateTime(timezone=True))


def number(name: str, kind: type[Integer] = Integer, default: int = 0) -> Column[Any]:
    """Return a column of a count."""
    return Column(name, kind, nullable=False, server_default=text(str(default)))


def of_run(*, cascade: bool = False) -> ForeignKeyConstraint:
    """Return the constraint that a row is a run's of the same tenant; with ``cascade`` it goes when the run does."""
    columns = ["tenant_id", "run_id"]
    return ForeignKeyConstraint(
        columns, [f"execution_runs.{name}" for name in columns], ondelete="CASCADE" if cascade else None
    )
