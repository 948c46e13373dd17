"""Everything Dalang keeps in PostgreSQL: SQLAlchemy Core over asyncpg, one module of named queries per aggregate.

A query is an async function that answers one question; it takes an open connection first and the tenant second. Where
``None`` is accepted for the tenant, the caller is a process that serves all tenants (reconciler, retention).
"""
