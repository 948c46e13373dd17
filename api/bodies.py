"""Reading request bodies: bounded before they are parsed, JSON as strict as a plan's, then a strict model.

Not FastAPI's own body parameters: those parse before a token was looked at, take NaN and duplicate keys, and would read
a body of any size. Routes depend on :func:`json_body`, which authenticates first because it asks for the principal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from dalang.api.problems import TooLarge, UnsupportedMedia, of_model
from dalang.errors import InvalidDocument
from dalang.formats import load_document

SMALL_BYTES = 64 * 1024
"""Bodies that hold no plan."""
DISCARD_BYTES = 64 * 1024 * 1024
"""So much of a body that is too large is read and dropped, so that its sender gets to read the answer."""
JSON_TYPES = ("application/json",)
YAML_TYPES = ("application/yaml", "text/yaml", "application/x-yaml", "text/x-yaml")

M = TypeVar("M", bound=BaseModel)


async def read_body(request: Request, limit: int) -> bytes:
    """Return the request's body.

    Raises:
        TooLarge: it has more than ``limit`` bytes.
    """
    declared = request.headers.get("content-length", "")
    too_large = declared.isdigit() and int(declared) > limit
    if too_large and int(declared) > DISCARD_BYTES:
        raise TooLarge(f"The body has {declared} bytes; at most {limit} are read.")
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            too_large = True
            parts.clear()
        if size > DISCARD_BYTES:
            break
        if not too_large:
            parts.append(part)
    if too_large:
        raise TooLarge(f"The body is larger than {limit} bytes, the most that is read here.")
    return b"".join(parts)


def media_type(request: Request) -> str:
    """Return the body's media type without parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """Return the body, a JSON object; strict JSON, bounded in depth.

    Raises:
        TooLarge, UnsupportedMedia, InvalidDocument: as they say.
    """
    if media_type(request) not in JSON_TYPES:
        raise UnsupportedMedia(f"The body is sent with Content-Type: {JSON_TYPES[0]}.")
    body = await read_body(request, limit)
    try:
        return await _parse(body)
    except InvalidDocument as error:
        raise InvalidDocument(error.problems, "request") from error


async def _parse(body: bytes) -> dict[str, Any]:
    if len(body) <= SMALL_BYTES:
        return load_document(body, name="body.json")
    return await asyncio.to_thread(load_document, body, name="body.json")


def checked(model: type[M], value: Any) -> M:
    """Return ``value`` as ``model``.

    Raises:
        InvalidDocument: with every problem and its JSON Pointer.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = of_model(error.errors(include_url=False, include_context=False, include_input=False), model)
        raise InvalidDocument(found, "request") from None


def small_body(model: type[M], *, optional: bool, limit: int = SMALL_BYTES) -> Callable[[Request], Awaitable[M]]:
    """Return a dependency that reads a small body as ``model``; ``optional``: no body is an empty object."""

    async def read(request: Request) -> M:
        declared = request.headers.get("content-length")
        if optional and (declared == "0" or (declared is None and "transfer-encoding" not in request.headers)):
            return checked(model, {})
        if optional and not media_type(request) and not await read_body(request, limit):
            return checked(model, {})
        return checked(model, await read_json(request, limit))

    return read


def body_schema(*media: str, model: type[BaseModel] | None = None, required: bool = True) -> dict[str, Any]:
    """Return what OpenAPI says of a body that a route reads by itself; ``app.openapi`` adds the model's schema."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"} if model else {"type": "object"}
    return {"requestBody": {"required": required, "content": {one: {"schema": schema} for one in media}}}
