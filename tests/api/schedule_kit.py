"""Short ways to make schedules in tests."""

from __future__ import annotations

import uuid
from typing import Any

from tests.api.world import Api, chain

SCHEDULES = "/orchestrator/schedules"
HOURLY = {"every": "1h", "endAt": "2025-03-01T00:00:00Z"}
"""For backfills: not of now, or a test that runs at the full hour has a run more."""
NEVER = {"cron": ["0 0 1 1 *"], "startAt": "2100-01-01T00:00:00Z"}
"""Times that no test sees: its runs are started by hand."""


async def stored(api: Api, *types: str, **more: Any) -> str:
    """Store a plan of nodes of these types; return its id."""
    name = more.pop("name", f"plan-{uuid.uuid4().hex[:8]}")
    response = await api("POST", "/orchestrator/plans", json=chain(*types, name=name, **more))
    assert response.status_code in (200, 201), response.text
    return str(response.json()["planId"])


async def created(api: Api, plan: str, spec: dict[str, Any] | None = None, **more: Any) -> str:
    """Make a schedule; return its address."""
    name = more.pop("scheduleId", f"s-{uuid.uuid4().hex[:8]}")
    body = {"scheduleId": name, "planId": plan, "spec": NEVER if spec is None else spec, **more}
    response = await api("POST", SCHEDULES, json=body)
    assert response.status_code == 201, response.text
    assert response.headers["location"] == f"{SCHEDULES}/{name}"
    return f"{SCHEDULES}/{name}"
