"""The contract of Wayang's A2A router as a client: ``POST /a2a/send``, one request and its answer.

``{messageId, runId, sourceAgentId, targetAgentId, payload}`` is answered by ``{messageId, success, result, error}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from dalang.activities.a2a.call import Call, message_id, run_uuid
from dalang.activities.http_failures import request_failure
from dalang.canonical import find_unsafe, safe_text
from dalang.nodes import InvalidInput, NodeContext, ToolError

PATH = "/a2a/send"


async def send(client: httpx.AsyncClient, call: Call, ctx: NodeContext) -> dict[str, Any]:
    """Delegate a node to the agent ``target`` of a router and return what it put out.

    Raises:
        NodeFailure: the router or the agent failed, or answered rubbish.
    """
    if not call.target:
        raise InvalidInput("an a2a node with `protocol: wayang` names its agent: `target`", no_effect=True)
    message = message_id(ctx.idempotency_key)
    request = {
        "messageId": message,
        "runId": run_uuid(ctx.run_id),
        "sourceAgentId": call.source,
        "targetAgentId": call.target,
        "payload": call.rest if call.message is None else payload_of(call.message),
    }
    url = call.url.rstrip("/").removesuffix(PATH) + PATH
    ctx.progress(f"{call.target} works at it")
    try:
        response = await client.post(url, json=request, headers={"Idempotency-Key": message, **call.headers})
        response.raise_for_status()
        answer = response.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise request_failure(error, url) or ToolError(f"{url} did not answer JSON") from None
    return outputs_of(answer, message, call.target)


def payload_of(content: Any) -> dict[str, Any]:
    """Return a message as the object that the router asks for."""
    return dict(content) if isinstance(content, Mapping) else {"message": content}


def outputs_of(answer: Any, message: str, target: str) -> dict[str, Any]:
    """Return what the router's answer puts out; raises ToolError where it failed or is none."""
    details = {"agent": target}
    if not isinstance(answer, Mapping) or not isinstance(answer.get("success"), bool) or find_unsafe(answer):
        raise ToolError("the router answered what is no A2AResponse", details=details)
    if answer.get("messageId") not in (None, message):
        raise ToolError("the router answered another message than the one it was sent", details=details)
    if not answer["success"]:
        words = safe_text(str(answer.get("error") or "no reason is given"), 2_000)
        raise ToolError(f"agent {target} failed: {words}", retryable=True, details=details)
    result = answer.get("result")
    if result is not None and not isinstance(result, Mapping):
        raise ToolError("the result of an A2AResponse is an object", details=details)
    return dict(result or {})
