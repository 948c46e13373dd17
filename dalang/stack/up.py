"""``dalang up``: the whole stack in the foreground until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator

from dalang.settings import Settings
from dalang.stack.ports import LOOPBACK
from dalang.stack.supervisor import ALL_PARTS, Stack, require_posix, stack


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def up(settings: Settings, *, say: Callable[[str], None] = _print) -> None:
    """Run the stack until SIGINT, SIGTERM or SIGHUP, then stop it in order; a second signal ends it at once.

    ``settings`` must come from ``Settings.load(running_stack=False)``: the addresses of an earlier stack are no
    settings. A database or a Temporal that they name is used instead of one of our own. Raises
    :class:`dalang.stack.errors.StackError`; run it in the main thread.
    """
    require_posix()
    settings.require_safe_listening()
    running: list[Stack] = []
    serving = asyncio.create_task(_serve(settings, say, running))
    with _signals() as (first, second):
        waiting = asyncio.create_task(first.wait())
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if serving.done():
            return await serving
        say("stopping (again to stop at once)")
        # One cancel: it interrupts starting or serving, and what stops the parts then runs undisturbed.
        serving.cancel()
        impatience = asyncio.create_task(second.wait())
        await asyncio.wait({serving, impatience}, return_when=asyncio.FIRST_COMPLETED)
        impatience.cancel()
        if not serving.done() and running:
            await running[0].kill_all()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
    say("stopped")
    return None


def own_parts(settings: Settings) -> frozenset[str]:
    """The parts that ``settings`` do not place elsewhere."""
    elsewhere = set()
    if settings.database_url:
        elsewhere.add("postgres")
    if settings.temporal_address != f"{LOOPBACK}:{settings.temporal_port}":
        elsewhere.add("temporal")
    return ALL_PARTS - elsewhere


def addresses(running: Stack) -> list[str]:
    """What a person needs to know about a running stack, line by line."""
    settings = running.settings
    lines = [f"API and pages    {settings.api_url}", f"API reference    {settings.api_url}/docs"]
    if "temporal" in running.parts:
        lines.append(f"Temporal Web UI  {settings.temporal_ui_url}")
    lines.append(f"Temporal         {settings.temporal_address} (asks nobody for a password; loopback only)")
    if "postgres" in running.parts:
        lines.append(
            f"PostgreSQL       {LOOPBACK}:{settings.postgres_port} (passwords in {settings.home}/postgres.json)"
        )
    return [*lines, f"API token        {settings.home}/token", f"logs             {settings.home}/logs/"]


async def sign_in_link(settings: Settings) -> str | None:
    """Return a link that signs a browser in once, as the owner of the stack's token; None if none is to be had."""
    import httpx

    from dalang.trust import trusted

    headers = {"Authorization": f"Bearer {settings.read_token()}"}
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=5, verify=trusted()) as client:
            made = await client.post(f"{settings.api_url}/orchestrator/sign-in-tickets", headers=headers)
            return str(made.raise_for_status().json()["url"])
    except (httpx.HTTPError, ValueError, KeyError):
        return None


async def _serve(settings: Settings, say: Callable[[str], None], running: list[Stack]) -> None:
    parts = own_parts(settings)
    say(f"starting {', '.join(sorted(parts))} in {settings.home.absolute()}")
    async with stack(settings, parts, supervised=True, say=say, into=running) as started:
        for line in addresses(started):
            say(line)
        link = await sign_in_link(started.settings)
        if link is not None:
            say(f"sign in here     {link} (once, within two minutes; `dalang open` makes another)")
        say("running; Ctrl-C stops it")
        await asyncio.Event().wait()


@contextlib.contextmanager
def _signals() -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """Two events, set by the first and the second signal to stop."""
    first, second = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, lambda: second.set() if first.is_set() else first.set())
    try:
        yield first, second
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
