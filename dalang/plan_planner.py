"""What a plan says about being changed while it runs: its planner, and how often that may be asked."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from dalang.plan_base import Model, RetryPolicy, Timeouts

PLANNING = "planning"
"""The capability of an agent that makes plans."""
DEFAULT_MAX_REPLANS = 3


class Planner(Model):
    """Who makes the next revision of the plan when an evaluator, or a failure that suggests AUTO_FIX, asks for one."""

    type: str = Field(
        "agent", min_length=1, max_length=200, description="A node type that does work: agent, http, python, your own."
    )
    handler: str | None = Field(None, description="As of a node: the function of python, the local agent of agent.")
    capabilities: tuple[str, ...] = Field((PLANNING,), description="All of these must be offered by the agent.")
    inputs: dict[str, Any] = Field(
        default_factory=dict, description="Values it gets as they are, beside the plan and what happened."
    )
    retry_policy: RetryPolicy | None = Field(None, description="Default: as of a node without one.")
    timeouts: Timeouts = Timeouts()
