"""Bringing a database to this version's tables, and what the processes' role may do with them.

Migrations run as the owner of the tables, all in one transaction, behind an advisory lock: processes that start at
the same time wait for the first. The role ``dalang_app``, if there is one, gets exactly the privileges below. It may
add events but neither change nor remove them; the only way to delete a run is the function
``dalang_delete_finished_runs``, which runs as the owner and takes nothing but finished runs, whole, leaving their
heads behind.
A plain PostgreSQL with one role for everything works too, without that protection.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store import migrations
from dalang.store.engine import SYSTEM_ROLE, create_engine
from dalang.store.migrations import current_revision, newest_revision
from dalang.store.row_security import APP_ROLE, enforce

PRIVILEGES = {
    "plan_documents": "SELECT, INSERT",
    "plan_graphs": "SELECT, INSERT",
    "plan_pieces": "SELECT, INSERT",
    "plan_outlines": "SELECT, INSERT",
    "plans": "SELECT, INSERT",
    "execution_runs": "SELECT, INSERT, UPDATE",
    "node_executions": "SELECT, INSERT, UPDATE, DELETE",
    "run_revisions": "SELECT, INSERT, UPDATE, DELETE",
    "tenant_budgets": "SELECT, INSERT, UPDATE, DELETE",
    "tenant_usage": "SELECT, INSERT, UPDATE",
    "artifacts": "SELECT, INSERT, UPDATE, DELETE",
    "human_tasks": "SELECT, INSERT, UPDATE, DELETE",
    "a2a_tasks": "SELECT, INSERT, UPDATE (answered)",
    "a2a_messages": "SELECT, INSERT, DELETE",
    "a2a_push_configs": "SELECT, INSERT, UPDATE, DELETE",
    "run_events": "SELECT, INSERT, UPDATE (superseded)",
    "event_bodies": "SELECT, INSERT, DELETE",
    "bodies": "SELECT, INSERT, UPDATE, DELETE",
    "body_references": "SELECT, INSERT, DELETE",
    "node_attempts": "SELECT, INSERT, UPDATE",
    "node_logs": "SELECT, INSERT, DELETE",
    "run_checkpoints": "SELECT, INSERT, DELETE",
    "node_checkpoints": "SELECT, INSERT, UPDATE, DELETE",
    "payload_blobs": "SELECT, INSERT, UPDATE, DELETE",
    "api_tokens": "SELECT, INSERT, UPDATE",
    "browser_sessions": "SELECT, INSERT, UPDATE, DELETE",
    "sign_in_tickets": "SELECT, INSERT, DELETE",
    "retired_runs": "SELECT",
    "run_labels": "SELECT, INSERT, DELETE",
    "tallies": "SELECT, INSERT, UPDATE, DELETE",
    "schedules": "SELECT, INSERT, UPDATE, DELETE",
    "resource_pools": "SELECT, INSERT, UPDATE, DELETE",
    "pool_buckets": "SELECT, INSERT, UPDATE, DELETE",
    "tenant_quotas": "SELECT, INSERT, UPDATE, DELETE",
    "agents": "SELECT, INSERT, UPDATE, DELETE",
    "agent_assignments": "SELECT, INSERT, UPDATE",
    "leases": "SELECT, INSERT, UPDATE, DELETE",
    "circuit_breakers": "SELECT, INSERT, UPDATE, DELETE",
    "episodes": "SELECT, INSERT, UPDATE, DELETE",
    "episode_cursors": "SELECT, INSERT, UPDATE",
    "cortex_tasks": "SELECT, INSERT, UPDATE",
    "memory_sessions": "SELECT, INSERT, UPDATE, DELETE",
    "external_events": "SELECT, INSERT, UPDATE, DELETE",
    "event_waits": "SELECT, INSERT, UPDATE, DELETE",
    "event_deliveries": "SELECT, INSERT, UPDATE",
    "callbacks": "SELECT, INSERT, UPDATE",
    "event_subscriptions": "SELECT, INSERT, UPDATE, DELETE",
    "event_publications": "SELECT, INSERT, UPDATE, DELETE",
    "event_dead_letters": "SELECT, INSERT, UPDATE, DELETE",
    "event_feed": "SELECT, UPDATE",
    "audit_anchors": "SELECT, INSERT",
    "audit_anchor_heads": "SELECT, INSERT",
    "tenant_erasures": "SELECT, INSERT",
    "system_events": "SELECT, INSERT",
    "system_heads": "SELECT, INSERT, UPDATE",
    "alembic_version": "SELECT",
}
_DELETING = (
    "dalang_delete_finished_runs(text, timestamptz, integer)",
    "dalang_erase_tenant(text, text[], uuid)",
)
_LOCK = 0x64616C616E67
"""The advisory lock of migrations: "dalang" in ASCII."""


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database to ``revision`` as its owner and put the privileges right; does nothing the second time.

    Safe when several processes call it at once. It may be called from code that runs in an event loop, which it blocks.
    """
    _run(lambda: _migrated(url, "upgrade", revision))


def downgrade(url: str, revision: str) -> None:
    """Take the database back to ``revision`` (``base``: nothing is left, data included)."""
    _run(lambda: _migrated(url, "downgrade", revision))


def _alembic(connection: Connection, step: Literal["upgrade", "downgrade"], revision: str) -> None:
    from alembic import command  # here, for most starts need none of it
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    getattr(command, step)(config, revision)


async def _migrated(url: str, step: Literal["upgrade", "downgrade"], revision: str) -> None:
    engine = create_engine(url, statement_timeout=0, pooled=False)
    try:
        async with engine.begin() as conn:
            await conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            if revision != "head" or await current_revision(conn) != newest_revision():
                await conn.run_sync(_alembic, step, revision)
            if await current_revision(conn) == newest_revision():
                await conn.run_sync(enforce)
            if await current_revision(conn) is not None:
                await _grant(conn)
    finally:
        await engine.dispose()


async def _grant(conn: AsyncConnection) -> None:
    """Give the processes' roles their privileges and no other; nothing where there is no such role, or we are it."""
    known = text("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
    tables = {row.tablename for row in await conn.execute(known)}
    for role in (APP_ROLE, SYSTEM_ROLE):
        exists = text("SELECT 1 FROM pg_roles WHERE rolname = :role AND rolname <> current_user")
        if (await conn.execute(exists, {"role": role})).first() is None:
            continue
        statements = [f"REVOKE ALL ON {table} FROM {role}" for table in PRIVILEGES if table in tables]
        statements += [f"GRANT {what} ON {table} TO {role}" for table, what in PRIVILEGES.items() if table in tables]
        for statement in statements:
            await conn.execute(text(statement))
    if await current_revision(conn) == newest_revision():
        await _grant_deletion(conn)


async def _grant_deletion(conn: AsyncConnection) -> None:
    """Let only the system's role delete runs and tenants: the functions take those of any tenant."""
    exists = text("SELECT 1 FROM pg_roles WHERE rolname = :role AND rolname <> current_user")
    for function in _DELETING:
        await conn.execute(text(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC"))
        for role, verb, to in ((APP_ROLE, "REVOKE", "FROM"), (SYSTEM_ROLE, "GRANT", "TO")):
            if (await conn.execute(exists, {"role": role})).first() is not None:
                await conn.execute(text(f"{verb} EXECUTE ON FUNCTION {function} {to} {role}"))


def _run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``main`` in a loop of its own: in a thread, because this thread may have one already."""
    failures: list[BaseException] = []

    def target() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=target, name="dalang-migrate")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
