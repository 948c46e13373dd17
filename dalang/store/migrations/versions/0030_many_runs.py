"""A million runs: what ended is counted when it ends, lists have the indexes they ask for, retention goes by tenant."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

# Nodes that did something, of the counts that a run's row holds.
_NODES = (
    "(SELECT coalesce(sum(value::bigint), 0) FROM jsonb_each_text(run.node_status_counts)"
    " WHERE key NOT IN ('PENDING', 'QUEUED', 'SKIPPED', 'CANCELLED'))"
)
_MILLISECONDS = "coalesce(greatest(extract(epoch FROM run.completed_at - run.started_at) * 1000, 0), 0)"
_OF_RUN = f"""
    SELECT run.tenant_id, CASE WHEN run.parent_run_id IS NULL THEN 'run' ELSE 'child' END, run.status,
        date_trunc('hour', run.completed_at, 'UTC'), sum(sign), sum(sign * {_MILLISECONDS}), sum(sign * {_NODES}),
        sum(sign * run.retry_count)
"""
_OF_TASK = """
    SELECT task.tenant_id, 'task', task.status, date_trunc('hour', task.completed_at, 'UTC'), sum(sign), 0, 0, 0
"""
_INTO = "INSERT INTO tallies (tenant_id, what, status, hour, count, milliseconds, nodes, retries)"
_TABLES = {
    "execution_runs": ("run", _OF_RUN, ("status", "completed_at", "started_at", "retry_count", "node_status_counts")),
    "human_tasks": ("task", _OF_TASK, ("status", "completed_at")),
}


_DELETE_OF = """
            SELECT array_agg(run_id) INTO victims FROM (
                SELECT run.run_id FROM execution_runs AS run
                WHERE {of_tenant} run.completed_at < least(finished_before, now())
                    AND NOT EXISTS (
                        SELECT FROM execution_runs AS top
                        WHERE top.tenant_id = run.tenant_id AND top.run_id = run.top_run_id AND top.completed_at IS NULL
                    )
                ORDER BY run.completed_at LIMIT at_most FOR UPDATE SKIP LOCKED
            ) AS chosen;
"""


def _deletion(chosen: str) -> None:
    op.execute(f"""
    CREATE OR REPLACE FUNCTION dalang_delete_finished_runs(
        of_tenant text, finished_before timestamptz, at_most integer)
    RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    DECLARE
        victims uuid[];
    BEGIN
        {chosen}
        IF victims IS NULL THEN
            RETURN 0;
        END IF;
        INSERT INTO retired_runs (tenant_id, run_id, plan_name, status, created_at, completed_at,
            head_epoch, head_seq, head_hash, head_signature, events)
        SELECT tenant_id, run_id, plan_name, status, created_at, completed_at,
            head_epoch, head_seq, head_hash, head_signature,
            (SELECT count(*) FROM run_events AS event WHERE event.run_id = run.run_id)
        FROM execution_runs AS run WHERE run_id = ANY(victims);
        DELETE FROM event_bodies WHERE run_id = ANY(victims);
        DELETE FROM run_events WHERE run_id = ANY(victims);
        DELETE FROM node_attempts WHERE run_id = ANY(victims);
        DELETE FROM node_executions WHERE run_id = ANY(victims);
        DELETE FROM body_references WHERE run_id = ANY(victims);
        DELETE FROM execution_runs WHERE run_id = ANY(victims);
        RETURN cardinality(victims);
    END
    $$
    """)  # noqa: S608 - constants of this file


def _tally(table: str) -> None:
    """Let every change of what ended add to the tallies, by rows of its own: nobody waits for anybody."""
    alias, counted, columns = _TABLES[table]
    name = f"dalang_tally_{table}"
    ended = f"WHERE {alias}.completed_at IS NOT NULL GROUP BY 1, 2, 3, 4"
    old, new = ("(" + ", ".join(f"{row}.{one}" for one in columns) + ")" for row in ("OLD", "NEW"))
    op.execute(f"""
    CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' THEN
            {_INTO} {counted} FROM gone AS {alias}, (SELECT -1) AS s (sign) {ended};
        ELSIF TG_OP = 'INSERT' THEN
            {_INTO} {counted} FROM (SELECT NEW.*) AS {alias}, (SELECT 1) AS s (sign) {ended};
        ELSE
            {_INTO} {counted} FROM (SELECT OLD.*, -1 AS sign UNION ALL SELECT NEW.*, 1) AS {alias} {ended};
        END IF;
        RETURN NULL;
    END
    $$
    """)  # noqa: S608 - constants of this file
    op.execute(
        f"CREATE TRIGGER tally_insert AFTER INSERT ON {table} FOR EACH ROW WHEN (NEW.completed_at IS NOT NULL)"
        f" EXECUTE FUNCTION {name}()"
    )
    op.execute(
        f"CREATE TRIGGER tally_update AFTER UPDATE ON {table} FOR EACH ROW WHEN"
        f" ((OLD.completed_at IS NOT NULL OR NEW.completed_at IS NOT NULL) AND {old} IS DISTINCT FROM {new})"
        f" EXECUTE FUNCTION {name}()"
    )
    op.execute(
        f"CREATE TRIGGER tally_delete AFTER DELETE ON {table} REFERENCING OLD TABLE AS gone FOR EACH STATEMENT"
        f" EXECUTE FUNCTION {name}()"
    )


def _tally_again() -> None:
    """Make the function that counts everything anew; nothing can end meanwhile. Called once here, and after repairs."""
    every = " UNION ALL ".join(
        f"({counted} FROM {table} AS {alias}, (SELECT 1) AS s (sign) WHERE {alias}.completed_at IS NOT NULL"
        " GROUP BY 1, 2, 3, 4)"
        for table, (alias, counted, _) in _TABLES.items()
    )
    op.execute(f"""
    CREATE FUNCTION dalang_tally_again() RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        LOCK TABLE {", ".join(_TABLES)} IN SHARE ROW EXCLUSIVE MODE;
        DELETE FROM tallies;
        {_INTO} {every};
    END
    $$
    """)  # noqa: S608 - constants of this file
    op.execute("REVOKE EXECUTE ON FUNCTION dalang_tally_again() FROM PUBLIC")
    op.execute("SELECT dalang_tally_again()")


def _labels() -> None:
    """Keep the labels of runs, which are what their metadata says in a word, where an ordered index finds them."""
    op.create_table(
        "run_labels",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "name", "value", "created_at", "run_id", name="pk_run_labels"),
        comment="The metadata of runs that are texts, numbers, true, false or null, by their first 200 characters: for "
        "lists. Made and deleted with the run, by triggers.",
    )
    op.execute("""
    CREATE FUNCTION dalang_labels(metadata jsonb) RETURNS TABLE (name text, value text) LANGUAGE sql IMMUTABLE AS $$
        SELECT DISTINCT left(key, 200), left(CASE jsonb_typeof(value)
            WHEN 'number' THEN trim_scale((value #>> '{}')::numeric)::text
            WHEN 'null' THEN 'null' ELSE value #>> '{}' END, 200)
        FROM jsonb_each(CASE jsonb_typeof(metadata) WHEN 'object' THEN metadata ELSE '{}' END)
        WHERE jsonb_typeof(value) NOT IN ('object', 'array')
    $$
    """)
    op.execute("""
    CREATE FUNCTION dalang_label_run() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'UPDATE' THEN
            DELETE FROM run_labels AS own USING dalang_labels(OLD.metadata) AS label
            WHERE own.tenant_id = OLD.tenant_id AND own.name = label.name AND own.value = label.value
                AND own.created_at = OLD.created_at AND own.run_id = OLD.run_id;
        END IF;
        INSERT INTO run_labels SELECT NEW.tenant_id, label.name, label.value, NEW.created_at, NEW.run_id
        FROM dalang_labels(NEW.metadata) AS label;
        RETURN NULL;
    END
    $$
    """)
    op.execute("""
    CREATE FUNCTION dalang_unlabel_runs() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM run_labels AS own USING gone, dalang_labels(gone.metadata) AS label
        WHERE own.tenant_id = gone.tenant_id AND own.name = label.name AND own.value = label.value
            AND own.created_at = gone.created_at AND own.run_id = gone.run_id;
        RETURN NULL;
    END
    $$
    """)
    op.execute(
        "CREATE TRIGGER label_insert AFTER INSERT ON execution_runs FOR EACH ROW WHEN (NEW.metadata <> '{}')"
        " EXECUTE FUNCTION dalang_label_run()"
    )
    op.execute(
        "CREATE TRIGGER label_update AFTER UPDATE ON execution_runs FOR EACH ROW WHEN (OLD.metadata <> NEW.metadata)"
        " EXECUTE FUNCTION dalang_label_run()"
    )
    op.execute(
        "CREATE TRIGGER label_delete AFTER DELETE ON execution_runs REFERENCING OLD TABLE AS gone FOR EACH STATEMENT"
        " EXECUTE FUNCTION dalang_unlabel_runs()"
    )
    op.execute(
        "INSERT INTO run_labels SELECT tenant_id, label.name, label.value, created_at, run_id"
        " FROM execution_runs, dalang_labels(metadata) AS label"
    )


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "tallies",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True)),
        sa.Column("count", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("milliseconds", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("nodes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("retries", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("folded", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_tallies"),
        comment="What ended, counted: by tenant, what (run, child, task), status, and hour of the end. Triggers add a "
        "row for what changes; a job adds these to that of their hour, and to that of all time, whose hour is null.",
    )
    op.create_index(
        "ix_tallies_folded",
        "tallies",
        ["tenant_id", "what", "status", "hour"],
        unique=True,
        postgresql_where=sa.text("folded"),
        postgresql_nulls_not_distinct=True,
    )
    op.create_index(
        "ix_tallies_totals", "tallies", ["tenant_id", "what"], postgresql_where=sa.text("folded AND hour IS NULL")
    )
    op.create_index("ix_tallies_new", "tallies", ["tenant_id", "number"], postgresql_where=sa.text("NOT folded"))
    for table in _TABLES:
        _tally(table)
    _tally_again()
    runs = "execution_runs"
    op.create_index("ix_execution_runs_plan_name", runs, ["tenant_id", "plan_name", "status", "created_at", "run_id"])
    op.create_index("ix_execution_runs_status", runs, ["tenant_id", "status", "created_at", "run_id"])
    op.drop_index("ix_execution_runs_tenant_id_status_created_at", runs)
    op.create_index("ix_execution_runs_plan", runs, ["tenant_id", "plan_id", "status", "created_at", "run_id"])
    op.drop_index("ix_execution_runs_tenant_id_plan_id_created_at", runs)
    op.create_index(
        "ix_execution_runs_ended",
        runs,
        ["tenant_id", "completed_at"],
        postgresql_include=["status", "parent_run_id"],
        postgresql_where=sa.text("completed_at IS NOT NULL"),
    )
    op.create_index(
        "ix_human_tasks_urgent", "human_tasks", ["tenant_id", sa.text("priority DESC"), "created_at", "task_id"]
    )
    _labels()
    # One statement for each case: a condition that may or may not ask for the tenant is served by no index.
    ways = [_DELETE_OF.format(of_tenant=condition) for condition in ("", "run.tenant_id = of_tenant AND")]
    _deletion(f"IF of_tenant IS NULL THEN {ways[0]} ELSE {ways[1]} END IF;")


def downgrade() -> None:
    """Undo."""
    _deletion(_DELETE_OF.format(of_tenant="(of_tenant IS NULL OR run.tenant_id = of_tenant) AND"))
    runs = "execution_runs"
    for trigger in ("insert", "update", "delete"):
        op.execute(f"DROP TRIGGER label_{trigger} ON {runs}")
    for function in ("dalang_unlabel_runs()", "dalang_label_run()", "dalang_labels(jsonb)"):
        op.execute(f"DROP FUNCTION {function}")
    op.drop_table("run_labels")
    op.drop_index("ix_human_tasks_urgent", "human_tasks")
    for index in ("ended", "plan", "status", "plan_name"):
        op.drop_index(f"ix_execution_runs_{index}", runs)
    op.create_index("ix_execution_runs_tenant_id_plan_id_created_at", runs, ["tenant_id", "plan_id", "created_at"])
    op.create_index("ix_execution_runs_tenant_id_status_created_at", runs, ["tenant_id", "status", "created_at"])
    for table in _TABLES:
        for trigger in ("insert", "update", "delete"):
            op.execute(f"DROP TRIGGER tally_{trigger} ON {table}")
        op.execute(f"DROP FUNCTION dalang_tally_{table}()")
    op.execute("DROP FUNCTION dalang_tally_again()")
    op.drop_table("tallies")
