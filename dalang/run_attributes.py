"""What Temporal is told of a run besides its input: how its lists find it, and what its Web UI shows."""

from __future__ import annotations

from temporalio.common import SearchAttributePair, TypedSearchAttributes

from dalang import temporal
from dalang.statuses import RunStatus
from dalang.store.runs import Run


def search_attributes(run: Run) -> TypedSearchAttributes:
    """By what Temporal's lists find a run."""
    return TypedSearchAttributes(
        [
            SearchAttributePair(temporal.RUN_STATUS, str(RunStatus.RUNNING)),
            SearchAttributePair(temporal.PLAN, run.plan_name),
            SearchAttributePair(temporal.PLAN_VERSION, run.plan_version),
            SearchAttributePair(temporal.TENANT, run.tenant_id),
            SearchAttributePair(temporal.PRIORITY, run.priority),
        ]
    )


def summary(run: Run) -> str:
    """What the Web UI calls a run."""
    return _inline_code(f"{run.plan_name} {run.plan_version}", 200)


def details(run: Run, public_url: str) -> str:
    """What the Web UI shows of a run, in Markdown."""
    address = f"{public_url}/ui/runs/{run.run_id}"
    return (
        f"Plan {_inline_code(run.plan_name, 500)} version {_inline_code(run.plan_version, 100)}, "
        f"requested by {_inline_code(run.created_by, 200)}\n\n[{address}]({address})"
    )


def _inline_code(text: str, limit: int) -> str:
    """Return ``text`` so that Markdown shows it as it is: names come from whoever wrote the plan."""
    return "`" + " ".join(text.replace("`", "'").split())[:limit] + "`"
