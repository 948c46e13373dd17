"""All tables: who compares or makes them imports ``metadata`` from here, so that none is missing."""

from __future__ import annotations

from dalang.store import (
    a2a_tables,
    admission_tables,
    artifact_tables,
    assignment_tables,
    audit_tables,
    breaker_tables,
    budget_tables,
    cortex_tables,
    inbound_tables,
    log_tables,
    memory_tables,
    outline_tables,
    people_tables,
    plan_tables,
    restart_tables,
    session_tables,
    subscription_tables,
    tables,
    tally_tables,
)
from dalang.store.columns import metadata

__all__ = [
    "a2a_tables",
    "admission_tables",
    "artifact_tables",
    "assignment_tables",
    "audit_tables",
    "breaker_tables",
    "budget_tables",
    "cortex_tables",
    "inbound_tables",
    "log_tables",
    "memory_tables",
    "metadata",
    "outline_tables",
    "people_tables",
    "plan_tables",
    "restart_tables",
    "session_tables",
    "subscription_tables",
    "tables",
    "tally_tables",
]
