"""What goes in and out of the routes for what comes from outside: events, and answers at callback addresses."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import ConfigDict, Field, Strict, model_validator

from dalang.api.schemas import Answer, RequestModel, Text
from dalang.canonical import compact_json
from dalang.durations import Duration
from dalang.errors import ErrorType, SuggestedAction
from dalang.statuses import RunStatus
from dalang.wait_inputs import MAX_CORRELATION_KEY, MAX_EVENT_NAME

MAX_VALUES_BYTES = 256 * 1024
"""The largest payload, and the largest answer, in bytes of JSON; a run takes no more."""
MAX_BODY_BYTES = 320 * 1024
DAY_MS = 86_400_000
MAX_TTL_MS = 366 * DAY_MS

EventId = Annotated[
    str,
    Field(min_length=1, max_length=200, pattern=r"^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$", description="ASCII."),
]


class RunEventRequest(RequestModel):
    """An external event for one run."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "payment", "correlationKey": "A-1", "payload": {"amount": 120}, "eventId": "pay-7"}]
        }
    )

    name: str = Field(min_length=1, max_length=MAX_EVENT_NAME)
    correlation_key: str = Field("", max_length=MAX_CORRELATION_KEY, description="Which of the events of this name.")
    payload: dict[str, Any] = Field(default_factory=dict, description="Becomes the outputs of the node that waits.")
    event_id: EventId | None = Field(
        None, description="The same id again is the same event again. Default: Idempotency-Key, else a new one."
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if len(compact_json(self.payload)) > MAX_VALUES_BYTES:
            raise ValueError(f"a payload has at most {MAX_VALUES_BYTES:,} bytes")
        return self


class EventRequest(RunEventRequest):
    """An external event for every run that waits for it, now or while it is kept."""

    ttl: Annotated[Duration, Strict(False)] | None = Field(None, description="How long it is kept; default 24h.")

    @model_validator(mode="after")
    def _kept(self) -> Self:
        if self.ttl is not None and not 0 < self.ttl <= MAX_TTL_MS:
            raise ValueError("ttl is more than 0 and at most 366 days")
        return self


class EventResponse(Answer):
    """What became of an event; ``repeated``: it was sent before."""

    event_id: str
    repeated: bool = False
    message: str


class DeliveryItem(Answer):
    """A run that an event goes to; without ``deliveredAt`` it is on its way."""

    run_id: UUID
    delivered_at: datetime | None


class ReceivedEvent(Answer):
    """An event, and the runs it goes to."""

    event_id: str
    name: str
    correlation_key: str
    payload: dict[str, Any]
    created_by: str
    created_at: datetime
    expires_at: datetime
    deliveries: list[DeliveryItem]


class RunEventResponse(Answer):
    """What became of an event for one run."""

    run_id: UUID
    status: RunStatus
    event_id: str
    message: str


class CallbackError(RequestModel):
    """Why the work failed."""

    type: Annotated[ErrorType, Strict(False)] = ErrorType.TOOL_ERROR
    message: Text = ""
    details: dict[str, Any] = Field(default_factory=dict)
    retryable: bool = False
    suggested_action: Annotated[SuggestedAction, Strict(False)] | None = None


class CallbackRequest(RequestModel):
    """The answer to a node's request: what the work put out, or why it failed."""

    outputs: dict[str, Any] | None = None
    error: CallbackError | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.outputs is not None and self.error is not None:
            raise ValueError("an answer has outputs or an error, not both")
        if len(compact_json(self.answer())) > MAX_VALUES_BYTES:
            raise ValueError(f"an answer has at most {MAX_VALUES_BYTES:,} bytes")
        return self

    def answer(self) -> dict[str, Any]:
        """Return the answer as the run gets it."""
        if self.error is not None:
            return {"error": self.error.model_dump(mode="json", by_alias=True, exclude_none=True)}
        return {"outputs": self.outputs or {}}


class CallbackResponse(Answer):
    """The answer is kept and reaches its run."""

    message: str


BODIES = (RunEventRequest, EventRequest, CallbackRequest)
