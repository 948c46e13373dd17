"""Row level security: the second lock between tenants, behind the queries, which all name their tenant.

Theory of operation. A transaction says whose it is (``engine.transaction`` sets ``app.tenant_id`` until it ends), and
the policy ``tenant`` of every table shows the processes' role the rows of that tenant and takes no others: a query that
forgot its tenant finds nothing of anybody else. Without a tenant there is nothing at all. Jobs of the whole system take
the role ``dalang_system`` for a transaction (``engine.system_transaction``), whom the policy ``system`` lets see
everything; the processes' role may take it but inherits nothing from it, so that nobody sees all by oversight. For that
role the policies are no condition at all, and for the other one they are an equality with a value that is known before
the plan is made, which indexes serve.

The policies are put right after every migration, as privileges are: a table with a tenant gets them by having one, and
``WITHOUT_TENANT`` is what has none. The owner of the tables is not bound (no FORCE): as him run migrations, backups
and the functions that delete, and no process of ours.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from dalang.store.engine import SYSTEM_ROLE, TENANT_SETTING

WITHOUT_TENANT = {
    "payload_blobs": "What Temporal holds, by the digest of its content: a history names what it needs, nobody lists "
    "them, and Temporal asks without a tenant.",
    "event_feed": "One row: how far the feed of all events was read.",
    "alembic_version": "One row: the version of the tables.",
}
"""Tables that are no tenant's, and why. What else has no ``tenant_id`` fails a test."""

SHARED = ("resource_pools", "pool_buckets", "agents")
"""Tables of which rows with the tenant '' are everybody's to read; to change them takes ``across_tenants``."""

APP_ROLE = "dalang_app"
_TENANT = f"(SELECT nullif(current_setting('{TENANT_SETTING}', true), ''))"
_TABLES = text(
    "SELECT c.relname, c.relrowsecurity FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
    "WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') "
    "AND a.attname = 'tenant_id' AND NOT a.attisdropped ORDER BY 1"
)
_POLICIES = text("SELECT tablename, policyname FROM pg_policies WHERE schemaname = current_schema()")


class NoSystemRole(RuntimeError):
    """The processes have a role of their own, and there is none for the jobs of the whole system."""


def enforce(connection: Connection) -> None:
    """Give every table with a tenant its policies; changes nothing where they are right.

    Raises:
        NoSystemRole: see there; the processes' jobs would see nothing.
    """
    system = _has_system_role(connection)
    known: dict[str, set[str]] = {}
    for table, policy in connection.execute(_POLICIES):
        known.setdefault(table, set()).add(policy)
    for table, is_on in connection.execute(_TABLES).all():
        for name, terms in _policies(table, system=system).items():
            if name not in known.get(table, ()):
                connection.execute(text(f"CREATE POLICY {name} ON {table} {terms}"))
        if not is_on:
            connection.execute(text(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"))


def relax(connection: Connection) -> None:
    """Take all policies away, for a version that knows nothing of them."""
    for table, policy in connection.execute(_POLICIES).all():
        connection.execute(text(f"DROP POLICY {policy} ON {table}"))
    for table in connection.execute(_TABLES).scalars().all():
        connection.execute(text(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"))


def _policies(table: str, *, system: bool) -> dict[str, str]:
    own = f"tenant_id = {_TENANT}"
    made = {"tenant": f"USING ({own}) WITH CHECK ({own})"}
    if table in SHARED:
        made["shared"] = f"FOR SELECT USING (tenant_id = '' AND {_TENANT} IS NOT NULL)"
    if system:
        made["system"] = f"TO {SYSTEM_ROLE} USING (true) WITH CHECK (true)"
    return made


def _has_system_role(connection: Connection) -> bool:
    """Tell whether there is a role for the system's jobs; one that is missing is made where we may make one."""
    names = {"app": APP_ROLE, "system": SYSTEM_ROLE}
    exists = text("SELECT 1 FROM pg_roles WHERE rolname = :role AND rolname <> current_user")
    has_app = connection.execute(exists, {"role": APP_ROLE}).first() is not None
    has_system = connection.execute(exists, {"role": SYSTEM_ROLE}).first() is not None
    if not has_app:
        return has_system  # one role owns everything and is bound by nothing
    if has_system and connection.execute(text("SELECT pg_has_role(:app, :system, 'MEMBER')"), names).scalar_one():
        return True
    may = text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
    if not connection.execute(may).scalar_one():
        raise NoSystemRole(
            f"The database has no role {SYSTEM_ROLE} that {APP_ROLE} may take. Somebody who may make roles has to say: "
            f"CREATE ROLE {SYSTEM_ROLE} NOLOGIN; GRANT {SYSTEM_ROLE} TO {APP_ROLE} WITH INHERIT FALSE;"
        )
    if not has_system:
        connection.execute(text(f"CREATE ROLE {SYSTEM_ROLE} NOLOGIN"))
    connection.execute(text(f"GRANT {SYSTEM_ROLE} TO {APP_ROLE} WITH INHERIT FALSE"))
    return True
