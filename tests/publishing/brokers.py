"""Real brokers on loopback: a NATS server with JetStream, and the mock cluster of librdkafka in a process of its own.

``python -m tests.publishing.brokers`` is that process: it prints the addresses and lives until its input ends.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dalang.stack.ports import free_port
from tests.harness import PATIENCE

NATS_SERVER = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
requires_nats = pytest.mark.skipif(NATS_SERVER is None, reason="no nats-server")


class NatsServer:
    """A server with a folder of its own; ``kill`` and ``start`` as often as wanted, on one port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> NatsServer:
        assert NATS_SERVER is not None
        arguments = ["-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.folder)]
        self._process = await asyncio.create_subprocess_exec(
            NATS_SERVER, *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return self

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None


@asynccontextmanager
async def nats_client(server: NatsServer) -> AsyncIterator[Any]:
    """A client of the library, to look at what was published."""
    import nats

    client = await nats.connect(server.url)
    try:
        yield client
    finally:
        await client.close()


async def nats_messages(server: NatsServer, stream: str, count: int) -> list[Any]:
    """The first ``count`` messages of a stream, in order."""
    async with nats_client(server) as client:
        jetstream = client.jetstream()
        return [await jetstream.get_msg(stream, seq) for seq in range(1, count + 1)]


class KafkaCluster:
    """librdkafka's mock cluster in another process, which can be killed."""

    def __init__(self) -> None:
        self.servers = ""
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"kafka://{self.servers}"

    async def start(self) -> KafkaCluster:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.publishing.brokers",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            self.servers = json.loads(await self._process.stdout.readline())
        return self

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def records(self, topic: str, count: int, seconds: float = PATIENCE) -> list[Any]:
        """So many records of a topic, each partition in its order."""
        from aiokafka import AIOKafkaConsumer

        consumer = AIOKafkaConsumer(topic, bootstrap_servers=self.servers, auto_offset_reset="earliest")
        await consumer.start()
        found: list[Any] = []
        try:
            async with asyncio.timeout(seconds):
                while len(found) < count:
                    got = await consumer.getmany(timeout_ms=100)
                    found += [one for part in got.values() for one in part]
        finally:
            await consumer.stop()
        return found


def main() -> None:
    """Run a mock cluster of three brokers until the input ends."""
    from confluent_kafka import Producer

    options = {"test.mock.num.brokers": 3, "bootstrap.servers": ""}
    producer = Producer(options)
    addresses = sorted(f"{one.host}:{one.port}" for one in producer.list_topics(timeout=10).brokers.values())
    sys.stdout.write(json.dumps(",".join(addresses)) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
