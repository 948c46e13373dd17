"""Node type ``http``: one request to a service.

Inputs: ``method`` (GET), ``url``, ``query``, ``headers``, ``body`` (an object or list is sent as JSON, a text as it
is, a reference to an artifact as its content), ``expectedStatuses`` (default: 200 to 299; numbers, or classes such as
"2xx"), ``parse`` (auto, json, text, none, artifact), ``timeout``. Outputs: ``status``, ``responseHeaders``
(lower-case names) and ``response``, what was answered; they are named so that they do not become headers and body of
the next request when one ``http`` node follows another. The request carries the node's idempotency key in
``Idempotency-Key``, so that a service that honours it does the work once however often it is asked. With the field
``callback`` it also carries the callback URL, in ``Dalang-Callback-Url`` and wherever the inputs say
``{{callbackUrl}}``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import IO, Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from dalang.activities.artifacts import WorkerArtifacts
from dalang.activities.callbacks import HEADER, filled_in
from dalang.activities.egress import EgressRefused, http_client
from dalang.activities.http_failures import status_failure
from dalang.artifact_files import CHUNK_BYTES
from dalang.artifact_references import is_reference
from dalang.durations import Duration
from dalang.nodes import InvalidInput, NetworkError, NodeContext, TimedOut, ToolError
from dalang.wire import PLANNER_INPUTS

MAX_RESPONSE_BYTES = 8 * 1024 * 1024
SAID = ("verdict", "reason", "patch", "plan")
"""What the run reads of an evaluator's or a planner's outputs."""
MAX_EXCERPT = 500


class HttpRequest(BaseModel):
    """The inputs of an ``http`` node."""

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, populate_by_name=True)

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET"
    url: str = Field(pattern=r"^https?://")
    query: dict[str, str | int | float | bool | list[str | int | float | bool]] = Field(default_factory=dict)
    headers: dict[str, str] = Field(default_factory=dict)
    body: Any = None
    expected_statuses: list[int | str] | None = None
    parse: Literal["auto", "json", "text", "none", "artifact"] = "auto"
    timeout: Duration | None = None


class Http:
    """Sends requests through one pooled client, to where the operator allows it."""

    def __init__(self) -> None:
        self._client = http_client(follow_redirects=False, timeout=httpx.Timeout(None, connect=10.0))

    async def close(self) -> None:
        """Close the pool."""
        await self._client.aclose()

    async def __call__(self, ctx: NodeContext) -> dict[str, Any]:
        """Send the node's request and return status, headers and body.

        Raises:
            NodeFailure: POLICY_VIOLATION where the operator does not allow the address, NETWORK_ERROR when the peer is
                away (also 502, 503, 504), RESOURCE_EXHAUSTED for 429, TIMEOUT for 408 and when no answer comes in
                time, TOOL_ERROR for any other status that was not expected.
                Where nothing was sent it declares ``no_effect``.
        """
        try:
            request = HttpRequest.model_validate(filled_in(dict(ctx.inputs), ctx.callback_url))
        except ValidationError as error:
            problems = "; ".join(f"{'/'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise InvalidInput(f"the inputs of an http node: {problems}", no_effect=True) from None
        response, content = await self._send(request, ctx)
        outputs = {
            "status": response.status_code,
            "responseHeaders": {name.lower(): value for name, value in response.headers.items()},
            "response": _parse(request.parse, response, content),
        }
        if not _expected(response.status_code, request.expected_statuses):
            raise _unexpected(response, outputs)
        return outputs

    async def verdict(self, ctx: NodeContext) -> dict[str, Any]:
        """Ask a service that evaluates: what it says of a verdict, or of another plan, stands in the outputs, too.

        Raises:
            NodeFailure: as for any request.
        """
        outputs = await self(ctx)
        said = outputs["response"]
        return {**{name: said[name] for name in SAID if name in said}, **outputs} if isinstance(said, dict) else outputs

    async def plan(self, ctx: NodeContext) -> dict[str, Any]:
        """Ask a service that plans: what a planner is told is POSTed, unless its inputs say something else.

        Raises:
            NodeFailure: as for any request.
        """
        told = {name: ctx.inputs[name] for name in PLANNER_INPUTS if name in ctx.inputs}
        return await self.verdict(replace(ctx, inputs={"method": "POST", "body": told, **ctx.inputs}))

    async def function(self, ctx: NodeContext) -> Any:
        """Carry out a node whose implementation is a service: its inputs are POSTed, the answer is its outputs.

        Raises:
            NodeFailure: as for a request of an ``http`` node.
        """
        body = filled_in(dict(ctx.inputs), ctx.callback_url)
        request = HttpRequest(method="POST", url=str(ctx.implementation["coordinate"]), body=body)
        response, content = await self._send(request, ctx)
        if not _expected(response.status_code, None):
            raise _unexpected(response, {"response": _parse("auto", response, content)})
        return _parse("json", response, content)

    async def _send(self, request: HttpRequest, ctx: NodeContext) -> tuple[httpx.Response, bytes]:
        headers = {"Idempotency-Key": ctx.idempotency_key, **request.headers}
        if ctx.callback_url is not None:
            headers.setdefault(HEADER, ctx.callback_url)
        body: dict[str, Any] = {}
        if is_reference(request.body):
            file = await ctx.artifacts.open_async(request.body)
            headers = {"Content-Length": str(file.seek(0, 2)), **headers}
            body["content"] = _content(file)
        elif isinstance(request.body, str):
            body["content"] = request.body.encode()
        elif request.body is not None:
            body["json"] = request.body
        timeout = None if request.timeout is None else request.timeout / 1000
        try:
            async with self._client.stream(
                request.method,
                request.url,
                params=request.query or None,
                headers=headers,
                timeout=httpx.Timeout(timeout, connect=min(10.0, timeout or 10.0)),
                **body,
            ) as response:
                if request.parse == "artifact" and _expected(response.status_code, request.expected_statuses):
                    return response, (await _kept(response, ctx)).encode()
                content = bytearray()
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > MAX_RESPONSE_BYTES:
                        raise ToolError(f"{request.url} answered more than {MAX_RESPONSE_BYTES:,} bytes")
                return response, bytes(content)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise InvalidInput(f"{request.url} is no usable address: {error}", no_effect=True) from None
        except EgressRefused as refused:
            refused.no_effect = True  # no redirect was followed, so nothing went out
            raise
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            # Without a connection nothing was sent, so nothing can have happened.
            name = type(error).__name__
            kind = TimedOut if isinstance(error, httpx.TimeoutException) else NetworkError
            message = f"{name}: {error}" if str(error) else name
            raise kind(message, details={"exception": name}, no_effect=True) from None


def _expected(status: int, expected: list[int | str] | None) -> bool:
    if expected is None:
        return 200 <= status < 300
    return any(item in (status, str(status)) or item == f"{status // 100}xx" for item in expected)


def _unexpected(response: httpx.Response, outputs: Mapping[str, Any]) -> Exception:
    status = response.status_code
    message = f"{response.request.method} {response.request.url} answered {status} {response.reason_phrase}".rstrip()
    answer = outputs["response"]
    excerpt = answer if isinstance(answer, str) else json.dumps(answer)
    details = {"status": status, "body": str(excerpt)[:MAX_EXCERPT]}
    return status_failure(response, message, details)


async def _content(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        await asyncio.to_thread(file.seek, 0)
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk


async def _kept(response: httpx.Response, ctx: NodeContext) -> str:
    """Keep an answer as an artifact, however large one may be, and return the reference to it."""
    if not isinstance(ctx.artifacts, WorkerArtifacts):
        return await ctx.artifacts.put_async(await response.aread())
    name = response.url.path.rpartition("/")[2]
    return await ctx.artifacts.put_chunks(response.aiter_bytes(), response.headers.get("content-type"), name)


def _parse(how: str, response: httpx.Response, content: bytes) -> Any:
    if how == "none" or not content:
        return None
    if how == "artifact" and is_reference(content.decode("latin-1")):
        return content.decode("latin-1")
    kind = response.headers.get("content-type", "")
    if how == "json" or (how == "auto" and ("json" in kind.split(";")[0])):
        try:
            return json.loads(content)
        except ValueError:
            if how == "json":
                raise ToolError(f"{response.request.url} did not answer JSON") from None
    return content.decode(response.encoding or "utf-8", "replace").replace("\x00", "\ufffd")
