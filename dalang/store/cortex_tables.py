"""The table of tasks of a Cortex (``cortex_tasks.py``)."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Integer, PrimaryKeyConstraint, Table, Text, Uuid, text

from dalang.store.columns import metadata, moment, number, of_run, tenant

cortex_tasks = Table(
    "cortex_tasks",
    metadata,
    tenant(),
    Column("run_id", Uuid, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("task_id", Text),
    Column("told", Text, nullable=False, server_default=text("''")),
    Column("head_epoch", Integer, nullable=False, server_default=text("0")),
    Column("head_seq", BigInteger, nullable=False, server_default=text("0")),
    number("failures"),
    moment("again_at", default=True),
    moment("ended_at"),
    PrimaryKeyConstraint("run_id", "node_id"),
    of_run(cascade=True),
    CheckConstraint("failures >= 0", "failures"),
    comment="Tasks of a Cortex that stand for runs (an empty node_id) and their nodes; `told` is what it was told "
    "last. The row of a run says up to which event it was told, and when it is looked at again.",
)
