"""From an exception to an answer: RFC 9457 ``application/problem+json``. No other file knows an error's HTTP status.

A 500 tells nothing but the request's id: exception texts and stacks go to the log.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Scope

from dalang.api.rates import TooManyRequests
from dalang.canonical import pointer, safe_text
from dalang.errors import (
    Conflict,
    ConflictingPlan,
    DalangError,
    Denied,
    ErrorType,
    Gone,
    InvalidDocument,
    NotFound,
    Problem,
    Unavailable,
)
from dalang.graph import GraphError
from dalang.store.engine import is_connection_error, is_refused_value
from dalang.store.paging import InvalidCursor
from dalang.temporal import TemporalUnavailable

logger = logging.getLogger("dalang.api")

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2
_PAGES = ("/", "/docs", "/docs/docs.js", "/docs/docs.css", "/openapi.json")
_TYPE = "urn:dalang:problem:"
Answer = Callable[[Request | None, Any], Response]


class Unauthenticated(DalangError):
    """There is no valid token with the request; ``presented`` says that there was one."""

    def __init__(self, message: str, *, presented: bool) -> None:
        super().__init__(message)
        self.presented = presented


class Forbidden(DalangError):
    """The token's roles do not allow it."""


class TooLarge(DalangError):
    """The request's body is larger than it may be."""


class UnsupportedMedia(DalangError):
    """The body's Content-Type is none that the route reads."""


class Malformed(DalangError):
    """The request itself (not its content) cannot be read: a character in its address, a header."""


def problem(
    request: Request | None,
    status: int,
    detail: str | None,
    *,
    kind: str | None = None,
    problems: Sequence[Mapping[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Response:
    """Return a problem; ``kind`` names its type where the status alone does not, ``more`` are members of its own."""
    title = HTTPStatus(status).phrase
    content: dict[str, Any] = {"type": _TYPE + kind if kind else "about:blank", "title": title, "status": status}
    if detail:
        content["detail"] = safe_text(detail)
    if request is not None:
        content["instance"] = safe_text(request.scope["path"], 2000)
        request_id = request.scope.get("state", {}).get("request_id")
        if request_id:
            content["requestId"] = request_id
    if problems is not None:
        content["problems"] = list(problems)
    content.update(more or {})
    body = json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    return Response(body, status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def answer(request: Request | None, error: Exception) -> Response:
    """Return the answer to ``error``; what nobody expected is logged and answered with 500."""
    for kind, make in _ANSWERS:
        if isinstance(error, kind):
            return make(request, error)
    if is_connection_error(error):
        return _unavailable(request, "The database does not answer at the moment; try again.")
    if is_refused_value(error) and type(error).__module__.startswith("sqlalchemy"):
        logger.warning("the database refused a value", exc_info=error)
        return problem(request, 422, "The database refuses a value of the request.", kind="refused-value")
    logger.error("%s failed", request.scope["path"] if request else "a request", exc_info=error)
    return problem(request, 500, "An unexpected error; the log has it under the requestId.")


def _unavailable(request: Request | None, detail: str) -> Response:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return problem(request, 503, detail, kind="unavailable", headers=headers)


def _too_many(request: Request | None, error: Any) -> Response:
    headers = {"Retry-After": str(math.ceil(error.seconds))}
    return problem(request, 429, str(error), kind="too-many-requests", headers=headers)


def _unauthenticated(request: Request | None, error: Any) -> Response:
    challenge = 'Bearer realm="dalang"' + (', error="invalid_token"' if error.presented else "")
    return problem(request, 401, str(error), kind="unauthenticated", headers={"WWW-Authenticate": challenge})


def _forbidden(request: Request | None, error: Any) -> Response:
    challenge = {"WWW-Authenticate": 'Bearer realm="dalang", error="insufficient_scope"'}
    return problem(request, 403, str(error), kind="forbidden", headers=challenge)


def _invalid(request: Request | None, error: Any) -> Response:
    count = sum(one.severity == "error" for one in error.problems)
    detail = f"There {'is 1 error' if count == 1 else f'are {count} errors'} in the {error.what}."
    if count == 1:
        detail += f" {next(one.message for one in error.problems if one.severity == 'error')}"
    listed = [wire(one) for one in error.problems]
    return problem(request, 422, detail, kind=f"invalid-{error.what.replace(' ', '-')}", problems=listed)


def _conflicting(request: Request | None, error: Any) -> Response:
    listed = [wire(one) for one in error.problems]
    return problem(request, 409, str(error), kind="conflicting-plan", problems=listed)


def _denied(request: Request | None, error: Any) -> Response:
    told = {"errorType": str(ErrorType.POLICY_VIOLATION), "rule": safe_text(error.rule)}
    return problem(request, 403, str(error), kind="policy-violation", more=told)


def _validation(request: Request | None, error: Any) -> Response:
    problems = [_parameter(one) for one in error.errors()]
    return problem(request, 422, "The request has wrong parameters.", kind="invalid-request", problems=problems)


def _http(request: Request | None, error: Any) -> Response:
    detail = error.detail if error.detail != HTTPStatus(error.status_code).phrase else None
    if error.status_code == 404 and detail is None:
        detail = "There is no such address; /docs lists all."
    elif error.status_code == 405 and request is not None:
        # Pages are in no document, and have one route for each address.
        allowed = ", ".join(_methods(request)) or (error.headers or {}).get("Allow", "")
        detail = f"This address takes {allowed}, not {request.method[:20]}."
        return problem(request, 405, detail, headers={"Allow": allowed})
    return problem(request, error.status_code, detail, headers=error.headers)


def _methods(request: Request) -> list[str]:
    """Return the methods of the request's address; the router names those of one route only."""
    found = {"GET"} if request.scope["path"] in _PAGES else set()
    for template, item in request.app.openapi()["paths"].items():
        pattern, _, _ = compile_path(template.replace("{nodeId}", "{nodeId:path}"))
        if pattern.match(request.scope["path"]):
            found |= {method.upper() for method in item}
    return sorted(found)


def _simple(status: int, kind: str) -> Answer:
    return lambda request, error: problem(request, status, str(error), kind=kind)


_ANSWERS: tuple[tuple[type[Exception], Answer], ...] = (
    (InvalidDocument, _invalid),
    (RequestValidationError, _validation),
    (HTTPException, _http),
    (Unauthenticated, _unauthenticated),
    (Forbidden, _forbidden),
    (Denied, _denied),
    (NotFound, _simple(404, "not-found")),
    (ConflictingPlan, _conflicting),
    (Conflict, _simple(409, "conflict")),
    (Gone, _simple(410, "gone")),
    (TooLarge, _simple(413, "too-large")),
    (UnsupportedMedia, _simple(415, "unsupported-media-type")),
    (InvalidCursor, _simple(422, "invalid-cursor")),
    (GraphError, _simple(422, "invalid-plan")),
    (Malformed, _simple(400, "malformed-request")),
    # Its text is for the operator who starts a process: it names addresses.
    (TemporalUnavailable, lambda request, error: _unavailable(request, "Temporal does not answer at the moment.")),
    (TooManyRequests, _too_many),
    (Unavailable, lambda request, error: _unavailable(request, str(error))),
)


def wire(one: Problem) -> dict[str, Any]:
    """Return a problem of a document as it stands in an answer."""
    return one.model_dump(mode="json", by_alias=True, exclude_none=True)


def of_model(errors: Sequence[ErrorDetails], model: type[BaseModel] | None = None) -> list[Problem]:
    """Return what pydantic found in a body, without the values, each with its JSON Pointer.

    Who names a field that ``model`` does not have is told those it has.
    """
    return [
        Problem(pointer=pointer(*_steps(one["loc"])), code=_code(one["type"]), message=_told(one, model))
        for one in errors
    ]


def _told(one: ErrorDetails, model: type[BaseModel] | None) -> str:
    if one["type"] == "extra_forbidden" and model is not None and len(one["loc"]) == 1:
        there = ", ".join(field.alias or name for name, field in model.model_fields.items())
        return f"There is no field `{one['loc'][0]}`; " + (f"there are {there}." if there else "there is none.")
    return _sentence(one["msg"])


def _parameter(one: Mapping[str, Any]) -> dict[str, Any]:
    place, *name = one["loc"]
    found = {"pointer": "", "code": _code(one["type"]), "message": _sentence(one["msg"]), "severity": "error"}
    return {**found, "in": str(place), "parameter": ".".join(map(str, name))}


def _steps(loc: Sequence[int | str]) -> list[int | str]:
    # Steps such as "function-before[...]" name a part of the model, not of the document.
    return [step for step in loc if isinstance(step, int) or "[" not in step]


_OURS = {
    "Extra inputs are not permitted": "There is no such field",
    "Field required": "This is missing",
    "Input should be a valid dictionary": "This has to be an object",
    "Input should be a valid string": "This has to be a text",
    "Input should be a valid boolean": "This has to be true or false",
    "Input should be": "This has to be",
}


def _code(kind: str) -> str:
    known = {"extra_forbidden": "UNKNOWN_FIELD", "missing": "MISSING_FIELD"}
    return known.get(kind) or ("WRONG_TYPE" if kind.endswith("_type") else "BAD_VALUE")


def _sentence(text: str) -> str:
    text = text.removeprefix("Value error, ")
    for theirs, ours in _OURS.items():
        text = text.replace(theirs, ours)
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def install(app: Any) -> None:
    """Let ``app`` answer every error that a route raises with a problem."""

    async def handle(request: Request, error: Exception) -> Response:
        return answer(request, error)

    for kind in (DalangError, RequestValidationError, HTTPException, GraphError):
        app.add_exception_handler(kind, handle)


def request_of(scope: Scope) -> Request:
    """Return the request of a scope, for middleware."""
    return Request(scope)


__all__ = ["ASGIApp", "answer", "install", "of_model", "problem", "request_of", "wire"]
