"""Node type ``runtime-hub``: a task of another orchestrator that speaks Wayang's Runtime Hub contract.

Inputs: ``url`` (the peer, with or without ``/runtime-hub``), ``nodeType`` (what it shall run), ``input`` (what the task
gets), ``metadata``, ``headers``, ``pollInterval`` (1s). The peer also gets the node's capabilities and implementation.
The outputs are those of the task.

The task's id derives from the idempotency key, and before anything is sent the peer is asked how that task stands. So
another attempt goes on with the task that is there; only one that has failed is followed by another one.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any
from uuid import UUID

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from dalang import runtime_hub as hub
from dalang.activities.egress import EgressRefused, http_client
from dalang.activities.execution import goes_on_elsewhere
from dalang.canonical import safe_text
from dalang.durations import Duration
from dalang.nodes import (
    InvalidInput,
    NetworkError,
    NodeContext,
    NodeFailure,
    PolicyViolation,
    ResourceExhausted,
    ToolError,
)

WAIT_SECONDS = 20
"""How long the peer is asked to wait with its answer; after that its status is looked at."""
CALL_SECONDS = 15.0
AWAY_SECONDS = 30.0
"""How long the peer may be away while the task is waited for."""
CANCEL_SECONDS = 1.5
MAX_TASKS = 100
"""So many tasks of one node may have failed before."""
MAX_SENDS = 3
MAX_ANSWER_BYTES = 17 * 1024 * 1024
MAX_EXCERPT = 500

logger = logging.getLogger("dalang.activities")


class HubRequest(BaseModel):
    """The inputs of a ``runtime-hub`` node."""

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, populate_by_name=True)

    url: str = Field(pattern=r"^https?://")
    node_type: str | None = None
    input: dict[str, Any] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)
    headers: dict[str, str] = Field(default_factory=dict)
    poll_interval: Duration = Field(1_000, ge=20, le=3_600_000)

    @property
    def base(self) -> str:
        """The address that the contract's paths follow."""
        return self.url.rstrip("/").removesuffix(hub.PREFIX) + hub.PREFIX


class RuntimeHub:
    """Runs tasks on hubs, through one pooled client."""

    def __init__(self) -> None:
        self._client = http_client(follow_redirects=False, timeout=httpx.Timeout(CALL_SECONDS, connect=10.0))

    async def close(self) -> None:
        """Close the pool; tasks go on."""
        await self._client.aclose()

    async def __call__(self, ctx: NodeContext) -> dict[str, Any]:
        """Run the node's task and return its outputs.

        Raises:
            NodeFailure: what the task failed with; NETWORK_ERROR when the peer is away, POLICY_VIOLATION when it does
                not let us in, VALIDATION_ERROR when it refuses the task, TOOL_ERROR when its answer is none.
        """
        try:
            request = HubRequest.model_validate(dict(ctx.inputs))
        except ValidationError as error:
            problems = "; ".join(f"{'/'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise InvalidInput(f"the inputs of a runtime-hub node: {problems}", no_effect=True) from None
        return await _Task(self._client, request, ctx).outputs()


class _Task:
    """One attempt at one node's task."""

    def __init__(self, client: httpx.AsyncClient, request: HubRequest, ctx: NodeContext) -> None:
        self._client = client
        self._request = request
        self._ctx = ctx
        self._id: UUID = hub.task_id(ctx.idempotency_key, 0)
        self._sent = 0

    async def outputs(self) -> dict[str, Any]:
        """Find the task or send it, wait for its end and return its outputs."""
        status = await self._found()
        try:
            result = await self._ended(status)
        except asyncio.CancelledError:
            if not goes_on_elsewhere():
                await self._cancel()
            raise
        if result.get("success") is False or result.get("error"):
            raise self._failure(result)
        outputs = result.get("outputs")
        return outputs if isinstance(outputs, dict) else {}

    async def _found(self) -> dict[str, Any] | None:
        """Return the status of the task to go on with, None if it is to be sent; those that failed are passed over."""
        for number in range(MAX_TASKS):
            self._id = hub.task_id(self._ctx.idempotency_key, number)
            status = await self._status()
            if status is None or _word(status) not in hub.FAILED:
                return status
        raise ToolError(f"{MAX_TASKS} tasks of this node have failed at the hub")

    async def _ended(self, status: dict[str, Any] | None) -> dict[str, Any]:
        away_until: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            if status is None:
                result = await self._execute()
                if result is not None:
                    return result
            elif _word(status) in hub.SUCCEEDED | hub.FAILED:
                return await self._result(status)
            else:
                self._ctx.progress(f"task {self._id}: {_word(status)}")
                await asyncio.sleep(self._request.poll_interval / 1000)
            try:
                status = await self._status()
                away_until = None
            except NetworkError:
                away_until = away_until or loop.time() + AWAY_SECONDS
                if loop.time() >= away_until:
                    raise
                status = {"status": "AWAY"}

    async def _result(self, status: dict[str, Any]) -> dict[str, Any]:
        """Return the result of a task that has ended: as its status has it, else as the hub answers it once more."""
        success = _word(status) in hub.SUCCEEDED
        result = hub.result_in(status)
        if result is None and success:
            result = await self._execute(again=True)
        if result is None and not success:
            result = {"error": {"message": f"the task ended as {_word(status)}, and the hub does not say why"}}
        if result is None:
            raise ToolError("the task has succeeded, and the hub does not say with what", retryable=True)
        return {**result, "success": success}

    def _failure(self, result: dict[str, Any]) -> NodeFailure:
        error = hub.error_in(result)
        details = {**error.details, "hub": self._request.base, "taskId": str(self._id)}
        return NodeFailure(
            safe_text(error.message),
            type=error.type,
            retryable=error.retryable,
            details=details,
            suggested_action=error.suggested_action,
            no_effect=bool(error.no_effect),
        )

    # -- calls -----------------------------------------------------------------------------------------------------

    async def _execute(self, again: bool = False) -> dict[str, Any] | None:
        """Send the task; return its result, or None when it has not ended or no answer came."""
        self._sent += 1
        if self._sent > MAX_SENDS:
            raise NetworkError("the hub takes the task and does not know it afterwards")
        self._ctx.progress(f"task {self._id}: sent")
        headers = {"Prefer": f"wait={WAIT_SECONDS}", "Idempotency-Key": str(self._id)}
        try:
            timeout = httpx.Timeout(CALL_SECONDS, connect=10.0, read=WAIT_SECONDS + CALL_SECONDS)
            status, answer = await self._call("POST", "/execute", json=self._body(), headers=headers, timeout=timeout)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            no_effect = self._sent == 1 and not again
            raise NetworkError(_text_of(error), no_effect=no_effect) from None
        except httpx.TransportError as error:
            logger.info("the hub gave no answer to task %s: %s", self._id, _text_of(error))
            return None
        if status == httpx.codes.ACCEPTED:
            return None
        if not isinstance(answer, dict) or not isinstance(answer.get("success"), bool):
            raise ToolError(f"{self._request.base}/execute did not answer with a result", details=_excerpt(answer))
        return answer

    async def _status(self) -> dict[str, Any] | None:
        """Return the task's status, or None when the hub does not know it.

        Raises:
            NetworkError: the hub does not answer.
        """
        try:
            status, answer = await self._call("GET", f"/tasks/{self._id}/status", also=(404, 405, 501))
        except httpx.TransportError as error:
            raise NetworkError(_text_of(error), no_effect=self._sent == 0) from None
        except (ToolError, ResourceExhausted) as error:
            if error.details.get("status") == 429 or error.details.get("status", 0) >= 500:
                raise NetworkError(error.message, details=error.details, no_effect=self._sent == 0) from None
            raise
        if status in (404, 405, 501) or (isinstance(answer, dict) and _word(answer) in hub.UNKNOWN):
            return None
        if not isinstance(answer, dict) or not isinstance(answer.get("status"), str):
            raise ToolError(f"{self._request.base} did not answer with a status", details=_excerpt(answer))
        return answer

    async def _cancel(self) -> None:
        """Tell the hub that nobody wants the task any more."""
        calling = asyncio.ensure_future(self._call("POST", f"/tasks/{self._id}/cancel", also=(404, 409)))
        try:
            await asyncio.wait_for(asyncio.shield(calling), CANCEL_SECONDS)
        except (TimeoutError, httpx.TransportError, NodeFailure) as error:
            logger.warning("task %s could not be cancelled: %s", self._id, _text_of(error))
        finally:
            calling.cancel()

    def _body(self) -> dict[str, Any]:
        ctx, request = self._ctx, self._request
        kind = {} if request.node_type is None else {"nodeType": request.node_type}
        descriptor: dict[str, Any] = {"name": ctx.name, "capabilities": list(ctx.capabilities)}
        if request.node_type is not None:
            descriptor["id"] = request.node_type
        if ctx.implementation:
            descriptor["implementation"] = dict(ctx.implementation)
        return {
            "taskId": str(self._id),
            "runId": ctx.run_id,
            "nodeId": ctx.node_id,
            "nodeDescriptor": descriptor,
            "input": request.input,
            "metadata": {**ctx.metadata, **request.metadata, "runId": ctx.run_id, "nodeId": ctx.node_id, **kind},
        }

    async def _call(
        self, method: str, path: str, *, also: tuple[int, ...] = (), headers: dict[str, str] | None = None, **more: Any
    ) -> tuple[int, Any]:
        """Send a request and return the status and the JSON of the answer; None if it is none.

        Raises:
            NodeFailure: it answered with an error that is not ``also`` taken.
            httpx.TransportError: it did not answer.
        """
        address, content = self._request.base + path, bytearray()
        try:
            async with self._client.stream(
                method, address, headers={**self._request.headers, **(headers or {})}, **more
            ) as response:
                async for part in response.aiter_bytes():
                    content += part
                    if len(content) > MAX_ANSWER_BYTES:
                        raise ToolError(f"{address} answered more than {MAX_ANSWER_BYTES:,} bytes")
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise InvalidInput(f"{address} is no usable address: {error}", no_effect=True) from None
        except EgressRefused as refused:
            refused.no_effect = self._sent <= 1
            raise
        try:
            answer = json.loads(content) if content else None
        except ValueError:
            answer = content.decode("utf-8", "replace")
        if not response.is_success and response.status_code not in also:
            raise _refused(response.status_code, f"{method} {address}", answer)
        return response.status_code, answer


def _refused(status: int, what: str, answer: Any) -> Exception:
    message, details = f"{what} answered {status}", {"status": status, **_excerpt(answer)}
    if status in (408, 502, 503, 504):
        return NetworkError(message, details=details)
    if status == 429:
        return ResourceExhausted(message, details=details)
    if status in (401, 403):
        return PolicyViolation(message, details=details)
    if status in (400, 422):
        return InvalidInput(message, details=details, no_effect=True)
    return ToolError(message, details=details, retryable=status >= 500)


def _excerpt(answer: Any) -> dict[str, Any]:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return {"body": safe_text(text, MAX_EXCERPT)}


def _word(status: dict[str, Any]) -> str:
    return str(status.get("status", "")).upper()


def _text_of(error: Exception) -> str:
    return f"the hub does not answer: {type(error).__name__}" + (f": {error}" if str(error) else "")
