"""The Temporal server of ``dalang up`` for one subject alone, its SQLite as sure of the disk as the runner says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dalang.stack.temporal_server import TemporalPorts, TemporalServer


class Confirmed(TemporalServer):
    """Every commit waits for the disk, as in PostgreSQL; ``dalang up`` lets a power cut cost the last moments."""

    def _arguments(self) -> list[str]:
        return [word.replace("synchronous=NORMAL", "synchronous=FULL") for word in super()._arguments()]


@asynccontextmanager
async def temporal(folder: Path, sure: str) -> AsyncIterator[str]:
    """Run a server for the length of the block; its address. ``sure`` is ``full``, ``normal`` or ``off``."""
    kind = Confirmed if sure == "full" else TemporalServer
    server = kind(folder, TemporalPorts.free(), durable=sure != "off")
    await server.start()
    try:
        yield server.address
    finally:
        await server.stop()
