"""Requests to Dalang's REST API for tools: JSON in, JSON out, and a refusal that says what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

PREFIX = "/orchestrator"
SECONDS = 60.0


class Refused(Exception):
    """The API, or this tool, refuses the request; the text tells a model why and what to do."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = {name: value for name, value in details.items() if value is not None}


class Rest:
    """The API with one token; ``key`` is the caller's own idempotency key, where he has one."""

    def __init__(self, client: httpx.AsyncClient, token: str | None, *, key: str | None = None) -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.key = key

    async def get(self, path: str, **query: Any) -> Any:
        """Return the JSON that ``GET /orchestrator<path>`` answers; values of None are left out."""
        given = {name: _text(value) for name, value in query.items() if value is not None}
        return await self._send("GET", path, params=given)

    async def post(self, path: str, body: Mapping[str, Any], *, key: str | None = None) -> Any:
        """Return the JSON that ``POST`` answers; fields of None are left out of the body."""
        sent = {name: value for name, value in body.items() if value is not None}
        wanted = key or self.key
        return await self._send("POST", path, json=sent, headers={"Idempotency-Key": wanted} if wanted else {})

    async def post_text(self, path: str, text: str) -> Any:
        """Return the JSON that a YAML document is answered with."""
        return await self._send("POST", path, content=text.encode(), headers={"Content-Type": "application/yaml"})

    async def _send(self, method: str, path: str, **more: Any) -> Any:
        headers = {**self._headers, **more.pop("headers", {})}
        try:
            answer = await self._client.request(method, PREFIX + path, headers=headers, timeout=SECONDS, **more)
        except (httpx.TransportError, OSError) as error:
            raise Refused(
                f"Dalang's API at {self._client.base_url} does not answer ({type(error).__name__}). Whether a request"
                " that changes something was taken is not known: look with list_runs or get_run before repeating it."
            ) from None
        if answer.is_success:
            return without_nulls(answer.json())
        raise refusal(answer.status_code, _json(answer))


def _text(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def refusal(status: int, problem: Mapping[str, Any]) -> Refused:
    """Return what an answer that is no success tells a model."""
    detail = str(problem.get("detail") or problem.get("title") or f"The API answered {status}.")
    kind = str(problem.get("type", "")).rpartition(":")[2]
    hint = _HINTS.get(kind) or _HINTS.get(str(status), "")
    problems = problem.get("problems")
    listed = "".join(
        f"\n- {one.get('pointer') or '/'} {one.get('code', '')}: {one.get('message', '')}"
        for one in (problems or ())[:50]
        if isinstance(one, dict)
    )
    told = {"status": status, "type": kind or None, "detail": detail, "problems": problems, "hint": hint or None}
    return Refused(" ".join(part for part in (detail, hint) if part) + listed, **told)


_HINTS = {
    "400": "Repair the request.",
    "401": "The token is missing, unknown, expired or revoked. The person who set up this server gives it another one.",
    "403": "This token may not do that; repeating the call will not help. Tell the person you work for.",
    "policy-violation": "A policy of the operator forbids it; repeating the call will not help.",
    "404": "Nothing with this id belongs to this tenant. list_runs, list_plans and list_tasks show what is there.",
    "409": "It is in another state than that needs: read it again (get_run, get_task) and decide anew.",
    "410": "It has ended for good.",
    "413": "It is too large.",
    "422": "Repair what is listed, each at its JSON Pointer, and call again.",
    "503": "A part of Dalang is away at the moment; wait some seconds and call again.",
    "500": "This is a defect of Dalang or of its set-up; repeating the call will hardly help.",
}


def without_nulls(value: Any) -> Any:
    """Return JSON without the fields that are null: a model reads every character."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
