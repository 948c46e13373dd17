"""A publisher of webhooks as a process of its own, which tests kill: ``python -m tests.publishing.process URL``."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from dalang.publishing.publisher import Publisher
from dalang.publishing.webhooks import Webhooks
from dalang.store.engine import create_engine
from tests.harness import ROOT

CLAIM_SECONDS = 1.5


async def publish(url: str) -> None:
    """Publish until killed."""
    engine = create_engine(url, pool_size=8)
    targets = {"webhook": Webhooks(lambda: httpx.AsyncClient(trust_env=False), 1.0)}
    publisher = Publisher(engine, url, targets, "/dalang/process", each=4, claim_seconds=CLAIM_SECONDS)
    sys.stdout.write("up\n")
    sys.stdout.flush()
    await publisher.publish_for_ever()


@asynccontextmanager
async def processes(url: str) -> AsyncIterator[Publishers]:
    """Publishers that can be started and killed; none is left behind."""
    made = Publishers(url)
    try:
        yield made
    finally:
        for number in range(len(made.running)):
            await made.kill(number)


class Publishers:
    """Processes, by the order they were started in."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.running: list[asyncio.subprocess.Process] = []

    async def start(self) -> None:
        """Start one more, and wait until it is at work."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.publishing.process", self._url]
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
        self.running.append(process)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"up\n"

    async def kill(self, number: int) -> None:
        """End one as kill -9 does."""
        process = self.running[number]
        if process.returncode is None:
            process.kill()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(publish(sys.argv[1]))
