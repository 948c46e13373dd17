"""Labels of deleted runs go one by one, by their key: joined with all labels, PostgreSQL read all of them."""

from __future__ import annotations

from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

_KEY = """own.name = label.name AND own.value = label.value AND own.created_at = {row}.created_at
                AND own.run_id = {row}.run_id AND own.tenant_id = {row}.tenant_id"""


def _define(body: str) -> None:
    op.execute(f"""
    CREATE OR REPLACE FUNCTION dalang_unlabel_runs() RETURNS trigger LANGUAGE plpgsql AS $$
    {body}
    $$
    """)


def upgrade() -> None:
    """Apply."""
    _define(f"""DECLARE
        label record;
    BEGIN
        FOR label IN SELECT gone.tenant_id, gone.created_at, gone.run_id, found.name, found.value
            FROM gone, dalang_labels(gone.metadata) AS found
        LOOP
            DELETE FROM run_labels AS own WHERE {_KEY.format(row="label")};
        END LOOP;
        RETURN NULL;
    END""")  # noqa: S608 - constants of this file


def downgrade() -> None:
    """Undo."""
    _define(f"""BEGIN
        DELETE FROM run_labels AS own USING gone, dalang_labels(gone.metadata) AS label
        WHERE {_KEY.format(row="gone")};
        RETURN NULL;
    END""")  # noqa: S608 - constants of this file
