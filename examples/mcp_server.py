"""A small MCP server for examples/mcp.yaml: what a printer of theatre programmes needs.

python examples/mcp_server.py              talks on stdin and stdout, as dalang starts it
python examples/mcp_server.py --port 8931  serves http://127.0.0.1:8931/mcp
"""

import argparse
import asyncio

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

server = MCPServer("programmes", instructions="Counts words and prints programmes.", log_level="WARNING")


class Statistics(BaseModel):
    words: int
    longest: str


@server.tool()
def statistics(text: str = Field(min_length=1)) -> Statistics:
    """Count the words of a text and find the longest one."""
    words = text.split()
    return Statistics(words=len(words), longest=max(words, key=len))


@server.tool()
async def print_programme(title: str, pages: int = Field(ge=1, le=40), *, ctx: Context) -> str:
    """Print a programme, page by page, and say where it lies."""
    if "forbidden" in title.lower():
        raise ToolError(f"nobody prints {title!r} here")
    for page in range(1, pages + 1):
        await ctx.report_progress(page, pages, f"page {page} of {pages}")
        await asyncio.sleep(0.05)
    return f"/programmes/{title.lower().replace(' ', '-')}.pdf"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    port = parser.parse_args().port
    if port is None:
        server.run("stdio")
    else:
        server.run("streamable-http", port=port)
