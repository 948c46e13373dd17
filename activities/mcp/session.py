"""One conversation with an MCP server: connect, find the tool, check the arguments, call, disconnect.

Imports the library, so it is imported at the first call of a tool. The HTTP of the library goes through *our* client,
for the operator's egress rules; a program on stdio runs below ``child.py``, which never leaves it behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitResult, Implementation, Tool
from pydantic import ValidationError

from dalang import __version__, tracing
from dalang.activities.egress import http_client, refusal_within
from dalang.activities.mcp import results
from dalang.activities.mcp.servers import Server
from dalang.canonical import safe_text
from dalang.nodes import InvalidInput, NetworkError, NodeFailure, TimedOut, ToolError
from dalang.trust import trusted

CONNECT_SECONDS = 30.0
"""For starting or reaching the server, the handshake, and the list of its tools."""
CLOSE_SECONDS = 10.0
MAX_PAGES = 100
MAX_BYTES = 16 * 1024 * 1024
"""Of one HTTP answer."""
TAIL_BYTES = 4_096
KEY = "dalang/idempotencyKey"
_CHILD = Path(__file__).with_name("child.py")
logger = logging.getLogger("dalang.mcp")
# The library logs a traceback for every line of a program that is no message. The failure of the node tells it, too.
logging.getLogger("mcp.client.stdio").setLevel(logging.CRITICAL)


@dataclass
class Call:
    """One call of a tool; ``silence`` is how many seconds the server may say nothing."""

    server: Server
    name: str
    trusted: bool
    tool: str
    arguments: dict[str, Any]
    silence: float | None
    key: str
    progress: Callable[[str, float | None], None]
    answers: Mapping[str, Any] | None = None
    """What people answered to questions of the tool, by ``results.question_key``; None: nobody is asked."""
    _connection: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    _conversation: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    _phase: str = "connecting"
    _talking: bool = False
    _called: bool = False
    _stopped: bool = False
    _status: int | None = None
    _retry_after: float | None = None
    _rubbish: str = ""
    _declined: str = ""
    _question: results.Asked | None = None
    _tail: bytearray = field(default_factory=bytearray)

    def stop(self) -> None:
        """Tell the server that nobody wants the answer any more, and disconnect."""
        self._stopped = True
        # Only the conversation, while there is one: the rest is what tells the server, and has a time of its own.
        (self._conversation if self._talking else self._connection).cancel()

    async def run(self) -> dict[str, Any]:
        """Return the outputs.

        Raises:
            NodeFailure: as ``Mcp.__call__`` says.
            results.Asked: the tool asks what nobody has answered yet.
            asyncio.CancelledError: it was stopped.
        """
        answer: dict[str, Any] | None = None
        failure: Exception | None = None
        self._connection.deadline = anyio.current_time() + CONNECT_SECONDS
        try:
            with self._connection:
                async with self._client() as client:
                    self._connection.deadline = float("inf")
                    self._wait(CONNECT_SECONDS)
                    # What is raised in here the library's task groups would wrap, or lose among their own troubles.
                    try:
                        with self._conversation:
                            self._talking = True
                            answer = await self._talk(client)
                    except Exception as error:
                        failure = error
                    self._connection.deadline = anyio.current_time() + CLOSE_SECONDS
        except Exception as error:
            failure = failure or error
        if answer is not None:
            return answer
        if self._stopped:
            raise asyncio.CancelledError
        if self._question is not None:
            raise self._question
        if failure is not None:
            raise refusal_within(failure) or self._failure(_first(failure)) from None
        raise self._late()

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[Client]:
        async with (
            self._stdio() if self.server.command is not None else self._http() as transport,
            Client(
                transport,
                client_info=Implementation(name="dalang", version=__version__),
                elicitation_callback=self._elicit,
                message_handler=self._hear,
                mode=self.server.protocol,
                cache=None,
            ) as client,
        ):
            yield client

    async def _talk(self, client: Client) -> dict[str, Any]:
        tool = await self._find(client)
        problems = await asyncio.to_thread(results.argument_problems, tool.input_schema, self.arguments)
        if problems:
            raise results.wrong_arguments(self.tool, problems)
        # The library's own check has no bounds, and would take a tool's word for what a pattern is.
        client.session.validate_tool_result = _unchecked  # type: ignore[method-assign]
        self._phase, self._called = "the call", True
        self._wait(self.silence)
        about: Any = {KEY: self.key}
        result = await client.call_tool(self.tool, self.arguments, progress_callback=self._progress, meta=about)
        found = result.model_dump(mode="json", by_alias=True, exclude_none=True)
        if result.is_error:
            raise results.failure_of(found, self.tool)
        if tool.output_schema is not None and "structuredContent" in found:
            structured = found["structuredContent"]
            problems = await asyncio.to_thread(results.structure_problems, tool.output_schema, structured)
            if problems:
                raise results.wrong_structure(self.tool, problems)
        return results.outputs_of(found)

    async def _find(self, client: Client) -> Tool:
        self._phase = "listing its tools"
        known: list[str] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            for tool in page.tools:
                if self.server.tools is not None and tool.name not in self.server.tools:
                    continue
                if tool.name == self.tool:
                    return tool
                known.append(tool.name)
            cursor = page.next_cursor
            if not cursor:
                break
        raise results.unknown_tool(self.name, self.tool, known)

    def _wait(self, seconds: float | None) -> None:
        """Give up when the server says nothing for so long from now on."""
        self._conversation.deadline = anyio.current_time() + seconds if seconds is not None else float("inf")

    async def _progress(self, progress: float, total: float | None, message: str | None) -> None:
        self._wait(self.silence)
        text = message or (f"{progress:g} of {total:g}" if total else f"{progress:g}")
        self.progress(safe_text(text, 500), progress / total if total else None)

    async def _elicit(self, context: Any, params: Any) -> ElicitResult:
        """Answer what a person is asked: with what one has answered, else with a question to people, or not at all."""
        asked = params.model_dump(mode="json", by_alias=True, exclude_none=True)
        question, form = str(asked.get("message", "")), asked.get("requestedSchema")
        if self.answers is None or not isinstance(form, dict):  # the other way is a web page, for eyes only
            self._declined = safe_text(question, 500)
            return ElicitResult(action="decline")
        answer = self.answers.get(results.question_key(question, form))
        if answer is not None:
            return ElicitResult(action="accept", content=answer)
        self._question = results.Asked(question, form)
        self._conversation.cancel()
        return ElicitResult(action="cancel")

    async def _hear(self, message: Any) -> None:
        if isinstance(message, ValidationError):
            self._rubbish = safe_text(str(message.errors()[0].get("input", "")), 200)
        elif isinstance(message, Exception):
            self._rubbish = safe_text(str(message), 200)

    # -- transports ----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _http(self) -> AsyncIterator[Any]:
        assert self.server.url is not None
        async with (
            self._outgoing() as client,
            httpx2.AsyncClient(
                transport=_Bridge(client, self._answered), headers=self.server.headers, timeout=None, trust_env=False
            ) as library,
        ):
            yield streamable_http_client(self.server.url, http_client=library)

    def _outgoing(self) -> httpx.AsyncClient:
        timeout = httpx.Timeout(None, connect=10.0)
        # What the operator named he has chosen; an address of a plan is under his rules.
        return (
            httpx.AsyncClient(
                timeout=timeout, trust_env=False, verify=trusted(), event_hooks={"request": [tracing.on_request]}
            )
            if self.trusted
            else http_client(timeout=timeout, cookies={})
        )

    def _answered(self, method: str, answer: httpx.Response) -> None:
        if method == "POST":
            self._status = answer.status_code if answer.is_error else None
            after = answer.headers.get("retry-after", "")
            self._retry_after = float(after) if answer.is_error and after.isdecimal() else None

    @contextlib.asynccontextmanager
    async def _stdio(self) -> AsyncIterator[Any]:
        program = self._program()
        read, write = os.pipe()
        # Pipes, so nothing blocks: the program writes into one end, and we hear at the other.
        with os.fdopen(write, "w") as errors:
            loop = asyncio.get_running_loop()
            ears, _ = await loop.connect_read_pipe(lambda: _Ears(self._tail), os.fdopen(read, "rb", buffering=0))
            try:
                arguments = [str(_CHILD), str(os.getpid()), program, *self.server.args]
                command, prefix = (sys.executable, ["-I", "-S"])
                if sys.platform != "linux":
                    command, prefix, arguments = program, [], list(self.server.args)
                yield stdio_client(
                    StdioServerParameters(
                        command=command,
                        args=[*prefix, *arguments],
                        env=self.server.env,
                        cwd=self.server.cwd,
                        encoding_error_handler="replace",
                    ),
                    errlog=errors,
                )
            finally:
                ears.close()
                if self._tail:
                    logger.debug("%s wrote: %s", self.name, self._said())

    def _program(self) -> str:
        """Return the path of the program.

        Raises:
            NetworkError: it is not on this worker; another one may have it.
        """
        command, folder = str(self.server.command), Path(self.server.cwd or ".")
        path = self.server.env.get("PATH") or os.environ.get("PATH")
        found = shutil.which(str(folder / command) if os.sep in command else command, path=path)
        if found is None or not folder.is_dir():
            missing = command if found is None else str(folder)
            raise NetworkError(f"{self.name} cannot be started: there is no {missing} on this worker", no_effect=True)
        return str(Path(found).absolute())

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    def _said(self) -> str:
        return safe_text(self._tail.decode("utf-8", "replace"), TAIL_BYTES).strip()

    def _details(self) -> dict[str, Any]:
        told = {"server": self.name, "tool": self.tool, "stderr": self._said(), "rubbish": self._rubbish}
        told["declined"] = self._declined
        return {name: value for name, value in told.items() if value}

    def _late(self) -> NodeFailure:
        seconds = CONNECT_SECONDS if not self._called else self.silence
        message = f"{self.name} said nothing for {seconds:g} s ({self._phase})"
        if self._rubbish:
            message += f"; what it wrote is no message of the protocol: {self._rubbish}"
        return TimedOut(message, details=self._details(), no_effect=not self._called)

    def _failure(self, error: Exception) -> NodeFailure:
        if isinstance(error, NodeFailure):
            if self._declined:
                error.details.setdefault("declined", self._declined)
            return error
        if isinstance(error, MCPError):
            return results.error_of(
                error.code,
                error.message,
                error.data,
                server=self.name,
                tool=self.tool,
                called=self._called,
                status=self._status,
                retry_after=self._retry_after,
                said=self._said(),
            )
        before = not self._called
        text = f"{self.name}: {type(error).__name__}: {safe_text(str(error), 500)}"
        if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
            return InvalidInput(text, details=self._details(), no_effect=before)
        if isinstance(error, httpx.TimeoutException):
            return TimedOut(text, details=self._details(), no_effect=before)
        if isinstance(error, (httpx.HTTPError, OSError, anyio.BrokenResourceError, anyio.ClosedResourceError)):
            return NetworkError(text, details=self._details(), no_effect=before)
        if isinstance(error, ValidationError):
            problems = [f"{'/'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:10]]
            what = f"{self.name} answered what the protocol does not know: {safe_text('; '.join(problems), 500)}"
            return ToolError(what, details={**self._details(), "problems": problems}, no_effect=before)
        return ToolError(text, details=self._details(), no_effect=before)


async def _unchecked(name: str, result: Any) -> None:
    """Stand for the library's check of structured content."""


def _first(error: BaseException) -> Exception:
    """Return what a task group was told first, and of our own and of HTTP before what followed from it."""
    while isinstance(error, BaseExceptionGroup):
        telling = error.subgroup((NodeFailure, httpx.HTTPError))
        error = (telling or error).exceptions[0]
    return error if isinstance(error, Exception) else NetworkError(f"the connection broke off: {error!r}")


class _Ears(asyncio.Protocol):
    """Keeps the end of what a program writes to its log."""

    def __init__(self, tail: bytearray) -> None:
        self._tail = tail

    def data_received(self, data: bytes) -> None:
        """Take a part."""
        self._tail += data
        del self._tail[:-TAIL_BYTES]


class _Bridge(httpx2.AsyncBaseTransport):
    """Sends what the library asks for by our own client."""

    def __init__(self, client: httpx.AsyncClient, answered: Callable[[str, httpx.Response], None]) -> None:
        self._client = client
        self._answered = answered

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; its answer is read as it comes, up to a limit."""
        body = await request.aread()
        headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"content-length"]
        asked = self._client.build_request(request.method, str(request.url), headers=headers, content=body or None)
        if request.method == "DELETE":  # of the session, at the end: no answer is worth waiting for
            asked.extensions["timeout"] = httpx.Timeout(2.0).as_dict()
        answer = await self._client.send(asked, stream=True)
        self._answered(request.method, answer)
        kept = [
            (name, value)
            for name, value in answer.headers.raw
            if name.lower() not in (b"content-encoding", b"content-length", b"transfer-encoding")
        ]
        return httpx2.Response(answer.status_code, headers=kept, stream=_Body(answer), request=request)


class _Body(httpx2.AsyncByteStream):
    """The body of an answer."""

    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield it part by part."""
        size = 0
        async for part in self._answer.aiter_bytes():
            size += len(part)
            if size > MAX_BYTES:
                raise ToolError(f"the server answered more than {MAX_BYTES:,} bytes")
            yield part

    async def aclose(self) -> None:
        """Let the connection go."""
        await self._answer.aclose()
