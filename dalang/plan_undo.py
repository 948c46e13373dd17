"""What a plan says about undoing: when compensations run, and what undoes a node (DESIGN section 4)."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from dalang.plan_base import Model, RetryPolicy, Timeouts


class Compensate(StrEnum):
    """After which ends of a run its effects are undone."""

    ON_FAILURE = "onFailure"
    """When it failed."""
    ON_CANCEL = "onCancel"
    """When it was cancelled, or its timeout passed."""
    ALWAYS = "always"
    """Whatever the end: a run that completes, too, leaves nothing behind and is COMPLETED all the same."""
    NEVER = "never"
    """Never."""


class Compensation(Model):
    """What undoes a node. It may run more than once and when nothing has happened, and must be right then, too."""

    type: str = Field(
        min_length=1, max_length=200, description="A node type that does work: http, python, agent, noop, or your own."
    )
    handler: str | None = Field(None, description="As of a node: the function of python, the local agent of agent.")
    inputs: dict[str, Any] | None = Field(
        None,
        description="Values; ${...} is CEL over inputs, nodes, run, and of the node to undo: outputs, error,"
        " undoes.inputs, undoes.status, undoes.key. Default: the node's inputs and outputs in one object.",
    )
    capabilities: tuple[str, ...] = Field((), description="All of these must be offered by the agent.")
    retry_policy: RetryPolicy | None = Field(None, description="Default: as of a node without one.")
    timeouts: Timeouts = Timeouts()
