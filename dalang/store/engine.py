"""Connections to PostgreSQL: the engine, transactions of a tenant, and which errors mean that the database is away."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import asyncpg
from sqlalchemy import URL, bindparam, event, exc, func, make_url, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from dalang.canonical import MAX_INTEGER

DRIVER = "postgresql+asyncpg"
TENANT_SETTING = "app.tenant_id"
"""What a transaction's tenant is called; the policies of all tables read it."""
SYSTEM_ROLE = "dalang_system"
"""Sees all tenants. Nobody logs in as it, and nothing is inherited from it: it has to be taken, for a transaction."""
_AS_SYSTEM = text(
    f"SELECT set_config('role', rolname, true) FROM pg_roles WHERE rolname = '{SYSTEM_ROLE}'"  # noqa: S608 - a constant
    " AND pg_has_role(oid, 'MEMBER')"
)
"""Nothing where one role owns everything: it is bound by no policy."""
_AS_TENANT = select(func.set_config(TENANT_SETTING, bindparam("tenant"), True))
_AS_BEFORE = text("SELECT current_setting('role')")

_AWAY = frozenset({"08", "57", "53"})
"""Classes of SQLSTATE that come from the server's state, not from the statement: connection exceptions, operator
intervention (shutdown, starting up), insufficient resources (too many connections, disk full)."""
_NOT_AWAY = frozenset({"57014"})
"""query_canceled: the statement ran into its own time limit."""
_READ_ONLY = "25006"
"""A standby after a failover: the primary is elsewhere, or soon will be."""
ASKED_AFTER_SECONDS = 5.0
"""A connection that was idle for so long is asked whether it still answers, before it is used."""
_REFUSED = frozenset({"22", "23", "54"})
"""Data exception, integrity violation, program limit: this value will be refused again."""


class DatabaseSettings(Protocol):
    """What :func:`create_engine` needs of the settings."""

    @property
    def database_pool_size(self) -> int:
        """Connections of one process at most."""

    def require_database_url(self) -> str:
        """The URL of the process role."""


def database_url(url: str | URL) -> URL:
    """Return ``url`` with the asyncpg driver; ``postgresql://`` and a socket folder as ``?host=/folder`` are taken."""
    return make_url(url).set(drivername=DRIVER)


def create_engine(
    source: DatabaseSettings | str | URL,
    *,
    pool_size: int = 10,
    statement_timeout: float = 30,
    pooled: bool = True,
) -> AsyncEngine:
    """Return an engine; no connection is opened before the first use.

    ``statement_timeout`` is in seconds, 0 is none. Not ``pooled`` is for a few statements, or a loop that soon ends.
    """
    if isinstance(source, (str, URL)):
        url = database_url(source)
    else:
        url, pool_size = database_url(source.require_database_url()), source.database_pool_size
    pool: dict[str, Any] = {"poolclass": NullPool}
    if pooled:
        pool = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": 30}
    engine = create_async_engine(
        url,
        json_serializer=dump_json,
        json_deserializer=load_json,
        connect_args={
            "timeout": 10,
            "server_settings": {
                "application_name": "dalang",
                "timezone": "UTC",
                "statement_timeout": str(int(statement_timeout * 1000)),
                "jit": "off",  # queries here are short; compiling them costs more than running them
            },
        },
        **pool,
    )
    if pooled:
        _look_after_idle(engine)
    return engine


def _look_after_idle(engine: AsyncEngine) -> None:
    """Give out no connection that died in the pool: it costs a new one, not a failed request.

    A socket that was closed is known to be; only what was idle for a while, and may hang, is asked, since asking costs
    every transaction one of its few round trips.
    """

    @event.listens_for(engine.sync_engine, "checkin")
    def given_back(connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["idle since"] = time.monotonic()

    @event.listens_for(engine.sync_engine, "checkout")
    def taken(connection: Any, record: ConnectionPoolEntry, proxy: Any) -> None:
        if connection.driver_connection.is_closed():
            raise exc.DisconnectionError("closed while it was idle")
        if time.monotonic() - record.info.get("idle since", time.monotonic()) < ASKED_AFTER_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except Exception as error:
            raise exc.DisconnectionError("died while it was idle") from error


@asynccontextmanager
async def transaction(engine: AsyncEngine, tenant_id: str) -> AsyncIterator[AsyncConnection]:
    """Open a transaction of ``tenant_id``: commits at the end, rolls back on an exception.

    The database shows it the rows of this tenant and takes no others (``row_security.py``). The tenant is set for this
    transaction only, so the pool cannot hand it to the next one.
    """
    async with engine.begin() as conn:
        await conn.execute(_AS_TENANT, {"tenant": tenant_id})
        yield conn


@asynccontextmanager
async def system_transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a transaction that sees all tenants: for jobs of the whole system, and to find out whose a token is."""
    async with engine.begin() as conn:
        await conn.execute(_AS_SYSTEM)
        yield conn


@asynccontextmanager
async def across_tenants(conn: AsyncConnection) -> AsyncIterator[None]:
    """Let a transaction see all tenants for some statements: what all of them share is counted over all of them."""
    before = (await conn.execute(_AS_BEFORE)).scalar_one()
    await conn.execute(_AS_SYSTEM)
    yield  # on an exception the transaction, or its savepoint, is rolled back, and with it this
    await conn.execute(select(func.set_config("role", before, True)))


def is_connection_error(error: BaseException) -> bool:
    """Tell whether ``error`` says that the database is away, so that waiting and trying again is right."""
    for one in _causes(error):
        if isinstance(one, (exc.TimeoutError, OSError, TimeoutError)):  # no free connection; refused; no answer
            return True
        if isinstance(one, exc.DBAPIError) and one.connection_invalidated:
            return True
        state = sql_state(one)
        if state is not None:
            return (state[:2] in _AWAY and state not in _NOT_AWAY) or state == _READ_ONLY
        if isinstance(one, asyncpg.InterfaceError) and not isinstance(one, ValueError):
            return True  # the client's side: the connection is closed or lost
    return False


def is_refused_value(error: BaseException) -> bool:
    """Tell whether ``error`` says that a value cannot be stored, so that trying again is in vain."""
    for one in _causes(error):
        state = sql_state(one)
        if state is not None:
            return state[:2] in _REFUSED
        if isinstance(one, (ValueError, TypeError, OverflowError, RecursionError)):
            return True  # the client's side: not JSON, not UTF-8, out of range
    return False


def sql_state(error: BaseException) -> str | None:
    """Return the SQLSTATE of a server's error, else None."""
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else None


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = getattr(one, "orig", None) or one.__cause__
    return found


_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode


def dump_json(value: Any) -> str:
    """Return strict JSON: NaN and infinities raise ValueError."""
    return _encode(value)


def load_json(text: str | bytes) -> Any:
    """Read what ``jsonb`` answers. It writes the float 1e20 as digits, so an integer past 2^53 - 1 was a float."""
    return json.loads(text, parse_int=_number)


def load_large_json(text: str) -> Any:
    """Read an object as :func:`load_json` does, the parts of its lists one by one: between two others may run."""
    if not text.startswith('{"'):
        return load_json(text)
    found: dict[str, Any] = {}
    at = 1  # jsonb writes `{"key": value, "other": [one, two]}`
    while True:
        key, at = _decode(text, at)
        if text.startswith("[{", at + 2):
            parts = found[key] = []
            at += 1
            while text[at] != "]":
                part, at = _decode(text, at + 2)
                parts.append(part)
            at += 1
        else:
            found[key], at = _decode(text, at + 2)
        if text[at] == "}":
            return found
        at += 2


def _number(digits: str) -> int | float:
    number = int(digits) if len(digits) < 18 else MAX_INTEGER + 1
    return number if abs(number) <= MAX_INTEGER else float(digits)


_decode = json.JSONDecoder(parse_int=_number).raw_decode
