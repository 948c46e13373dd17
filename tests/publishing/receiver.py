"""A receiver of webhooks on loopback that verifies what it gets, and can misbehave."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from dalang.webhook_signatures import verify
from tests.harness import PATIENCE

Answer = Callable[["Received"], Awaitable[bytes | None]]


@dataclass(frozen=True)
class Received:
    """One request, as it came in."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def id(self) -> str:
        return str(self.event["id"])

    @property
    def number(self) -> tuple[str, int, int]:
        """Run, epoch and seq."""
        run, epoch, seq = self.id.split("/")
        return run, int(epoch), int(seq)


def status(code: int, headers: str = "", body: str = "") -> bytes:
    """An answer."""
    return f"HTTP/1.1 {code} X\r\ncontent-length: {len(body)}\r\n{headers}\r\n{body}".encode()


class Receiver:
    """Answers 204 unless ``answer`` says otherwise: with other bytes, or with None: it closes."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer
        self.got: list[Received] = []
        self.taken: list[Received] = []
        self.open = 0
        self.most_open = 0
        self._news = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def start(self, port: int = 0) -> Receiver:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()

    async def until(self, count: int, seconds: float = PATIENCE) -> list[Received]:
        """Wait until so many were taken; return them."""
        async with asyncio.timeout(seconds), self._news:
            await self._news.wait_for(lambda: len(self.taken) >= count)
        return self.taken

    async def until_got(self, count: int, seconds: float = PATIENCE) -> list[Received]:
        """Wait until so many came in; return them."""
        async with asyncio.timeout(seconds), self._news:
            await self._news.wait_for(lambda: len(self.got) >= count)
        return self.got

    def verified(self, secret: str) -> None:
        """Check every signature."""
        for one in self.got:
            assert verify(secret, one.headers, one.body, time.time()) == one.id

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                request = Received(head[0].split(" ")[1], headers, body)
                self.open += 1
                self.most_open = max(self.most_open, self.open)
                async with self._news:
                    self.got.append(request)
                    self._news.notify_all()
                try:
                    answer = status(204) if self.answer is None else await self.answer(request)
                finally:
                    self.open -= 1
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
                if answer.startswith(b"HTTP/1.1 2"):
                    async with self._news:
                        self.taken.append(request)
                        self._news.notify_all()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
