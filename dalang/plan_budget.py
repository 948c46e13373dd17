"""The budget of a run, as a plan gives it."""

from __future__ import annotations

from pydantic import Field

from dalang.canonical import MAX_INTEGER
from dalang.durations import Duration
from dalang.plan_base import Model
from dalang.usage import MAX_COST


class Budget(Model):
    """What a run may use before it is paused until somebody gives it more."""

    duration_fields = frozenset({"wallTime"})

    tokens: int | None = Field(None, ge=1, le=MAX_INTEGER, strict=True, description="Tokens that its nodes report.")
    cost: float | None = Field(None, gt=0, le=MAX_COST, description="Cost that its nodes report, in your currency.")
    nodes: int | None = Field(
        None, ge=1, le=MAX_INTEGER, strict=True, description="Starts of nodes, those of runs below it included."
    )
    wall_time: Duration | None = Field(None, description="Time since the run began, pauses included.")
