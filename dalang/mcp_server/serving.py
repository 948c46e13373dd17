"""The MCP server itself; the only module here that imports the library, which takes more than a second."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListResourcesResult,
    ListToolsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    TextContent,
    TextResourceContents,
    ToolAnnotations,
)
from mcp_types import Tool as Listed
from pydantic import ValidationError

from dalang import __version__
from dalang.mcp_server.guide import INSTRUCTIONS
from dalang.mcp_server.rest import Refused, Rest
from dalang.mcp_server.tools import TOOLS, Tool
from dalang.reference import files

KEY = "dalang/idempotencyKey"
"""In the `_meta` of a call: what it starts or decides is done once, however often it is repeated."""
RESOURCES = {
    "dalang://plan-reference": ("plan-reference.md", "text/markdown", "Every field of a plan, and every problem."),
    "dalang://plan-schema": ("plan.schema.json", "application/schema+json", "The JSON Schema of plans."),
}
logger = logging.getLogger("dalang.mcp")
Context = ServerRequestContext[Any, Any]


def make_server(rest_of: Callable[[Context], Rest]) -> Server[Any]:
    """Return the server; ``rest_of`` says with which token a request asks the API."""

    async def list_tools(ctx: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[_listed(one) for one in TOOLS.values()])

    async def call_tool(ctx: Context, params: CallToolRequestParams) -> CallToolResult:
        tool = TOOLS.get(params.name)
        if tool is None:
            raise MCPError(INVALID_PARAMS, f"There is no tool {params.name!r}; there are {', '.join(TOOLS)}.")

        async def tell(done: float, whole: float, sentence: str) -> None:
            await ctx.session.report_progress(done, whole, sentence)

        try:
            given = tool.arguments.model_validate(params.arguments or {})
            return _answer(await tool.call(rest_of(ctx), given, tell))
        except ValidationError as error:
            return _refusal(_wrong_arguments(tool, error))
        except Refused as refused:
            return _refusal(refused)
        except Exception:
            logger.exception("the tool %s failed", params.name)
            return _refusal(Refused("This is a defect of Dalang's MCP server; its log has it."))

    async def list_resources(ctx: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
        listed = [
            Resource(uri=uri, name=name, mime_type=media, description=about)
            for uri, (name, media, about) in RESOURCES.items()
        ]
        return ListResourcesResult(resources=listed)

    async def read_resource(ctx: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        uri = str(params.uri)
        if uri not in RESOURCES:
            raise MCPError(INVALID_PARAMS, f"There is no resource {uri}; there are {', '.join(RESOURCES)}.")
        name, media, _ = RESOURCES[uri]
        text = files()[name]
        return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type=media, text=text)])

    return Server(
        "dalang",
        version=__version__,
        title="Dalang",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_read_resource=read_resource,
    )


async def serve_stdio(client: httpx.AsyncClient, token: str | None) -> None:
    """Serve on stdin and stdout until stdin ends; all requests have this token."""
    server = make_server(lambda ctx: Rest(client, token, key=key_of(ctx)))
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def key_of(ctx: Context) -> str | None:
    """Return the caller's idempotency key."""
    key = dict(ctx.meta or {}).get(KEY)
    return key if isinstance(key, str) and key.isascii() and key.isprintable() and 0 < len(key) <= 255 else None


def _listed(tool: Tool) -> Listed:
    return Listed(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=_plain(tool.arguments.model_json_schema(by_alias=True)),
        output_schema={"type": "object"},
        annotations=ToolAnnotations(
            title=tool.title,
            read_only_hint=tool.reads,
            destructive_hint=tool.destroys,
            idempotent_hint=tool.reads or tool.repeatable,
            open_world_hint=False,
        ),
    )


def _plain(schema: Any) -> Any:
    """Return a schema without the titles that are the names again, and without what our models say of themselves."""
    if isinstance(schema, dict):
        kept = {key: _plain(value) for key, value in schema.items() if key != "title" or not isinstance(value, str)}
        if "properties" in kept and "additionalProperties" in kept:
            kept.pop("description", None)
        return kept
    return [_plain(one) for one in schema] if isinstance(schema, list) else schema


def _answer(found: dict[str, Any]) -> CallToolResult:
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    return CallToolResult(content=[TextContent(text=text)], structured_content=found)


def _refusal(refused: Refused) -> CallToolResult:
    return CallToolResult(
        content=[TextContent(text=str(refused))],
        structured_content={"error": str(refused), **refused.details},
        is_error=True,
    )


def _wrong_arguments(tool: Tool, error: ValidationError) -> Refused:
    problems = [
        {"pointer": "".join(f"/{step}" for step in one["loc"]), "message": one["msg"].removeprefix("Value error, ")}
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    takes = ", ".join(field.alias or name for name, field in tool.arguments.model_fields.items()) or "nothing"
    listed = "".join(f"\n- {one['pointer'] or '/'}: {one['message']}" for one in problems)
    return Refused(f"The arguments of {tool.name} are wrong; it takes {takes}.{listed}", problems=problems)
