"""``dalang mcp``: the tools of a running stack for a program with a model, on stdin and stdout."""

from __future__ import annotations

import typer

from dalang.commands.failures import CommandFailure
from dalang.commands.session import Session, online

app = typer.Typer()


@app.command()
@online
def mcp(session: Session) -> None:
    """Serve MCP on stdin and stdout: tools to validate, rehearse, start, watch, decide and change runs.

    Everything is asked of the API of a running stack, with the token of this command line.
    """
    import asyncio

    import httpx

    from dalang.trust import trusted

    try:
        from dalang.mcp_server.serving import serve_stdio
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        raise CommandFailure(
            "NO_LIBRARY", "There is no library for MCP here.", hint="Install it: pip install 'dalang[mcp]'."
        ) from None
    settings = session.settings

    async def serve() -> None:
        # A proxy of the environment is for the world outside, not for this machine.
        local = httpx.URL(settings.api_url).host in ("127.0.0.1", "localhost", "::1")
        async with httpx.AsyncClient(base_url=settings.api_url, trust_env=not local, verify=trusted()) as client:
            await serve_stdio(client, settings.read_token())

    asyncio.run(serve())
