"""From our errors to those of A2A, with ``google.rpc.ErrorInfo`` of the domain ``a2a-protocol.org``."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from a2a.server.jsonrpc_models import JSONRPCError
from a2a.server.request_handlers.response_helpers import EXCEPTION_MAP
from a2a.utils.errors import (
    A2A_ERROR_MAPPING,
    A2A_ERROR_REASONS,
    JSON_RPC_ERROR_CODE_MAP,
    A2AError,
    ErrorMapping,
    InternalError,
    InvalidParamsError,
    JSONParseError,
    TaskNotFoundError,
    UnsupportedOperationError,
)

from dalang.api.problems import Forbidden, Unauthenticated
from dalang.errors import Conflict, DalangError, Denied, InvalidDocument, NotFound, Unavailable
from dalang.store.engine import is_connection_error
from dalang.store.paging import InvalidCursor
from dalang.temporal import TemporalUnavailable

logger = logging.getLogger("dalang.api")

SERVER_ERROR = -32000
"""JSON-RPC's first code for a server's own errors: the protocol has none for tokens and for what is away."""
P = ParamSpec("P")
T = TypeVar("T")


class NotAuthenticated(A2AError):
    """There is no valid token."""

    message = "Send a token: Authorization: Bearer <token>"


class PermissionDenied(A2AError):
    """The token's roles, a rule, or who may decide, do not allow it."""

    message = "Permission denied"


class NotAvailable(A2AError):
    """Temporal or Postgres do not answer; try again."""

    message = "A part of the server does not answer at the moment; try again"


# The SDK looks errors up by type in tables, and leaves their types open.
_OWN: dict[type[A2AError], ErrorMapping] = {
    NotAuthenticated: ErrorMapping(401, "UNAUTHENTICATED", "UNAUTHENTICATED"),
    PermissionDenied: ErrorMapping(403, "PERMISSION_DENIED", "PERMISSION_DENIED"),
    NotAvailable: ErrorMapping(503, "UNAVAILABLE", "UNAVAILABLE"),
}
# What the SDK's tables lack: a body that is no JSON has no HTTP status there.
_OWN[JSONParseError] = ErrorMapping(400, "INVALID_ARGUMENT", "PARSE_ERROR")
EXCEPTION_MAP.update(dict.fromkeys(_OWN, JSONRPCError))
A2A_ERROR_MAPPING.update(_OWN)
A2A_ERROR_REASONS.update({kind: mapping.reason for kind, mapping in _OWN.items()})
JSON_RPC_ERROR_CODE_MAP.update({kind: SERVER_ERROR for kind in _OWN if kind is not JSONParseError})


def translated(error: Exception) -> A2AError:
    """Return what a client is told of an error; what nobody expected is logged, and its text stays here."""
    if isinstance(error, A2AError):
        return error
    if isinstance(error, InvalidDocument):
        found = [{"field": one.pointer, "message": one.message} for one in error.problems if one.severity == "error"]
        return InvalidParamsError(message=_first(error), data={"errors": found})
    if isinstance(error, Unauthenticated):
        return NotAuthenticated(message=str(error))
    if isinstance(error, Forbidden | Denied):
        return PermissionDenied(message=str(error))
    if isinstance(error, NotFound):
        return TaskNotFoundError(message=str(error))
    if isinstance(error, InvalidCursor):
        return InvalidParamsError(message=str(error))
    if isinstance(error, Conflict):
        return UnsupportedOperationError(message=str(error))
    if isinstance(error, Unavailable) and not isinstance(error, TemporalUnavailable):
        return NotAvailable(message=str(error))
    if isinstance(error, TimeoutError | TemporalUnavailable) or is_connection_error(error):
        return NotAvailable()
    if isinstance(error, DalangError):
        return InvalidParamsError(message=str(error))
    logger.error("an A2A request failed", exc_info=error)
    return InternalError(message="An unexpected error; the log has it.")


def _first(error: InvalidDocument) -> str:
    errors = [one for one in error.problems if one.severity == "error"]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{errors[0].pointer or 'the ' + error.what}: {errors[0].message}{more}" if errors else str(error)


def answering(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let a method of the handler raise errors of A2A only."""

    @wraps(method)
    async def guarded(*args: P.args, **more: P.kwargs) -> T:
        try:
            return await method(*args, **more)
        except Exception as error:
            raise translated(error) from error

    return guarded


def streaming(method: Callable[P, AsyncGenerator[T, None]]) -> Callable[P, AsyncGenerator[T, None]]:
    """As :func:`answering`, for a method that yields."""

    @wraps(method)
    async def guarded(*args: P.args, **more: P.kwargs) -> AsyncGenerator[T, None]:
        inner: Any = method(*args, **more)
        try:
            async for one in inner:
                yield one
        except Exception as error:
            raise translated(error) from error
        finally:
            await inner.aclose()

    return guarded
