"""What a plan says about asking a person: the field ``task`` of human nodes."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from dalang.durations import Duration
from dalang.plan_base import Model, Priority

MAX_CANDIDATES = 100


class OnExpiry(StrEnum):
    """What follows when a human task is due and nobody has decided. It is never approval."""

    FAIL = "fail"
    """The node fails with TIMEOUT."""
    REJECT = "reject"
    """As if somebody had rejected it."""
    SKIP = "skip"
    """The node is skipped; its edges are dead."""


class Escalation(Model):
    """Whom to ask when nobody has decided for a while."""

    duration_fields = frozenset({"after"})

    after: Duration = Field(description="How long after the task was created; before it is due.")
    to: str = Field(min_length=1, max_length=200, description="The group that may decide from then on.")


class HumanTask(Model):
    """How a human node asks: what is shown besides its inputs, who may decide, and until when."""

    duration_fields = frozenset({"due", "reminder"})

    title: str | None = Field(None, max_length=500, description="Default: the node's name. ${...} in it is CEL.")
    description: str | None = Field(None, max_length=20_000, description="In Markdown; ${...} in it is CEL.")
    assignee: str | None = Field(None, max_length=200, description="Who is asked; ${...} in it is CEL.")
    candidate_group: str | None = Field(
        None, max_length=200, description="The group whose members are asked; ${...} in it is CEL."
    )
    candidates: tuple[str, ...] | None = Field(
        None, min_length=1, max_length=MAX_CANDIDATES, description="The only people who may decide."
    )
    priority: Priority | None = Field(None, description="In the inbox, larger first; default: the node's.")
    form: dict[str, Any] | None = Field(None, description="JSON Schema of the values that a decision has to give.")
    quorum: int = Field(1, ge=1, le=MAX_CANDIDATES, strict=True, description="So many different people must approve.")
    four_eyes: bool = Field(
        False, strict=True, description="Nobody may decide who started the run, or had a hand in what is decided."
    )
    due: Duration | None = Field(None, description="How long after the task was created it expires.")
    reminder: Duration | None = Field(None, description="How long before it is due it is remembered.")
    escalation: Escalation | None = Field(None, description="Whom to ask when nobody has decided for a while.")
    on_expiry: OnExpiry = Field(OnExpiry.FAIL, description="What follows when it is due; never approval.")
