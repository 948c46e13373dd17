"""Going to the database itself, as the owner of its tables: what must work before there is any token."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from dalang.commands.failures import CommandFailure, Unreachable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from dalang.settings import Settings

T = TypeVar("T")


def as_owner(settings: Settings, tenant_id: str, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Run ``work`` in one transaction as the owner of the tables, for a tenant."""
    from dalang.store.engine import create_engine, transaction

    url = settings.require_migration_database_url()

    async def run() -> T:
        engine = create_engine(url, pooled=False)
        try:
            async with transaction(engine, tenant_id) as conn:
                return await work(conn)
        finally:
            await engine.dispose()

    with away(url):
        return asyncio.run(run())


async def told(conn: AsyncConnection, settings: Settings, tenant_id: str, method: str, **data: Any) -> None:
    """Record in the tenant's chain of system events what was done past the API; signed if there is a key here."""
    import time

    from dalang.signing import Keyring
    from dalang.store.system_events import Happening, SystemEventType, append

    actor = {"type": "human", "id": "owner of the database", "role": "owner"}
    about = {"what": "tokens", "method": method, "route": "dalang token", **data}
    one = Happening(SystemEventType.ADMINISTRATION, round(time.time() * 1000), "INFO", actor, about)
    await append(conn, tenant_id, [one], Keyring.load(settings.audit_keys_path))


@contextlib.contextmanager
def away(url: str) -> Iterator[None]:
    """Turn what a database that is away, or refuses, raises into a failure that says what to do."""
    from sqlalchemy.exc import SQLAlchemyError

    from dalang.store.engine import is_connection_error, sql_state
    from dalang.store.row_security import NoSystemRole

    try:
        yield
    except NoSystemRole as error:
        raise CommandFailure("NO_SYSTEM_ROLE", str(error), hint="Then run `dalang db upgrade` again.") from None
    except (SQLAlchemyError, OSError) as error:
        place = _place(url)
        if is_connection_error(error):
            hint = "Start it (`dalang up` runs one), or set DALANG_MIGRATION_DATABASE_URL to where it is."
            raise Unreachable(f"The database at {place} does not answer.", hint=hint) from None
        cause: Any = getattr(error, "orig", None) or error
        state = sql_state(cause)
        if state == "42P01":
            raise CommandFailure(
                "NOT_MIGRATED",
                f"The database at {place} has no tables of Dalang.",
                hint="Run `dalang db upgrade` first.",
            ) from None
        raise CommandFailure("DATABASE", f"The database at {place} refuses: {cause}") from None


def _place(url: str) -> str:
    """Return host, port and database of a URL, without its password."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"
