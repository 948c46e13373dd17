"""What goes in and out of the routes of subscriptions."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import BeforeValidator, ConfigDict, Field, Strict, field_validator, model_validator

from dalang.api.schemas import Answer, Cursor, Limit, QueryModel, RequestModel, Text, Time
from dalang.cloud_events import event_id, read_event_id
from dalang.durations import Duration, format_duration
from dalang.event_filters import EventFilter
from dalang.event_types import EventType
from dalang.expressions import MAX_SOURCE, ExpressionError
from dalang.secret_references import NAME, SCHEME
from dalang.store.dead_letters import DeadLetter
from dalang.store.subscriptions import KAFKA, NATS, WEBHOOK, Progress, Subscription, Wanted
from dalang.webhook_signatures import secret_key

DAY_MS = 86_400_000
MAX_LISTED = 200
TOPIC = "execution-events"
SUBJECT = "dalang.events"
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_SUBJECT = re.compile(r"[A-Za-z0-9_-]{1,100}(\.[A-Za-z0-9_-]{1,100}){0,9}")

Kind = Literal["webhook", "kafka", "nats"]
Format = Literal["cloudevents", "openlineage"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
EventIdText = Annotated[str, Field(max_length=100, description="`runId/epoch/seq`.")]


class RetryRequest(RequestModel):
    """How often, and for how long, an event is sent before it is a dead letter."""

    max_attempts: int = Field(25, ge=1, le=1_000)
    initial_delay: Annotated[Duration, Strict(False)] = Field(1_000, description="Doubled with each failure.")
    max_delay: Annotated[Duration, Strict(False)] = Field(600_000, description="The longest pause.")
    give_up_after: Annotated[Duration, Strict(False)] = Field(DAY_MS, description="An older event is tried once more.")

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not 10 <= self.initial_delay <= self.max_delay <= DAY_MS:
            raise ValueError("10ms <= initialDelay <= maxDelay <= 24h")
        if not 1 <= self.give_up_after <= 30 * DAY_MS:
            raise ValueError("giveUpAfter is more than 0 and at most 30 days")
        return self


class SubscriptionRequest(RequestModel):
    """Who is to be told of which events."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "pager", "url": "https://example.org/hook", "types": ["NODE_FAILED", "PLAN_FAILED"]}]
        }
    )

    name: Name
    kind: Kind = WEBHOOK  # type: ignore[assignment]  # a constant of the store
    description: Text = ""
    url: str | None = Field(None, max_length=2_000, description="Where a webhook is sent to.")
    format: Format = Field("cloudevents", description="Of a webhook; `openlineage` for Marquez and the like.")
    topic: str | None = Field(None, description=f"Of kind `kafka`; default `{TOPIC}`.")
    subject: str | None = Field(None, description=f"Of kind `nats`: what subjects begin with; default `{SUBJECT}`.")
    all_tenants: bool = Field(False, description="Of kind `kafka` or `nats`: events of all tenants.")
    types: list[Annotated[EventType, Strict(False)]] = Field(
        default_factory=list, max_length=MAX_LISTED, description="Default: all."
    )
    plans: list[Annotated[str, Field(min_length=1, max_length=500)]] = Field(
        default_factory=list, max_length=MAX_LISTED, description="Names or ids; default: all."
    )
    filter: str | None = Field(
        None, min_length=1, max_length=MAX_SOURCE, description='CEL over `event`: `event.data.nodeId == "deploy"`.'
    )
    payloads: bool = Field(False, description="With inputs, outputs and errors.")
    retry: RetryRequest = Field(default_factory=RetryRequest)

    @field_validator("filter")
    @classmethod
    def _compiles(cls, source: str | None) -> str | None:
        if source is not None:
            try:
                EventFilter(source)
            except ExpressionError as error:
                raise ValueError(f"{error.code}: {error.message}") from None
        return source

    @field_validator("url")
    @classmethod
    def _web_address(cls, url: str | None) -> str | None:
        return None if url is None else web_address(url)

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        given = {name for name in ("url", "topic", "subject") if getattr(self, name) is not None}
        wanted = {WEBHOOK: "url", KAFKA: "topic", NATS: "subject"}[self.kind]
        if given - {wanted} or (self.kind == WEBHOOK and not given):
            raise ValueError(f"a subscription of kind {self.kind} has a {wanted}, and no other target")
        if self.kind != WEBHOOK and self.format != "cloudevents":
            raise ValueError("only webhooks are told in other formats than cloudevents")
        if self.kind == WEBHOOK and self.all_tenants:
            raise ValueError("a webhook is told of one tenant only")
        if self.topic is not None and not _TOPIC.fullmatch(self.topic):
            raise ValueError("a topic has 1 to 249 letters, digits, dots, hyphens and underscores")
        if self.subject is not None and not _SUBJECT.fullmatch(self.subject):
            raise ValueError("a subject is made of words with dots between them, without wildcards")
        return self

    def wanted(self) -> Wanted:
        """Return what is to be stored."""
        targets: dict[str, dict[str, Any]] = {
            WEBHOOK: {"url": self.url} if self.format == "cloudevents" else {"url": self.url, "format": self.format},
            KAFKA: {"topic": self.topic or TOPIC},
            NATS: {"subject": self.subject or SUBJECT},
        }
        return Wanted(
            name=self.name,
            kind=self.kind,
            target=targets[self.kind],
            all_tenants=self.all_tenants,
            description=self.description,
            types=tuple(str(one) for one in dict.fromkeys(self.types)),
            plans=tuple(dict.fromkeys(self.plans)),
            filter=self.filter,
            payloads=self.payloads,
            max_attempts=self.retry.max_attempts,
            initial_delay_ms=self.retry.initial_delay,
            max_delay_ms=self.retry.max_delay,
            give_up_ms=self.retry.give_up_after,
        )


def _text(value: Any) -> Any:
    if value is not None and not isinstance(value, str):
        raise ValueError("a time looks like 2026-01-31T12:00:00Z")
    return value


_Time = Annotated[Time, Strict(False), BeforeValidator(_text)]


class CreateSubscriptionRequest(SubscriptionRequest):
    """Who is to be told of which events, from when on."""

    since: _Time | None = Field(None, description="Also of what was recorded since then. Default: from now on.")
    secret: str | None = Field(
        None,
        max_length=200,
        description="`whsec_...` to sign with, or `secret://name` for one that the workers know. Default: a new one.",
    )

    @field_validator("since")
    @classmethod
    def _past(cls, since: datetime | None) -> datetime | None:
        if since is not None and since > datetime.now(UTC):
            raise ValueError("since lies in the past")
        return since

    @field_validator("secret")
    @classmethod
    def _secret(cls, secret: str | None) -> str | None:
        return None if secret is None else usable_secret(secret)

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if self.secret is not None and self.kind != WEBHOOK:
            raise ValueError("only webhooks are signed")
        return self


class PauseRequest(RequestModel):
    """Why."""

    reason: Text | None = None


class RotateRequest(RequestModel):
    """What is signed with from now on."""

    secret: str | None = Field(None, max_length=200, description="Default: a new one.")
    keep: Annotated[Duration, Strict(False)] = Field(DAY_MS, description="How long the old one is signed with, too.")

    @field_validator("secret")
    @classmethod
    def _secret(cls, secret: str | None) -> str | None:
        return None if secret is None else usable_secret(secret)

    @field_validator("keep")
    @classmethod
    def _kept(cls, keep: int) -> int:
        if not 0 <= keep <= 30 * DAY_MS:
            raise ValueError("keep is at most 30 days")
        return keep


class ReplayRequest(RequestModel):
    """Which run is told again from its first event."""

    run_id: Annotated[UUID, Strict(False)]


class EventsRequest(RequestModel):
    """Which dead letters."""

    events: list[EventIdText] | None = Field(None, min_length=1, max_length=1_000, description="Default: all.")

    @field_validator("events")
    @classmethod
    def _ids(cls, events: list[str] | None) -> list[str] | None:
        for one in events or ():
            if read_event_id(one) is None:
                raise ValueError("an event's id is runId/epoch/seq")
        return events

    def keys(self) -> list[tuple[UUID, int, int]] | None:
        """Return the events, or None for all."""
        if self.events is None:
            return None
        return [found for one in self.events if (found := read_event_id(one)) is not None]


BODIES = (
    SubscriptionRequest,
    CreateSubscriptionRequest,
    PauseRequest,
    RotateRequest,
    ReplayRequest,
    EventsRequest,
)


class DeadLetterQuery(QueryModel):
    """Which part of the list."""

    limit: Limit = 100
    cursor: Cursor = None


class RetryRule(Answer):
    """How often, and for how long, an event is sent."""

    max_attempts: int
    initial_delay: str
    max_delay: str
    give_up_after: str


class ProgressItem(Answer):
    """How it keeps up. ``lagSeconds`` is how long the event that has waited longest has waited."""

    waiting_runs: int
    waiting_events: int = Field(description="Counted to 10,000.")
    lag_seconds: float
    failing_runs: int
    next_attempt_at: datetime | None
    dead_letters: int


class FailureItem(Answer):
    """What went wrong last."""

    at: datetime
    reason: str
    event_id: str | None


class SubscriptionItem(Answer):
    """A subscription. Its secret is never shown again."""

    subscription_id: UUID
    name: str
    kind: Kind
    description: str
    url: str | None = None
    format: Format = "cloudevents"
    topic: str | None = None
    subject: str | None = None
    all_tenants: bool
    types: list[str]
    plans: list[str]
    filter: str | None
    payloads: bool
    retry: RetryRule
    since: datetime
    state: Literal["ACTIVE", "PAUSED"]
    paused_at: datetime | None
    paused_by: str | None
    paused_reason: str | None
    delivered: int
    failures: int
    last_delivered_at: datetime | None
    last_failure: FailureItem | None
    progress: ProgressItem
    created_by: str
    created_at: datetime
    updated_by: str
    updated_at: datetime

    @classmethod
    def of(cls, stored: Subscription, progress: Progress, *, whole: bool = True) -> Self:
        """Return what is shown of a subscription; not ``whole``: of the address only the host."""
        shown = cls.shown(stored, progress)
        if not whole and "url" in stored.target:
            parts = urlsplit(stored.target["url"])
            shown["url"] = f"{parts.scheme}://{parts.netloc}/..."
        return cls.model_validate(shown)

    @staticmethod
    def shown(stored: Subscription, progress: Progress) -> dict[str, Any]:
        """Return the fields."""
        waiting = progress.waiting_since
        lag = 0.0 if waiting is None else max((datetime.now(UTC) - waiting).total_seconds(), 0.0)
        failure = None
        if stored.last_error is not None:
            of = {"at": stored.last_error_at, "reason": stored.last_error, "event_id": stored.last_error_event}
            failure = FailureItem.model_validate(of)
        retry = RetryRule(
            max_attempts=stored.max_attempts,
            initial_delay=format_duration(stored.initial_delay_ms),
            max_delay=format_duration(stored.max_delay_ms),
            give_up_after=format_duration(stored.give_up_ms),
        )
        return {
            **vars(stored),
            **stored.target,
            "retry": retry,
            "state": "ACTIVE" if stored.paused_at is None else "PAUSED",
            "last_failure": failure,
            "progress": ProgressItem.model_validate({**vars(progress), "lag_seconds": round(lag, 3)}),
        }


class SecretItem(SubscriptionItem):
    """A subscription and, this once, the secret that its webhooks are signed with."""

    secret: str | None


class SubscriptionList(Answer):
    """All subscriptions of the tenant."""

    items: list[SubscriptionItem]


class PingResult(Answer):
    """What came of a test event; ``delivered`` is null as long as no publisher has taken it up."""

    event_id: str
    delivered: bool | None
    reason: str | None
    milliseconds: int | None


class DeadLetterItem(Answer):
    """An event that could not be delivered; with ``redeliverAt`` it is on its way again."""

    event_id: str
    run_id: UUID
    type: str
    attempts: int
    reason: str
    dead_at: datetime
    redeliver_at: datetime | None

    @classmethod
    def of(cls, stored: DeadLetter) -> Self:
        """Return what is shown of a dead letter."""
        named = event_id(stored.run_id, stored.epoch, stored.seq)
        return cls.model_validate({**vars(stored), "event_id": named, "reason": stored.error})


class DeadLetterPage(Answer):
    """Part of a list."""

    items: list[DeadLetterItem]
    next: str | None = None


class CountResult(Answer):
    """How many."""

    count: int


def usable_secret(secret: str) -> str:
    """Return what a webhook is signed with: a secret, or a reference to one that the workers know.

    Raises:
        ValueError: it is neither.
    """
    if secret.startswith(SCHEME):
        if NAME.fullmatch(secret.removeprefix(SCHEME)) is None:
            raise ValueError(f"a reference is {SCHEME} and the name of a secret")
    else:
        secret_key(secret)
    return secret


def web_address(url: str) -> str:
    """Return the address of a webhook.

    Raises:
        ValueError: it is none.
    """
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("a webhook's address is an http or https URL")
    if "@" in parts.netloc or parts.fragment:
        raise ValueError("a webhook's address has no user, password or fragment")
    return url
