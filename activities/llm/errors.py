"""What a model's failure means to a node: the type, whether another attempt can help, and a ``reason`` as a code.

Imports the library, so it is imported late.
"""

from __future__ import annotations

from typing import Any

from pydantic_ai import exceptions as ai
from pydantic_ai.messages import ModelResponse

from dalang.canonical import safe_text
from dalang.llm_models import NamedModel
from dalang.llm_reasons import Reason
from dalang.nodes import InvalidInput, LLMError, NetworkError, NodeFailure, TimedOut

MAX_MESSAGE = 1_000
FILTERED = frozenset({"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"})
"""Codes with which providers refuse a request for what it says."""

_BY_CATEGORY: tuple[tuple[type[Exception], Reason], ...] = (
    (ai.ModelRateLimitError, Reason.RATE_LIMIT),
    (ai.ModelQuotaExceededError, Reason.QUOTA),
    (ai.ModelContextWindowExceededError, Reason.CONTEXT_LENGTH),
    (ai.ModelAuthenticationError, Reason.AUTHENTICATION),
    (ai.ModelNotFoundError, Reason.MODEL_NOT_FOUND),
    (ai.ModelRequestRejectedError, Reason.REJECTED),
    (ai.ModelUnavailableError, Reason.UNAVAILABLE),
    (ai.ModelServerError, Reason.PROVIDER_ERROR),
)
"""From the library's categories, the special ones before the general ones."""


def failure_of(
    error: ai.AgentRunError | ai.UserError, named: NamedModel, key: str | None, *, acted: bool
) -> NodeFailure:
    """Return the node's failure; ``acted`` says that a tool was called: to ask changes nothing outside."""
    if isinstance(error, ai.ModelAPIError):
        failure = _of_provider(error, named, key)
    elif isinstance(error, ai.UserError):
        failure = InvalidInput(f"the model cannot be asked like this: {_text(error, key)}")
    else:
        failure = _of_answer(error, named, key)
    failure.no_effect = not acted
    return failure


def cut_short(last: ModelResponse, named: NamedModel, *, acted: bool) -> LLMError | None:
    """Return what a text means that the model did not end by itself; None: it did."""
    if last.finish_reason == "length":
        text = "the model's answer was cut off at the most tokens it may have (settings.maxTokens, or its own limit)"
        failure = _failure(Reason.CUT_SHORT, text, named)
    elif last.finish_reason == "content_filter":
        failure = _failure(Reason.CONTENT_FILTER, "the provider cut the answer off for its content", named)
    else:
        return None
    failure.no_effect = not acted
    return failure


def _of_answer(error: ai.AgentRunError, named: NamedModel, key: str | None) -> NodeFailure:
    text = _text(error, key)
    if isinstance(error, ai.ContentFilterError):
        reason = Reason.REFUSAL if "Refusal:" in error.message else Reason.CONTENT_FILTER
        return _failure(reason, _clean(error.message, key), named)
    if isinstance(error, ai.OutputTokenLimitExceeded):
        return _failure(Reason.CUT_SHORT, text, named)
    if isinstance(error, ai.UsageLimitExceeded):
        return _failure(Reason.TOO_MANY_REQUESTS, text.partition(" Consider raising")[0], named)
    if isinstance(error, ai.UnexpectedModelBehavior) and "retries" in error.message:
        cause = error.__cause__
        more = f": {_text(cause, key)}" if cause is not None else ""
        return _failure(Reason.BAD_OUTPUT, f"{_clean(error.message, key)}{more}", named)
    return _failure(Reason.BAD_RESPONSE, text.partition("\n")[0], named)


def _of_provider(error: ai.ModelAPIError, named: NamedModel, key: str | None) -> NodeFailure:
    status = getattr(error, "status_code", None)
    details: dict[str, Any] = {}
    if isinstance(status, int):
        details["status"] = status
    if error.provider_error_code:
        details["providerCode"] = safe_text(error.provider_error_code, 100)
    text = _provider_text(error, key)
    if isinstance(error, (ai.ModelTimeoutError, ai.ModelRequestTimeout)) or status == 408:
        return TimedOut(text, details=_details(Reason.TIMEOUT, named, details))
    if isinstance(error, ai.ModelConnectionError):
        return NetworkError(f"{text}{_root(error, key)}", details=_details(Reason.UNREACHABLE, named, details))
    if FILTERED.intersection((error.provider_error_code, error.provider_error_type)):
        return _failure(Reason.CONTENT_FILTER, text, named, details)
    for category, reason in _BY_CATEGORY:
        if isinstance(error, category):
            return _failure(reason, text, named, details, error.retry_after)
    return _failure(Reason.BAD_RESPONSE if status is None else Reason.REJECTED, text, named, details)


def _failure(
    reason: Reason,
    text: str,
    named: NamedModel,
    details: dict[str, Any] | None = None,
    retry_after: float | None = None,
) -> LLMError:
    return LLMError(
        text,
        retryable=reason.is_retryable,
        details=_details(reason, named, details or {}),
        suggested_action=reason.suggested_action,
        retry_after=retry_after,
    )


def _details(reason: Reason, named: NamedModel, more: dict[str, Any]) -> dict[str, Any]:
    return {"reason": reason.value, "provider": named.provider, "model": named.model, **more}


def _root(error: BaseException, key: str | None) -> str:
    """Return what is at the bottom of an error: of a connection the library says only that it failed."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    return "" if root is error else f" {type(root).__name__}: {_text(root, key)}"


def _provider_text(error: ai.ModelAPIError, key: str | None) -> str:
    """Return what a provider says in words, where it does."""
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        said = inner.get("message") if isinstance(inner, dict) else None
        if isinstance(said, str) and said:
            status = getattr(error, "status_code", None)
            return _clean(f"{status}: {said}" if status else said, key)
    return _text(error, key)


def _text(error: BaseException, key: str | None) -> str:
    return _clean(str(error) or type(error).__name__, key)


def _clean(text: str, key: str | None) -> str:
    """Return a text without the key, which a provider may repeat."""
    return safe_text(text.replace(key, "***") if key else text, MAX_MESSAGE)
