"""A run's reason says why it stands where it does."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dalang.store.chain import Transition
from dalang.store.projection import run_after, run_before_events


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ([("PLAN_REPLANNING", "REPLANNING", "too short"), ("PLAN_REVISED", "RUNNING", "more")], None),
        ([("PLAN_PAUSED", "PAUSED", "lunch"), ("PLAN_REVISED", "PAUSED", "more")], "lunch"),
        ([("PLAN_PAUSED", "PAUSED", "lunch"), ("PLAN_RESUMED", "RUNNING", None)], None),
        ([("PLAN_CANCELLING", "RUNNING", "enough"), ("PLAN_CANCELLED", "CANCELLED", None)], "enough"),
        ([("PLAN_REVISED", "RUNNING", "more"), ("PLAN_COMPLETED", "COMPLETED", None)], None),
    ],
)
def test_why_a_plan_was_changed_is_not_why_its_run_ended(
    told: list[tuple[str, str, str | None]], reason: str | None
) -> None:
    """That stands with the revision; a pause keeps its reason meanwhile, and an end the one it was asked for."""
    run = run_before_events({})
    for seq, (kind, status, why) in enumerate(told, 1):
        data = {"status": status} if why is None else {"status": status, "reason": why}
        run = run_after(run, Transition(seq, kind, None, datetime(2026, 1, 1, tzinfo=UTC), data, None))
    assert run["reason"] == reason
