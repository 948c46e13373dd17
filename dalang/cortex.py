"""The client of a Cortex, Axon's memory service: tasks, sessions, episodes, by its REST interface.

Every answer is ``{success, data, error: {code, message, details}}``. Whatever makes something carries an
``X-Idempotency-Key`` that follows from what it is for, so that asking again makes nothing twice.

    POST /tasks {title, description, workspace_id, estimated_hours, parent_id?}       -> {task_id}
    PUT /tasks/{id} {status, progress, actual_hours, completion_note?}
    POST /sessions {agent_id, workspace_id, scope: {paths, read_only_paths}, ...}     -> {session_id, token}
    POST /sessions/{id}/merge {strategy: auto}                     -> {changes_merged, conflicts_resolved, new_version}
    DELETE /sessions/{id}
    POST /memory/search {query, limit}                                                -> {episodes: [...]}
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx

from dalang.canonical import find_unsafe
from dalang.settings import Settings
from dalang.trust import trusted

ATTEMPTS = 3
PAUSE_SECONDS = 0.2
AWAY_SECONDS = 5.0
"""So long nobody who can do without asks a Cortex again that did not answer."""
MAX_ANSWER_BYTES = 4 * 1024 * 1024
T = TypeVar("T")
CONFLICTS = ("conflict", "conflicts", "failed")


class CortexError(Exception):
    """What a Cortex refused, or that it does not answer.

    ``away``: it does not answer, or says that it cannot now; ``slow``: not in time. ``again_seconds`` is when it wants
    to be asked again.
    """

    def __init__(
        self,
        message: str,
        *,
        away: bool,
        status: int = 0,
        details: Mapping[str, Any] | None = None,
        again_seconds: float | None = None,
        slow: bool = False,
    ) -> None:
        super().__init__(message)
        self.away = away
        self.slow = slow
        self.status = status
        self.details = dict(details or {})
        self.again_seconds = again_seconds


class Cortex:
    """One Cortex, at ``url``; ``workspace`` is where tasks and sessions are that name none."""

    def __init__(self, url: str, token: str = "", workspace: str = "default", timeout: float = 5.0) -> None:
        self.workspace = workspace
        self._away_until = 0.0
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # Not through the proxies of the environment: a memory is near, and sees inputs.
        self._client = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=timeout, trust_env=False, verify=trusted()
        )

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Return the Cortex that the settings name."""
        if not settings.cortex_url:
            return None
        timeout = settings.cortex_timeout_seconds
        return cls(settings.cortex_url, settings.cortex_token, settings.cortex_workspace, timeout)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    @property
    def away(self) -> bool:
        """Whether it did not answer a moment ago: who can do without does not wait for it now."""
        return time.monotonic() < self._away_until

    async def in_time(self, seconds: float, asked: Awaitable[T]) -> T:
        """Return what it is ``asked``, if it answers in time.

        Raises:
            CortexError: it does not, or refuses.
        """
        try:
            async with asyncio.timeout(seconds):
                return await asked
        except TimeoutError:
            self._away_until = time.monotonic() + AWAY_SECONDS
            raise CortexError("the Cortex does not answer in time", away=True, slow=True) from None

    # -- tasks ---------------------------------------------------------------------------------------------------------

    async def create_task(
        self, key: str, title: str, description: str, estimated_hours: float, parent: str | None = None
    ) -> str:
        """Make a task and return its id; of a run, or below it of a node."""
        body: dict[str, Any] = {
            "title": title,
            "description": description,
            "workspace_id": self.workspace,
            "estimated_hours": round(estimated_hours, 6),
        }
        if parent is not None:
            body["parent_id"] = parent
        return _text(await self._ask("POST", "/tasks", body, key), "task_id", "id")

    async def update_task(
        self,
        task_id: str,
        status: str,
        progress: float,
        actual_hours: float | None = None,
        note: str | None = None,
    ) -> None:
        """Tell how far a task is."""
        body: dict[str, Any] = {"status": status, "progress": round(progress, 4)}
        if actual_hours is not None:
            body["actual_hours"] = round(actual_hours, 6)
        if note is not None:
            body["completion_note"] = note
        await self._ask("PUT", f"/tasks/{quote(task_id, safe='')}", body)

    # -- sessions ------------------------------------------------------------------------------------------------------

    async def create_session(
        self,
        key: str,
        agent_id: str,
        workspace: str | None,
        paths: Sequence[str],
        read_only_paths: Sequence[str],
        seconds: int,
    ) -> tuple[str, str | None]:
        """Open a session and return its id and its token."""
        body = {
            "agent_id": agent_id,
            "workspace_id": workspace or self.workspace,
            "scope": {"paths": list(paths), "read_only_paths": list(read_only_paths)},
            "isolation_level": "snapshot",
            "ttl_seconds": seconds,
        }
        data = await self._ask("POST", "/sessions", body, key)
        token = data.get("token")
        return _text(data, "session_id", "id"), token if isinstance(token, str) else None

    async def merge_session(self, key: str, session_id: str) -> dict[str, Any]:
        """Merge what was changed and return the report.

        Raises:
            CortexError: not ``away``: it does not go together with what others changed.
        """
        data = await self._ask("POST", f"/sessions/{quote(session_id, safe='')}/merge", {"strategy": "auto"}, key)
        if str(data.get("status", "success")).lower() in CONFLICTS or data.get("conflicts"):
            raise CortexError("the changes conflict with what others changed", away=False, status=409, details=data)
        return data

    async def close_session(self, session_id: str) -> None:
        """Close a session; one that is gone is closed."""
        try:
            await self._ask("DELETE", f"/sessions/{quote(session_id, safe='')}")
        except CortexError as error:
            if error.status not in (404, 410):
                raise

    # -- episodes ------------------------------------------------------------------------------------------------------

    async def search_episodes(self, query: str, limit: int) -> list[dict[str, Any]]:
        """Return what was done before that is like it, the most alike first."""
        data = await self._ask("POST", "/memory/search", {"query": query, "limit": limit})
        found = data.get("episodes")
        return [one for one in found if isinstance(one, dict)][:limit] if isinstance(found, list) else []

    async def _ask(self, method: str, path: str, body: Any = None, key: str | None = None) -> dict[str, Any]:
        headers = {} if key is None else {"X-Idempotency-Key": key}
        for attempt in range(1, ATTEMPTS + 1):
            try:
                found = await self._once(method, path, body, headers)
            except CortexError as error:
                # What makes something is repeated under its key only; one that wants us to wait is not pressed.
                safe = method != "POST" or key is not None or path == "/memory/search"
                again = safe and not error.slow and error.again_seconds is None
                if error.away and attempt < ATTEMPTS and again:
                    await asyncio.sleep(PAUSE_SECONDS * attempt)
                    continue
                self._away_until = time.monotonic() + AWAY_SECONDS if error.away else 0.0
                raise
            self._away_until = 0.0
            return found
        raise AssertionError("the last attempt returns or raises")

    async def _once(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> dict[str, Any]:
        try:
            answer = await self._client.request(method, path, json=body, headers=dict(headers))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            slow = isinstance(error, httpx.TimeoutException)
            raise CortexError(f"the Cortex does not answer: {type(error).__name__}", away=True, slow=slow) from None
        return read_answer(answer.status_code, answer.content, answer.headers.get("Retry-After"))


def read_answer(status: int, content: bytes, retry_after: str | None = None) -> dict[str, Any]:
    """Return the data of an answer.

    Raises:
        CortexError: it is a refusal, or rubbish.
    """
    envelope = _envelope(content)
    error: Any = envelope.get("error")
    told = error if isinstance(error, Mapping) else {"message": error}
    if status < 300 and envelope.get("success", True) is not False:
        data = envelope.get("data", {}) if "data" in envelope or "success" in envelope else envelope
        if isinstance(data, dict):
            return data
        if data is None:
            return {}
        raise CortexError("the Cortex answered without an object `data`", away=True, status=status)
    message = str(told.get("message") or f"it answered {status}")[:500]
    details = told.get("details")
    again = float(retry_after) if retry_after is not None and retry_after.isdigit() else None
    raise CortexError(
        f"the Cortex: {message}",
        # Who may not, or asks for what is not there, is refused; all else is a Cortex that does not do its work.
        away=status < 400 or status >= 500 or status in (401, 403, 408, 429),
        status=status,
        details=details if isinstance(details, Mapping) else {},
        again_seconds=again,
    )


def _envelope(content: bytes) -> Mapping[str, Any]:
    if len(content) > MAX_ANSWER_BYTES:
        return {"success": False, "error": "the answer is too large"}
    try:
        found = json.loads(content) if content else {}
    except ValueError:
        return {"success": False, "error": "the answer is no JSON"}
    if not isinstance(found, dict) or find_unsafe(found) is not None:
        return {"success": False, "error": "the answer is no object, or holds what cannot be stored"}
    return found


def _text(data: Mapping[str, Any], *names: str) -> str:
    for name in names:
        value = data.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and 0 < len(str(value)) <= 500:
            return str(value)
    raise CortexError(f"the Cortex answered without {names[0]}", away=True)
