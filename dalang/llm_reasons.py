"""Why a language model gave no usable answer: the codes of ``details.reason``, and what follows from each."""

from __future__ import annotations

from enum import StrEnum

from dalang.errors import SuggestedAction


class Reason(StrEnum):
    """``details.reason`` of a failed ``llm`` node; ``docs/llm.md`` tells of each."""

    RATE_LIMIT = "RATE_LIMIT"
    """The provider takes no more for now; it may have said until when."""
    QUOTA = "QUOTA"
    """The account has nothing left."""
    CONTEXT_LENGTH = "CONTEXT_LENGTH"
    """The prompt, with what tools answered, is longer than the model reads."""
    REFUSAL = "REFUSAL"
    """The model says that it will not."""
    CONTENT_FILTER = "CONTENT_FILTER"
    """The provider's filter stopped the question or the answer."""
    CUT_SHORT = "CUT_SHORT"
    """The answer was not finished when it had the most tokens it may have."""
    BAD_OUTPUT = "BAD_OUTPUT"
    """The answers, also those to what was wrong with the ones before, do not fit the schema."""
    BAD_RESPONSE = "BAD_RESPONSE"
    """What came back is no answer of a model: rubbish, or broken off."""
    TOO_MANY_REQUESTS = "TOO_MANY_REQUESTS"
    """The model wanted to be asked more often in one attempt than ``maxRequests`` allows."""
    AUTHENTICATION = "AUTHENTICATION"
    """The key is missing, wrong, or not for this."""
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    """The provider has no such model."""
    REJECTED = "REJECTED"
    """The provider calls the request wrong."""
    UNAVAILABLE = "UNAVAILABLE"
    """The provider is overloaded, or away."""
    PROVIDER_ERROR = "PROVIDER_ERROR"
    """The provider failed."""
    UNREACHABLE = "UNREACHABLE"
    """There was no connection, or it broke (NETWORK_ERROR)."""
    TIMEOUT = "TIMEOUT"
    """No answer came in time (TIMEOUT)."""

    @property
    def is_retryable(self) -> bool:
        """Whether the same question may be answered later."""
        return self in _RETRYABLE

    @property
    def suggested_action(self) -> SuggestedAction | None:
        """What to do about it, where trying again does not help."""
        return SuggestedAction.HUMAN_REVIEW if self in (Reason.REFUSAL, Reason.CONTENT_FILTER) else None


_RETRYABLE = frozenset(
    {
        Reason.RATE_LIMIT,
        Reason.BAD_OUTPUT,
        Reason.BAD_RESPONSE,
        Reason.UNAVAILABLE,
        Reason.PROVIDER_ERROR,
        Reason.UNREACHABLE,
        Reason.TIMEOUT,
    }
)
AWAY = frozenset(
    {
        Reason.RATE_LIMIT,
        Reason.QUOTA,
        Reason.AUTHENTICATION,
        Reason.BAD_RESPONSE,
        Reason.UNAVAILABLE,
        Reason.PROVIDER_ERROR,
    }
)
"""What speaks against the provider, and not against what it was asked: these count for its circuit breaker."""
