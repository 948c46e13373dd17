"""When the rows of a table go: with their run, with their tenant, or never. A table that is not here fails a test."""

from __future__ import annotations

from enum import StrEnum


class Fate(StrEnum):
    """When the rows of a table go."""

    RUN = "run"
    """With their run: when it is older than the policy says, or its tenant is erased."""
    TENANT = "tenant"
    """When their tenant is erased; many go earlier, by rules of their own."""
    KEPT = "kept"
    """Never: what proves the rest."""
    SYSTEM = "system"
    """They are no tenant's."""


FATES: dict[str, Fate] = {
    **dict.fromkeys(
        (
            "execution_runs",
            "run_labels",
            "run_events",
            "event_bodies",
            "body_references",
            "node_executions",
            "node_attempts",
            "node_checkpoints",
            "node_logs",
            "run_checkpoints",
            "run_revisions",
            "human_tasks",
            "callbacks",
            "event_waits",
            "event_deliveries",
            "event_publications",
            "event_dead_letters",
            "agent_assignments",
            "episodes",
            "cortex_tasks",
            "memory_sessions",
            "a2a_tasks",
            "a2a_messages",
            "a2a_push_configs",
        ),
        Fate.RUN,
    ),
    **dict.fromkeys(
        (
            "plans",
            "plan_documents",
            "plan_graphs",
            "plan_pieces",
            "plan_outlines",  # with the plan
            "schedules",
            "bodies",  # with the last run that refers to them
            "artifacts",  # and their files: when nobody has used them for as long as runs are kept
            "external_events",
            "event_subscriptions",
            "agents",
            "leases",
            "resource_pools",
            "pool_buckets",
            "tenant_quotas",
            "tenant_budgets",
            "tenant_usage",
            "tallies",
            "circuit_breakers",
            "episode_cursors",
            "api_tokens",  # but the one that asked, which gets the certificate
            "browser_sessions",
            "sign_in_tickets",
        ),
        Fate.TENANT,
    ),
    **dict.fromkeys(
        (
            "retired_runs",  # heads of chains; the name of the plan goes
            "audit_anchors",
            "audit_anchor_heads",
            "system_events",  # who was refused, and who administered what
            "system_heads",
            "tenant_erasures",
        ),
        Fate.KEPT,
    ),
    **dict.fromkeys(
        (
            "payload_blobs",  # when no history of Temporal's can refer to them any more
            "event_feed",
            "alembic_version",
        ),
        Fate.SYSTEM,
    ),
}
