"""What every part of a plan is made of: the base model and the types that several parts share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ModelWrapValidatorHandler, model_validator
from pydantic.alias_generators import to_camel

from dalang.durations import Duration, Milliseconds
from dalang.errors import ErrorType

PRIORITY_WORDS = {"low": -1, "medium": 0, "high": 1, "critical": 2}


def _priority(value: Any) -> Any:
    if isinstance(value, str) and value.lower() in PRIORITY_WORDS:
        return PRIORITY_WORDS[value.lower()]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a priority is an integer (larger is served first) or one of low, medium, high, critical")
    return value


Priority = Annotated[
    int,
    BeforeValidator(_priority, json_schema_input_type=int | str),
    Field(ge=-(2**31), le=2**31 - 1),
]


class Execution(StrEnum):
    """How a node is executed."""

    DURABLE = "durable"
    """As an activity of its own: its beginning, attempts and end are in the history of the run."""
    LOCAL = "local"
    """Together with others of its kind: it is short, and safe to run twice."""


class Model(BaseModel):
    """The base of every part of a plan: frozen, camelCase, nothing unknown, nothing coerced.

    ``duration_fields`` are the wire names of fields that may also be given in milliseconds, as ``<name>Ms``.
    """

    duration_fields: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        strict=False,
        use_enum_values=False,
    )

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return itself: nobody changes it, and pydantic copies the default of a field for every node of a plan."""
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _milliseconds(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Take ``initialDelayMs: 1000`` wherever ``initialDelay: 1s`` is meant, as the seeds write it."""
        if isinstance(data, dict) and any(isinstance(key, str) and key.endswith("Ms") for key in data):
            data = dict(data)
            for key in [key for key in data if isinstance(key, str) and key.endswith("Ms")]:
                value, name = data[key], key[:-2]
                if (
                    name in cls.duration_fields
                    and name not in data  # both spellings: the Ms one stays and is refused as unknown
                    and isinstance(value, int)
                    and not isinstance(value, bool)
                    and value >= 0
                ):
                    data[name] = Milliseconds(value)
                    del data[key]
        return handler(data)


class BackoffStrategy(StrEnum):
    """How the delay before the next attempt grows."""

    FIXED = "FIXED"
    LINEAR = "LINEAR"
    EXPONENTIAL = "EXPONENTIAL"


class RetryPolicy(Model):
    """When and how often a failed attempt of a node is repeated.

    An attempt is repeated only if its error's type is in ``retryOn`` **and** the error is retryable.
    """

    duration_fields = frozenset({"initialDelay", "maxDelay"})

    max_attempts: int = Field(3, ge=1, le=1000, strict=True, description="Attempts in all, the first included.")
    backoff_strategy: BackoffStrategy = Field(
        BackoffStrategy.EXPONENTIAL, description="FIXED, LINEAR (delay x attempt) or EXPONENTIAL."
    )
    initial_delay: Duration = Field(1_000, description="Delay before the second attempt.")
    max_delay: Duration = Field(60_000, description="No delay is longer than this.")
    backoff_multiplier: float = Field(2.0, ge=1, le=100, description="Factor of EXPONENTIAL from delay to delay.")
    jitter: bool = Field(False, strict=True, description="Vary each delay between half of it and the whole.")
    retry_on: tuple[ErrorType, ...] = Field(
        (ErrorType.NETWORK_ERROR, ErrorType.TIMEOUT), description="The error types that are worth another attempt."
    )


class Timeouts(Model):
    """How long a node may take; each is a duration."""

    duration_fields = frozenset({"startToClose", "scheduleToClose", "heartbeat"})

    start_to_close: Duration | None = Field(
        None, description="One attempt. Default: twice estimatedDuration, or 10 minutes."
    )
    schedule_to_close: Duration | None = Field(None, description="All attempts together, waiting included.")
    heartbeat: Duration | None = Field(
        None, description="How soon a worker that stopped answering is noticed. Default: 5 seconds."
    )
