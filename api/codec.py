"""Temporal's remote codec contract: its Web UI and CLI send payloads here to read and to write what is encrypted.

Temporal knows no tenants, so who may use this reads what it holds of all of them: only tokens of the tenants that
``codec_tenants`` names. Large payloads, of which histories hold references, are fetched too.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Header, Request
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.common import RawValue

from dalang.api.auth import Operator, Principal, Reader
from dalang.api.bodies import body_schema, checked, read_json
from dalang.api.problems import Forbidden
from dalang.api.services import Service, Services
from dalang.errors import InvalidDocument, NotFound, Problem
from dalang.payload_codec import UndecryptablePayload

router = APIRouter(prefix="/codec", tags=["codec"])
MAX_BODY_BYTES = 20 * 1024 * 1024
"""A page of a history, with what base64 adds."""
EVERYBODY = "*"


class CodecPayloads(BaseModel):
    """Payloads as Temporal writes them in JSON: ``metadata`` and ``data`` in base64."""

    model_config = ConfigDict(extra="ignore")

    payloads: list[dict[str, Any]] = Field(max_length=10_000)


Namespace = Annotated[str | None, Header(alias="X-Namespace", description="Temporal namespace of the payloads.")]
_BODY = body_schema("application/json", model=CodecPayloads)
BODIES = (CodecPayloads,)


@router.post("/decode", openapi_extra=_BODY)
async def decode(who: Reader, request: Request, it: Service, namespace: Namespace = None) -> CodecPayloads:
    """Decrypt payloads; what is not encrypted stays as it is."""
    payloads = await _given(who, request, it, namespace)

    async def decoded() -> list[Payload]:
        values = await it.temporal.converter.decode(payloads, [RawValue] * len(payloads))
        return [value.payload for value in values]

    return await _answered(decoded)


@router.post("/encode", openapi_extra=_BODY)
async def encode(who: Operator, request: Request, it: Service, namespace: Namespace = None) -> CodecPayloads:
    """Encrypt payloads, as inputs of signals and updates that are sent with Temporal's own tools."""
    payloads = await _given(who, request, it, namespace)

    async def encoded() -> list[Payload]:
        return await it.temporal.converter.encode([RawValue(one) for one in payloads])

    return await _answered(encoded)


class CodecCors:
    """Lets pages of the Temporal Web UI, and no others, read the answers of the codec server. They bring a token."""

    def __init__(self, app: ASGIApp, ui_url: str) -> None:
        self._app = app
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(ui_url))
        self._open = CORSMiddleware(app, allow_origins=[origin], allow_methods=["POST"], allow_headers=["*"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        is_codec = scope["type"] == "http" and scope["path"].startswith(router.prefix + "/")
        await (self._open if is_codec else self._app)(scope, receive, send)


async def _given(who: Principal, request: Request, it: Services, namespace: str | None) -> list[Payload]:
    """Return the payloads of a request.

    Raises:
        Forbidden, NotFound, InvalidDocument: as they say.
    """
    tenants = it.settings.codec_tenants
    if who.tenant_id not in tenants and EVERYBODY not in tenants:
        raise Forbidden("Tokens of this tenant may not use the codec server: it reads what Temporal holds of all.")
    if namespace is not None and namespace != it.settings.temporal_namespace:
        raise NotFound("This is the codec server of another Temporal namespace.")
    body = checked(CodecPayloads, await read_json(request, MAX_BODY_BYTES))
    try:
        return list(ParseDict({"payloads": body.payloads}, Payloads(), ignore_unknown_fields=True).payloads)
    except (ParseError, ValueError, TypeError):
        raise _refused("The body is not Temporal's JSON form of payloads.") from None


async def _answered(convert: Callable[[], Coroutine[Any, Any, list[Payload]]]) -> CodecPayloads:
    try:
        done = await convert()
    except UndecryptablePayload as error:
        raise _refused(str(error)) from None
    return CodecPayloads.model_validate({"payloads": [], **MessageToDict(Payloads(payloads=done))})


def _refused(message: str) -> InvalidDocument:
    return InvalidDocument([Problem(pointer="/payloads", code="BAD_VALUE", message=message)], "request")
