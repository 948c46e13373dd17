"""The only way to delete runs: finished ones, whole, with their heads kept.

A function of the owner rather than a DELETE privilege, because with the privilege whoever takes over a worker could
remove single events, or those of a run that is still going on; here the database decides what may go.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NAME = "dalang_delete_finished_runs(text, timestamptz, integer)"


def upgrade() -> None:
    """Apply."""
    op.execute("""
    CREATE FUNCTION dalang_delete_finished_runs(of_tenant text, finished_before timestamptz, at_most integer)
    RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    DECLARE
        victims uuid[];
    BEGIN
        SELECT array_agg(run_id) INTO victims FROM (
            SELECT run_id FROM execution_runs
            WHERE completed_at < least(finished_before, now()) AND (of_tenant IS NULL OR tenant_id = of_tenant)
            ORDER BY completed_at LIMIT at_most FOR UPDATE SKIP LOCKED
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
    """)
    op.execute(f"REVOKE EXECUTE ON FUNCTION {_NAME} FROM PUBLIC")


def downgrade() -> None:
    """Undo."""
    op.execute(f"DROP FUNCTION {_NAME}")
