"""What the doctor asks PostgreSQL: whether it is the right one, who we are there, and how far behind we are."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from dalang.doctor.findings import FAIL, OK, WARN, Finding, by_limits
from dalang.store.engine import system_transaction
from dalang.store.migrations import current_revision, newest_revision

OLDEST_POSTGRES = 15
SKEW_SECONDS = (1.0, 10.0)
LAG_SECONDS = (5.0, 60.0)
LEFT_SECONDS = 60

_ROLE = text(
    "SELECT current_user AS name, r.rolsuper OR r.rolbypassrls AS bypasses, "
    "(SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    " WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') AND c.relowner = r.oid) AS owns "
    "FROM pg_roles r WHERE r.rolname = current_user"
)
_UNLOCKED = text(
    "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped "
    "WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') AND NOT c.relrowsecurity ORDER BY 1"
)
_RIGHTS = text(
    "SELECT has_table_privilege('run_events', 'INSERT') AS adds, "
    "has_table_privilege('run_events', 'DELETE') AS deletes, "
    "has_table_privilege('execution_runs', 'SELECT, INSERT, UPDATE') AS runs"
)
_LAG = text(
    "SELECT coalesce(extract(epoch FROM max(recorded_at - at)), 0) FROM "
    "(SELECT recorded_at, at FROM run_events ORDER BY transaction_id DESC, position DESC LIMIT 500) latest "
    "WHERE recorded_at > now() - interval '10 minutes'"
)
_LEFT = text(
    "SELECT count(*) FROM execution_runs WHERE completed_at IS NULL AND temporal_run_id IS NULL "
    "AND created_at < now() - make_interval(secs => :seconds)"
)


async def examine_database(engine: AsyncEngine) -> Sequence[Finding]:
    """Look at the database as the role of workers and API servers."""
    async with engine.begin() as conn:  # as ourselves: whose role it is, is the question
        found = [await _version(conn), await _skew(conn)]
        revision, newest = await current_revision(conn), newest_revision()
        if revision != newest:
            what = f"its tables are at {revision or 'nothing'}, this version needs {newest}"
            do = "Run `dalang db upgrade` with DALANG_MIGRATION_DATABASE_URL; a newer database needs a newer Dalang."
            return [*found, Finding("migrations", FAIL, what, do)]
        found.append(Finding("migrations", OK, f"at {newest}"))
        found += [*await _role(conn), await _rows(conn)]
    async with system_transaction(engine) as conn:
        return [*found, *await _behind(conn)]


async def _version(conn: AsyncConnection) -> Finding:
    version = str((await conn.execute(text("SHOW server_version"))).scalar_one())
    if int(version.partition(".")[0]) >= OLDEST_POSTGRES:
        return Finding("postgres", OK, f"PostgreSQL {version}")
    return Finding("postgres", FAIL, f"PostgreSQL {version}", f"Dalang needs {OLDEST_POSTGRES} or later.")


async def _skew(conn: AsyncConnection) -> Finding:
    """Compare the clocks, taking the middle of the question as the moment of the answer."""
    before = time.time()
    theirs = float((await conn.execute(text("SELECT extract(epoch FROM clock_timestamp())"))).scalar_one())
    skew = abs(theirs - (before + time.time()) / 2)
    do = "Keep the clocks of all machines in step (NTP): due dates, leases and sessions compare them."
    return by_limits("clock", skew, *SKEW_SECONDS, f"{skew:.1f} s apart from the database's", do)


async def _role(conn: AsyncConnection) -> Sequence[Finding]:
    role = (await conn.execute(_ROLE)).one()
    rights = (await conn.execute(_RIGHTS)).one()
    found = []
    if not (rights.adds and rights.runs):
        do = "Run `dalang db upgrade`, which grants what dalang_app needs, or connect as that role."
        found.append(Finding("rights", FAIL, f"{role.name} may not write runs and events", do))
    elif role.bypasses or role.owns or rights.deletes:
        what = f"{role.name} could change or remove what happened"
        do = "Let workers and API servers connect as dalang_app (deploy/postgres-roles.sh), which owns nothing."
        found.append(Finding("rights", WARN, what, do))
    else:
        found.append(Finding("rights", OK, f"{role.name} may add events, and neither change nor remove them"))
    return found


async def _rows(conn: AsyncConnection) -> Finding:
    """Tell whether row level security is on for all tables whose rows belong to tenants."""
    unlocked = [str(name) for name in (await conn.execute(_UNLOCKED)).scalars()]
    if not unlocked:
        return Finding("row security", OK, "on for all tables of tenants")
    what = f"off for {len(unlocked)} tables of tenants: {', '.join(unlocked[:3])}{' ...' if len(unlocked) > 3 else ''}"
    return Finding("row security", WARN, what, "Queries name the tenant all the same; this is the second lock only.")


async def _behind(conn: AsyncConnection) -> Sequence[Finding]:
    lag = max(float((await conn.execute(_LAG)).scalar_one()), 0.0)
    left = int((await conn.execute(_LEFT, {"seconds": LEFT_SECONDS})).scalar_one())
    do = "Events wait: look at the workers' log for `record`, and at the database's load."
    found = [by_limits("projection", lag, *LAG_SECONDS, f"events are stored {lag:.1f} s late at most", do)]
    if left:
        what = f"{left} runs wait to be started for more than {LEFT_SECONDS} s"
        found.append(
            Finding("starting", WARN, what, "An API server starts them as soon as Temporal answers: is one up?")
        )
    return found
