"""Runs below nodes: where their idempotency keys begin; and none is deleted before the run at the top has ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_TOP_HAS_ENDED = """
    AND NOT EXISTS (
        SELECT FROM execution_runs AS top
        WHERE top.tenant_id = run.tenant_id AND top.run_id = run.top_run_id AND top.completed_at IS NULL
    )
"""


def _define(condition: str) -> None:
    op.execute(f"""
    CREATE OR REPLACE FUNCTION dalang_delete_finished_runs(
        of_tenant text, finished_before timestamptz, at_most integer)
    RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    DECLARE
        victims uuid[];
    BEGIN
        SELECT array_agg(run_id) INTO victims FROM (
            SELECT run.run_id FROM execution_runs AS run
            WHERE run.completed_at < least(finished_before, now())
                AND (of_tenant IS NULL OR run.tenant_id = of_tenant) {condition}
            ORDER BY run.completed_at LIMIT at_most FOR UPDATE SKIP LOCKED
        ) AS chosen;
        IF victims IS NULL THEN
            RETURN 0;
        END IF;
        INSERT INTO retired_runs
            (tenant_id, run_id, plan_name, status, created_at, completed_at, head_epoch, head_seq, head_hash)
        SELECT tenant_id, run_id, plan_name, status, created_at, completed_at, head_epoch, head_seq, head_hash
        FROM execution_runs WHERE run_id = ANY(victims);
        DELETE FROM event_bodies WHERE run_id = ANY(victims);
        DELETE FROM run_events WHERE run_id = ANY(victims);
        DELETE FROM node_attempts WHERE run_id = ANY(victims);
        DELETE FROM node_executions WHERE run_id = ANY(victims);
        DELETE FROM body_references WHERE run_id = ANY(victims);
        DELETE FROM execution_runs WHERE run_id = ANY(victims);
        RETURN cardinality(victims);
    END
    $$
    """)  # noqa: S608 - the condition is one of the two above


def upgrade() -> None:
    """Apply."""
    op.add_column("execution_runs", sa.Column("key_root", sa.Text()))
    _define(_TOP_HAS_ENDED)


def downgrade() -> None:
    """Undo."""
    _define("")
    op.drop_column("execution_runs", "key_root")
