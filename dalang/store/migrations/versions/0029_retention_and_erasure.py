"""Deleted runs keep the signature of their head; a tenant is erased by a function that leaves what proves things."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

_KEPT = "'retired_runs', 'audit_anchors', 'audit_anchor_heads', 'system_events', 'system_heads', 'tenant_erasures'"


def _define(columns: str, values: str) -> None:
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
                AND (of_tenant IS NULL OR run.tenant_id = of_tenant)
                AND NOT EXISTS (
                    SELECT FROM execution_runs AS top
                    WHERE top.tenant_id = run.tenant_id AND top.run_id = run.top_run_id AND top.completed_at IS NULL
                )
            ORDER BY run.completed_at LIMIT at_most FOR UPDATE SKIP LOCKED
        ) AS chosen;
        IF victims IS NULL THEN
            RETURN 0;
        END IF;
        INSERT INTO retired_runs (tenant_id, run_id, plan_name, status, created_at, completed_at,
            head_epoch, head_seq, head_hash {columns})
        SELECT tenant_id, run_id, plan_name, status, created_at, completed_at,
            head_epoch, head_seq, head_hash {values}
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


def upgrade() -> None:
    """Apply."""
    op.add_column("retired_runs", sa.Column("head_signature", sa.Text()))
    op.add_column("retired_runs", sa.Column("events", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.create_table(
        "tenant_erasures",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("certificate", postgresql.JSONB(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "number", name="pk_tenant_erasures"),
        sa.CheckConstraint("number > 0", name="number"),
        comment="Append-only: that a tenant was erased, of what there was how much, and the signature that proves it.",
    )
    count = "(SELECT count(*) FROM run_events AS event WHERE event.run_id = run.run_id)"
    _define(", head_signature, events", f", head_signature, {count}")
    op.execute(f"""
    CREATE FUNCTION dalang_erase_tenant(of_tenant text, tables text[], kept_token uuid)
    RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    DECLARE
        victim text;
    BEGIN
        IF EXISTS (SELECT FROM execution_runs WHERE tenant_id = of_tenant) THEN
            RAISE EXCEPTION 'tenant % has runs', of_tenant;
        END IF;
        FOREACH victim IN ARRAY tables LOOP
            IF victim IN ({_KEPT}) THEN
                RAISE EXCEPTION 'table % is kept', victim;
            ELSIF victim = 'api_tokens' THEN
                DELETE FROM api_tokens WHERE tenant_id = of_tenant AND token_id IS DISTINCT FROM kept_token;
            ELSE
                EXECUTE format('DELETE FROM %I WHERE tenant_id = $1', victim) USING of_tenant;
            END IF;
        END LOOP;
        UPDATE retired_runs SET plan_name = '' WHERE tenant_id = of_tenant;
    END
    $$
    """)  # noqa: S608 - constants of this file
    op.execute("REVOKE EXECUTE ON FUNCTION dalang_erase_tenant(text, text[], uuid) FROM PUBLIC")


def downgrade() -> None:
    """Undo."""
    op.execute("DROP FUNCTION dalang_erase_tenant(text, text[], uuid)")
    _define("", "")
    op.drop_table("tenant_erasures")
    op.drop_column("retired_runs", "events")
    op.drop_column("retired_runs", "head_signature")
