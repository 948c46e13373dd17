"""A peer as the benchmark sees it: its virtual environment with exact versions, and its adapter as a process.

Environments are made once, outside of the repository (``--install``); Dalang and the workflow written by hand run in
the environment that runs the benchmark.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import venv
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalang.stack.processes import end_family

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
START_SECONDS = 120
RUN_SECONDS = 300


@dataclass(frozen=True)
class Peer:
    """One peer: its adapter, the ways it can run a graph, and the name of its packages' list (none: ours)."""

    name: str
    adapter: str
    cases: tuple[str, ...]
    requirements: str | None = None
    sqlite: str = "normal"
    """How sure of the disk Temporal's SQLite is; for who uses it."""

    @property
    def environment(self) -> Path:
        """Where its virtual environment is."""
        return Path.home() / ".cache" / "dalang-peers" / str(self.requirements)

    @property
    def python(self) -> Path:
        """The interpreter its adapter runs in."""
        return Path(sys.executable) if self.requirements is None else self.environment / "bin" / "python"

    def install(self) -> None:
        """Make its environment, or bring it to the versions of its list."""
        if self.requirements is None:
            return
        if not self.python.exists():
            venv.create(self.environment, with_pip=True)
        pinned = HERE / "requirements" / f"{self.requirements}.txt"
        subprocess.run([self.python, "-m", "pip", "install", "--quiet", "-r", pinned], check=True)

    def versions(self) -> dict[str, str]:
        """Return the versions of what its list is about: the packages of the peer itself."""
        if self.requirements is None:
            return {}
        lines = (HERE / "requirements" / f"{self.requirements}.txt").read_text(encoding="utf-8").split()
        pairs = dict(line.split("==") for line in lines)
        return {name: version for name, version in pairs.items() if name.startswith(self.requirements)}


class Running:
    """A started adapter, which is asked in lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        """The root of all processes of this peer but PostgreSQL."""
        return self.process.pid

    async def ask(self, within: float = RUN_SECONDS, **asked: Any) -> dict[str, Any]:
        """Send one line, return the answer; raises with the end of its log when it has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked).encode() + b"\n")
        line = await asyncio.wait_for(self.process.stdout.readline(), within)
        if not line:
            await asyncio.wait_for(self.process.wait(), 30)
            raise RuntimeError(f"the adapter ended:\n{self.log.read_text(errors='replace')[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def started(peer: Peer, given: dict[str, str], folder: Path) -> AsyncIterator[Running]:
    """Run a peer's adapter for the length of the block, in a folder and with a home of its own."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    ours = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE.parent)])} if peer.requirements is None else {}
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", **ours}
    log = folder / f"{peer.adapter}.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(str(peer.python), str(HERE / "adapters" / f"{peer.adapter}.py")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=environment,
            limit=2**24,
        )
    running = Running(process, log)
    try:
        await running.ask(START_SECONDS, **given, folder=str(folder))
        yield running
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 60)
    finally:
        if process.returncode is None:
            await asyncio.to_thread(end_family, process.pid)
            await process.wait()
