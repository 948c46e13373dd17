"""From an HTTP request to the SDK's dispatchers: who asks, what is read, and which operation an address is.

The SDK reads and writes both bindings. What it leaves to the server is here: tokens, the size and strictness of bodies,
content types, and addresses with a tenant in them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import a2a.server.routes  # noqa: F401 - before its parts, which import each other
from a2a.compat.v0_3.jsonrpc_adapter import JSONRPC03Adapter
from a2a.compat.v0_3.rest_adapter import REST03Adapter
from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.response_helpers import agent_card_to_dict, build_error_response
from a2a.server.routes.common import ServerCallContextBuilder
from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
from a2a.server.routes.rest_dispatcher import RestDispatcher
from a2a.types import TaskState
from a2a.utils.error_handlers import build_rest_error_payload
from a2a.utils.errors import (
    A2AError,
    ContentTypeNotSupportedError,
    InvalidRequestError,
    JSONParseError,
    MethodNotFoundError,
)
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import compile_path

from dalang.api.a2a.card import REST_PATH, card
from dalang.api.a2a.errors import NotAuthenticated, translated
from dalang.api.a2a.handler import Agent
from dalang.api.a2a.inputs import invalid
from dalang.api.auth import READERS, bearer, requires
from dalang.api.bodies import media_type, read_body
from dalang.api.problems import of_model
from dalang.api.services import Services
from dalang.errors import InvalidDocument
from dalang.formats import load_document

MAX_BODY_BYTES = 2 * 1024 * 1024
CARD_SECONDS = 300
MAX_PLACES = 10
_MEDIA = ("application/json", "application/a2a+json")
Endpoint = Callable[[Request], Awaitable[Response]]


class _Contexts(ServerCallContextBuilder):
    """Hands the handler who asks, and the request."""

    def build(self, request: Request) -> ServerCallContext:
        state = {"who": request.state.who, "services": request.app.state.services, "request": request}
        return ServerCallContext(state={**state, "headers": dict(request.headers)})


class Serving:
    """The agent of one app."""

    def __init__(self, services: Services) -> None:
        agent, contexts = Agent(), _Contexts()
        self._rpc = JsonRpcDispatcher(agent, contexts, enable_v0_3_compat=True)
        rest, old = RestDispatcher(agent, contexts), REST03Adapter(agent, contexts)
        push = "/tasks/{id}/pushNotificationConfigs"
        operations: list[tuple[str, str, Endpoint]] = [
            *((method, path, endpoint) for (path, method), endpoint in old.routes().items()),
            ("POST", "/message:send", rest.on_message_send),
            ("POST", "/message:stream", rest.on_message_send_stream),
            ("POST", "/tasks/{id}:cancel", rest.on_cancel_task),
            ("GET", "/tasks/{id}:subscribe", rest.on_subscribe_to_task),
            ("POST", "/tasks/{id}:subscribe", rest.on_subscribe_to_task),
            ("GET", "/tasks/{id}", rest.on_get_task),
            ("GET", "/tasks", rest.list_tasks),
            ("GET", f"{push}/{{push_id}}", rest.get_push_notification),
            ("DELETE", f"{push}/{{push_id}}", rest.delete_push_notification),
            ("POST", push, rest.set_push_notification),
            ("GET", push, rest.list_push_notifications),
            ("GET", "/extendedAgentCard", rest.handle_authenticated_agent_card),
        ]
        # Without a tenant first: one that is called `tasks` is reached by the field.
        tenants = [(method, "/{tenant}" + path, one) for method, path, one in operations if not path.startswith("/v1/")]
        self._operations = [(method, compile_path(path)[0], one) for method, path, one in [*operations, *tenants]]
        document = agent_card_to_dict(card(services.settings.public_url))
        self._card = json.dumps(document, ensure_ascii=False).encode()
        self._headers = {
            "ETag": f'"{hashlib.sha256(self._card).hexdigest()[:32]}"',
            "Cache-Control": f"public, max-age={CARD_SECONDS}",
            "Last-Modified": format_datetime(datetime.now(UTC), usegmt=True),
        }

    def card(self, request: Request) -> Response:
        """Answer the public card, or that it is still the same."""
        known = request.headers.get("if-none-match", "")
        tags = {one.strip().removeprefix("W/") for one in known.split(",")}
        if "*" in tags or self._headers["ETag"] in tags:
            return Response(status_code=304, headers=self._headers)
        return Response(self._card, media_type="application/json", headers=self._headers)

    async def json_rpc(self, request: Request) -> Response:
        """Answer a JSON-RPC request."""
        asked: Any = None
        try:
            await _authenticate(request)
            asked = await _read(request)
            if not isinstance(asked, dict):
                raise InvalidRequestError(message="A request is one object; batches are not supported.")
            params = asked.get("params")
            _check_state(params.get("status") if isinstance(params, dict) else None)
            _check_old(asked)
        except Exception as error:
            told = translated(error)
            number = asked.get("id") if isinstance(asked, dict) else None
            number = number if isinstance(number, str | int) and not isinstance(number, bool) else None
            status = _http_status(told) if isinstance(told, NotAuthenticated) else 200
            return JSONResponse(build_error_response(number, told), status, headers=_challenge(told))
        return await self._rpc.handle_requests(request)

    async def rest(self, request: Request) -> Response:
        """Answer a request of HTTP+JSON."""
        try:
            await _authenticate(request)
            endpoint = self._endpoint(request)
            if request.method == "POST":
                await _read(request)
            _check_state(request.query_params.get("status"))
        except Exception as error:
            told = translated(error)
            return JSONResponse(build_rest_error_payload(told), _http_status(told), headers=_challenge(told))
        return await endpoint(request)

    def _endpoint(self, request: Request) -> Endpoint:
        path = request.scope["path"].removeprefix(REST_PATH)
        for method, pattern, endpoint in self._operations:
            found = pattern.match(path)
            if found and method == request.method:
                request.scope["path_params"] = found.groupdict()
                return endpoint
        raise MethodNotFoundError(message=f"There is no {request.method} {path[:200]} in HTTP+JSON.")


async def _authenticate(request: Request) -> None:
    request.state.who = await requires(READERS)(request, await bearer(request), None)


async def _read(request: Request) -> Any:
    """Read the body, bounded and strict, and leave it for the SDK to read again.

    Raises:
        TooLarge: as it says. ContentTypeNotSupportedError: it is not sent as JSON. JSONParseError: it is none.
    """
    body = await read_body(request, MAX_BODY_BYTES)
    request._body = body  # where Starlette keeps what it has read
    if body and media_type(request) not in _MEDIA:
        raise ContentTypeNotSupportedError(message=f"The body is sent with Content-Type: {' or '.join(_MEDIA)}.")
    if not body and request.scope["path"].startswith(REST_PATH):
        return {}
    try:
        return load_document(body, name="body.json")
    except InvalidDocument as error:
        [first, *_] = error.problems
        if first.code == "NOT_AN_OBJECT":
            return None
        raise JSONParseError(message=f"{first.pointer or 'The body'}: {first.message}") from error


def _check_state(given: Any) -> None:
    """Refuse a state that there is not: the SDK takes one that it does not know for none."""
    if isinstance(given, str) and given not in TaskState.keys():  # noqa: SIM118 - an enum of protobuf
        raise invalid(f"There is no state {given[:100]!r}; there are {', '.join(TaskState.keys()[1:])}.", "status")


def _check_old(asked: dict[str, Any]) -> None:
    """Refuse what is no request of version 0.3: the SDK would answer with the text of an exception, values and all."""
    model = JSONRPC03Adapter.METHOD_TO_MODEL.get(str(asked.get("method")))
    try:
        if model is not None:
            model.model_validate(asked)
    except ValidationError as error:
        found = of_model(error.errors(include_url=False, include_context=False, include_input=False))
        places = [{"pointer": one.pointer, "message": one.message} for one in found[:MAX_PLACES]]
        raise InvalidRequestError(message="Invalid Request", data={"problems": places}) from None


def _http_status(error: A2AError) -> int:
    code: int = build_rest_error_payload(error)["error"]["code"]
    return code


def _challenge(error: A2AError) -> dict[str, str]:
    return {"WWW-Authenticate": 'Bearer realm="dalang"'} if isinstance(error, NotAuthenticated) else {}
