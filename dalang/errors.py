"""The errors of Dalang: what failed nodes report, and the exceptions that refuse a request.

:class:`ErrorPayload` is data: it travels from a node's handler through the workflow into events, the read
model and the answers of the API (field by field the ``ErrorPayload`` of the Wayang seed). The exceptions are for
callers: each one's docstring is its meaning; the HTTP status that answers it stands in ``api/problems.py`` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from dalang.canonical import digest


class ErrorType(StrEnum):
    """What kind of thing went wrong; ``retryOn`` and conditions of ``error`` edges name these."""

    TOOL_ERROR = "TOOL_ERROR"
    """A tool, service or local handler did its job wrongly or refused it."""
    LLM_ERROR = "LLM_ERROR"
    """A language model refused, was cut short or answered what could not be used."""
    NETWORK_ERROR = "NETWORK_ERROR"
    """A peer could not be reached or is away (Axon: ServiceUnavailable); worth another attempt."""
    VALIDATION_ERROR = "VALIDATION_ERROR"
    """The data is wrong: inputs, outputs, an expression. The same data will fail again."""
    TIMEOUT = "TIMEOUT"
    """An attempt, or the run, did not end in the time it was given."""
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    """A quota, budget or pool has nothing left, or no agent can take the node."""
    POLICY_VIOLATION = "POLICY_VIOLATION"
    """A rule of the operator forbids it."""
    UNKNOWN_ERROR = "UNKNOWN_ERROR"
    """Anything else: an exception nobody classified, a worker that died."""


class SuggestedAction(StrEnum):
    """What the handler that failed recommends; taken when no ``error`` edge is live (DESIGN section 4)."""

    RETRY = "RETRY"
    FALLBACK = "FALLBACK"
    ESCALATE = "ESCALATE"
    HUMAN_REVIEW = "HUMAN_REVIEW"
    ABORT = "ABORT"
    AUTO_FIX = "AUTO_FIX"


class ErrorPayload(BaseModel):
    """Why a node, or a run, failed.

    ``timestamp`` is RFC 3339 in UTC; ``attempt`` counts from 1; ``no_effect`` says that this attempt has changed
    nothing outside, so that a first attempt need not be undone; ``retry_after_ms`` for how long whoever was called
    wants to be left alone; ``hash`` is the SHA-256 of the canonical JSON (RFC 8785) of the other fields, so that two
    reports of the same failure can be told to be the same.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)

    type: ErrorType = ErrorType.UNKNOWN_ERROR
    message: str = ""
    details: dict[str, Any] = Field(default_factory=dict)
    retryable: bool = False
    origin_node: str | None = None
    origin_run_id: str | None = None
    attempt: int = 0
    max_attempts: int = 0
    timestamp: str | None = None
    suggested_action: SuggestedAction | None = None
    no_effect: bool | None = None
    retry_after_ms: int | None = None
    provenance_ref: str | None = None
    hash: str | None = None

    def wire(self) -> dict[str, Any]:
        """Return the JSON form with camelCase names, without empty fields, ``hash`` filled in."""
        data = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"hash"})
        data["hash"] = digest(data)
        return data


class DalangError(Exception):
    """The base of every exception that Dalang raises on purpose."""


class Problem(BaseModel):
    """One thing that is wrong, or doubtful, in a document.

    ``pointer`` is a JSON Pointer (RFC 6901) into the document; ``code`` is stable and upper case; ``message`` is a
    sentence that says what is wrong and what to do. A ``warning`` does not refuse the document.
    """

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    pointer: str
    code: str
    message: str
    severity: str = "error"
    node_id: str | None = None
    edge_id: str | None = None

    def __str__(self) -> str:
        return f"{self.severity} {self.code} at {self.pointer or '/'}: {self.message}"


class InvalidDocument(DalangError):
    """A plan, or the inputs of a run, has at least one error; ``problems`` holds all of them."""

    def __init__(self, problems: Sequence[Problem], what: str = "plan") -> None:
        self.problems = tuple(problems)
        self.what = what
        errors = [problem for problem in self.problems if problem.severity == "error"]
        super().__init__(f"The {what} has {len(errors)} error(s): " + "; ".join(str(error) for error in errors[:3]))


class NotFound(DalangError):
    """There is no such thing, or it belongs to another tenant."""


class Conflict(DalangError):
    """The request is well formed, but what it is about is in another state than it needs."""


class Gone(DalangError):
    """It was there, and has ended for good."""


class ConflictingPlan(Conflict):
    """A revision of a run's plan changes what has happened; ``problems`` are all the places."""

    def __init__(self, message: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(message)


class Denied(DalangError):
    """A policy forbids it: ``rule`` says which; ``away`` that the one who decides could not be asked."""

    def __init__(self, message: str, rule: str, *, away: bool = False) -> None:
        super().__init__(message)
        self.rule = rule
        self.away = away


class Unavailable(DalangError):
    """A part this request needs (Temporal, Postgres) does not answer at the moment; try again."""
