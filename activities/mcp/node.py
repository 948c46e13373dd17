"""The handler of node type ``mcp``.

Inputs: ``server`` (the name that the operator gave an MCP server, or ``{url, headers}`` of one that is reached by
streamable HTTP), ``tool``, ``arguments``, ``timeout`` (how long the server may stay silent: no answer, no progress).
Outputs: see ``results.outputs_of``. The call carries the node's idempotency key as ``_meta`` of the request, under
``dalang/idempotencyKey``, the same in every attempt. Every attempt has a connection of its own, and of a program on
stdio a process, which end with it.

A tool may ask a person something (elicitation). With ``questions: ask`` that becomes a human task: the call is broken
off, and made again with the answer, under the same key. By default the answer is ``decline``.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dalang.activities.mcp.results import Asked
from dalang.activities.mcp.servers import NamedServers, Server, as_given
from dalang.activities.secrets import Vault, reveal_configured
from dalang.durations import Duration
from dalang.nodes import AskPerson, InvalidInput, NodeContext, ToolError

if TYPE_CHECKING:
    from dalang.activities.mcp.session import Call

END_SECONDS = 8.0
"""So long the worker waits at its end for the last programs to be stopped."""


class McpCall(BaseModel):
    """The inputs of an ``mcp`` node."""

    model_config = ConfigDict(extra="ignore")

    server: str | dict[str, Any]
    tool: str = Field(min_length=1)
    arguments: dict[str, Any] = Field(default_factory=dict)
    timeout: Duration | None = None
    questions: Literal["decline", "ask"] = "decline"


class Mcp:
    """Calls tools."""

    def __init__(self, servers: NamedServers, vault: Vault | None = None) -> None:
        self._servers = servers
        self._vault = vault or Vault()
        self._ending: set[asyncio.Task[Any]] = set()

    async def __call__(self, ctx: NodeContext) -> dict[str, Any]:
        """Call the node's tool and return its outputs.

        Raises:
            NodeFailure: VALIDATION_ERROR when the arguments are not what the tool's schema says, or there is no such
                server or tool; TOOL_ERROR when the tool fails or the server answers rubbish; NETWORK_ERROR when the
                server cannot be reached or its connection is lost; TIMEOUT when it is silent for too long. Where the
                tool was not called yet it declares ``no_effect``.
            AskPerson: the tool asks something, and people are to be asked.
        """
        try:
            wanted = McpCall.model_validate(dict(ctx.inputs))
            given = wanted.server
            server = await self._named(ctx, given) if isinstance(given, str) else as_given(given)
        except ValidationError as error:
            problems = "; ".join(f"{'/'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise InvalidInput(f"the inputs of an mcp node: {problems}", no_effect=True) from None
        session = await _session()
        call: Call = session.Call(
            server=server,
            name=f"the MCP server {given!r}" if isinstance(given, str) else f"the MCP server at {_place(server)}",
            trusted=isinstance(given, str),
            answers=_answers(ctx) if wanted.questions == "ask" else None,
            tool=wanted.tool,
            arguments=wanted.arguments,
            silence=None if wanted.timeout is None else wanted.timeout / 1000,
            key=ctx.idempotency_key,
            progress=ctx.progress,
        )
        # In a task of its own, which is told to stop and never cancelled: a cancel would break off its cleaning up.
        work = asyncio.create_task(call.run())
        self._ending.add(work)
        work.add_done_callback(self._ending.discard)
        try:
            return await asyncio.shield(work)
        except Asked as asked:
            await ctx.checkpoint({"answers": call.answers, "asked": asked.key})
            context = {"server": call.name, "tool": wanted.tool, "arguments": wanted.arguments}
            raise AskPerson(asked.question, form=asked.form, context=context) from None
        except asyncio.CancelledError:
            call.stop()
            await asyncio.wait({work})
            if not work.cancelled():
                work.exception()  # has been seen
            raise

    async def _named(self, ctx: NodeContext, name: str) -> Server:
        """Return the operator's server, with the values of secrets that its headers and its environment refer to."""
        server = self._servers.get(name, ctx.tenant_id)
        written = {"headers": server.headers, "env": server.env}
        return server.model_copy(update=await reveal_configured(ctx, written, self._vault))

    async def close(self) -> None:
        """Wait for programs that are still being stopped."""
        if self._ending:
            await asyncio.wait(self._ending, timeout=END_SECONDS)


def _place(server: Server) -> str:
    """Return the address without what may be a secret in it."""
    parts = urlsplit(server.url or "")
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _answers(ctx: NodeContext) -> dict[str, Any]:
    """Return what people answered so far, the last answer included."""
    left = ctx.restored if isinstance(ctx.restored, dict) else {}
    answers = dict(left.get("answers") or {})
    if ctx.answer is not None and left.get("asked"):
        answers[left["asked"]] = dict(ctx.answer.values)
    return answers


async def _session() -> Any:
    """Import the library in a thread: it takes more than a second, in which heartbeats go on."""
    try:
        return await asyncio.to_thread(importlib.import_module, "dalang.activities.mcp.session")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types", "httpx2"):
            raise
        raise ToolError("this worker has no library for MCP: pip install 'dalang[mcp]'", no_effect=True) from None
