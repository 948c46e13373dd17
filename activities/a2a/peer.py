"""One agent behind the A2A protocol, as the ``a2a-sdk`` speaks to it. Only this module knows the SDK's types.

What is said and answered is the protocol's JSON (A2A 1.0); with an agent of protocol 0.3 the SDK translates. Whatever
the SDK, or the agent, raises becomes a NodeFailure.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping
from typing import Any

import httpx
from a2a.client import ClientCallContext, ClientConfig, ClientFactory
from a2a.client.card_resolver import parse_agent_card
from a2a.types import a2a_pb2 as pb
from a2a.utils import errors as a2a_errors
from google.protobuf.json_format import MessageToDict, ParseDict

from dalang.activities.a2a.meaning import has_message
from dalang.activities.http_failures import request_failure
from dalang.canonical import safe_text
from dalang.nodes import InvalidInput, NetworkError, NodeFailure, ToolError

CARD_PATH = "/.well-known/agent-card.json"
CARD_SECONDS = 300.0
"""How long an agent card is believed which does not say it itself."""
MAX_CARD_SECONDS = 3_600.0
MAX_CARD_BYTES = 1024 * 1024
MAX_CARDS = 1_000
CALL_SECONDS = 60.0
"""How long an answer may take to a request that the agent should answer at once."""
PAGE_SIZE, MAX_PAGES = 100, 20
"""So many tasks of a run are looked through for ours: those of a map share one context."""
JSON = dict[str, Any]
_REFUSALS = (
    a2a_errors.InvalidParamsError,
    a2a_errors.InvalidRequestError,
    a2a_errors.ContentTypeNotSupportedError,
    a2a_errors.ExtensionSupportRequiredError,
)


class TaskLost(NetworkError):
    """The agent does not know the task any more: it was restarted, and had it in memory only."""


class Cards:
    """Agent cards by address and by who asks, for as long as they say."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[float, pb.AgentCard]] = {}

    async def get(self, client: httpx.AsyncClient, url: str, headers: Mapping[str, str]) -> pb.AgentCard:
        """Return the card of the agent at ``url``: its address, or that of the card itself (``.json``)."""
        key = _key(url, headers)
        address = key[0]
        known = self._known.get(key)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        try:
            response = await client.get(address, headers=dict(headers), timeout=CALL_SECONDS)
            response.raise_for_status()
            if len(response.content) > MAX_CARD_BYTES:
                raise ToolError(f"the agent card at {address} has more than {MAX_CARD_BYTES:,} bytes", no_effect=True)
            card = parse_agent_card(response.json())
        except NodeFailure:
            raise
        except Exception as error:
            failure = request_failure(error, address)
            if failure is None:
                words = safe_text(str(error), 500)
                failure = ToolError(f"{address} answers no agent card: {words}")
            failure.no_effect = True
            raise failure from None
        while len(self._known) >= MAX_CARDS:
            del self._known[next(iter(self._known))]
        self._known[key] = (time.monotonic() + _max_age(response), card)
        return card

    def forget(self, url: str, headers: Mapping[str, str]) -> None:
        """Ask again for the card next time: the agent may have moved."""
        self._known.pop(_key(url, headers), None)


def _key(url: str, headers: Mapping[str, str]) -> tuple[str, str]:
    """Return where a card is, and for whom: who shows other credentials may get another card."""
    address = url if url.endswith(".json") else url.rstrip("/") + CARD_PATH
    return address, hashlib.sha256(repr(sorted(headers.items())).encode()).hexdigest()


def _max_age(response: httpx.Response) -> float:
    control = response.headers.get("cache-control", "").lower()
    if "no-store" in control or "no-cache" in control:
        return 0.0
    for directive in control.split(","):
        name, _, value = directive.strip().partition("=")
        if name == "max-age" and value.strip('"').isdigit():
            return min(float(value.strip('"')), MAX_CARD_SECONDS)
    return CARD_SECONDS


class Peer:
    """An agent that is talked to."""

    def __init__(self, client: httpx.AsyncClient, card: pb.AgentCard, url: str, headers: Mapping[str, str]) -> None:
        self.name = card.name or url
        self.streams = bool(card.capabilities.streaming)
        self._url = url
        self._headers = dict(headers)
        bindings = ["JSONRPC", "HTTP+JSON"]
        try:
            self._plain, self._streaming = (
                ClientFactory(
                    ClientConfig(streaming=streams, httpx_client=client, supported_protocol_bindings=bindings)
                ).create(card)
                for streams in (False, True)
            )
        except Exception as error:
            words = safe_text(str(error), 500)
            raise InvalidInput(f"agent {self.name} offers no way to talk to it: {words}", no_effect=True) from None

    async def send(self, message: JSON, *, wait: bool) -> JSON:
        """Send a message; return ``{"task": ...}`` or ``{"message": ...}``. Without ``wait`` a task may be at work."""
        request = self._request(message, wait)
        with self._translating():
            async for event in self._plain.send_message(request, context=self._context(None if wait else CALL_SECONDS)):
                return MessageToDict(event)
        raise ToolError(f"agent {self.name} answered nothing")

    async def stream(self, message: JSON) -> AsyncGenerator[JSON]:
        """Send a message; yield ``task``, ``message``, ``statusUpdate`` and ``artifactUpdate`` as they come."""
        with self._translating():
            async for event in self._streaming.send_message(self._request(message, True), context=self._context()):
                yield MessageToDict(event)

    async def follow(self, task_id: str) -> AsyncGenerator[JSON]:
        """Yield what happens to a task from now on."""
        with self._translating():
            async for event in self._streaming.subscribe(
                pb.SubscribeToTaskRequest(id=task_id), context=self._context()
            ):
                yield MessageToDict(event)

    async def get(self, task_id: str) -> JSON:
        """Return a task as it stands; raises TaskLost."""
        with self._translating():
            return MessageToDict(
                await self._plain.get_task(pb.GetTaskRequest(id=task_id), context=self._context(CALL_SECONDS))
            )

    async def cancel(self, task_id: str) -> None:
        """Have the agent stop working at a task; one that has ended stays as it is."""
        with self._translating(), contextlib.suppress(a2a_errors.TaskNotCancelableError):
            await self._plain.cancel_task(pb.CancelTaskRequest(id=task_id), context=self._context(CALL_SECONDS))

    async def find(self, context_id: str, message_ids: Collection[str]) -> list[JSON]:
        """Return the tasks that these messages began, as far as the agent knows them and can tell."""
        found: list[JSON] = []
        token = ""
        for _ in range(MAX_PAGES):
            request = pb.ListTasksRequest(context_id=context_id, page_size=PAGE_SIZE, page_token=token)
            try:
                with self._translating():
                    page = await self._plain.list_tasks(request, context=self._context(CALL_SECONDS))
            except (ToolError, InvalidInput) as failure:
                if failure.retryable:
                    raise
                break  # of protocol 0.3, or without a store that could list
            tasks = [MessageToDict(task) for task in page.tasks]
            found += [task for task in tasks if has_message(task, message_ids)]
            token = page.next_page_token
            if not token or len(found) >= len(message_ids):
                break
        return found

    def _request(self, message: JSON, wait: bool) -> pb.SendMessageRequest:
        given = {"message": message, "configuration": {"returnImmediately": not wait}}
        try:
            request: pb.SendMessageRequest = ParseDict(given, pb.SendMessageRequest())
        except Exception as error:
            words = safe_text(str(error), 500)
            raise InvalidInput(f"the message is none that the protocol can carry: {words}", no_effect=True) from None
        return request

    def _context(self, seconds: float | None = None) -> ClientCallContext:
        return ClientCallContext(timeout=seconds, service_parameters=self._headers or None)

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except NodeFailure:
            raise
        except Exception as error:
            raise self._translated(error) from None

    def _translated(self, error: Exception) -> NodeFailure:
        failure = request_failure(error, self._url)
        if failure is not None:
            return failure
        words = safe_text(str(error) or type(error).__name__, 1_000)
        details = {"agent": self.name, "exception": type(error).__name__}
        if isinstance(error, a2a_errors.TaskNotFoundError):
            return TaskLost(f"agent {self.name} does not know the task any more: {words}", details=details)
        if isinstance(error, _REFUSALS):
            return InvalidInput(f"agent {self.name} refuses the message: {words}", details=details)
        if isinstance(error, a2a_errors.InternalError):
            return ToolError(f"agent {self.name} failed: {words}", retryable=True, details=details)
        return ToolError(f"agent {self.name} answered what is not A2A: {words}", details=details)
