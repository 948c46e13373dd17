"""Workers and APIs for tests that start many of them: forked from a process that has imported both already.

A start of a worker or an API computes for more than a second before it can begin. Within :func:`forked_parts` a stack
asks a process like that of ``tests/forking.py`` to fork instead; settings, signals, exit codes and death are as ever.
The first worker and the first API of a test process are the real program, and all where Python would read other
settings from the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from dalang.stack import python_process
from dalang.stack.processes import Child
from tests.harness import PATIENCE, ROOT


def _pythonic(environment: Any) -> dict[str, str]:
    """What Python itself reads at its start."""
    unread = ("PYTHONUNBUFFERED", "PYTHONPATH")  # every line is flushed, and ROOT is all that stacks look in
    return {name: value for name, value in environment.items() if name.startswith("PYTHON") and name not in unread}


class _Forks:
    """The process that forks, started when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.address = folder / "socket"
        self.used: set[str] = set()
        self.process: subprocess.Popen[bytes] | None = None

    def can(self, child: Child) -> bool:
        """Whether this child may be forked: not the first of its kind, and nothing special."""
        root, first = child.command[3], child.command[3] not in self.used
        self.used.add(root)
        paths = (child.environment or {}).get("PYTHONPATH", str(ROOT)).split(os.pathsep)
        return not first and paths == [str(ROOT)] and _pythonic(child.environment or {}) == _pythonic(os.environ)

    async def connection(self) -> socket.socket:
        """A connection to the process that forks."""
        if self.process is None:
            command = [sys.executable, "-m", "tests.forking", str(self.address), "services"]
            self.process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        async with asyncio.timeout(PATIENCE):
            while not self.address.exists():
                assert self.process.poll() is None, "it ended"
                await asyncio.sleep(0.02)
        made = socket.socket(socket.AF_UNIX)
        made.connect(str(self.address))
        return made

    def end(self) -> None:
        """End the process that forks, and with it what it forked."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


class _Input:
    """The end of a pipe that is the input of a child."""

    def __init__(self, file: int) -> None:
        self.file: int | None = file

    def write(self, data: bytes) -> None:
        assert self.file is not None
        os.write(self.file, data)

    async def drain(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        if self.file is not None:
            os.close(self.file)
            self.file = None


class _Process:
    """What :class:`Child` asks of ``asyncio.subprocess.Process``, of a process that another has forked."""

    def __init__(self, pid: int, stdin: _Input, connection: socket.socket) -> None:
        self.pid = pid
        self.stdin = stdin
        self.returncode: int | None = None
        self._ended = asyncio.create_task(self._end(connection))

    async def _end(self, connection: socket.socket) -> int:
        with connection:
            told = await asyncio.get_running_loop().sock_recv(connection, 4)
        self.stdin.close()
        # Where the one that forks is gone, so are its children.
        self.returncode = int.from_bytes(told, "big", signed=True) if told else -signal.SIGKILL
        return self.returncode

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)


@contextlib.contextmanager
def forked_parts() -> Iterator[None]:
    """Fork the workers and APIs of the stacks of this process, but for the first ones."""
    with tempfile.TemporaryDirectory(prefix="dalang-forks-") as folder, pytest.MonkeyPatch.context() as patch:
        forks = _Forks(Path(folder))

        class Forked(Child):
            async def _spawn(self, log: BinaryIO) -> Any:
                if not forks.can(self):
                    return await super()._spawn(log)
                connection = await forks.connection()
                reading, writing = os.pipe()
                place, environment = str(self.folder or Path.cwd()), dict(self.environment or os.environ)
                asked = marshal.dumps(([self.command[3]], place, environment))
                socket.send_fds(connection, [len(asked).to_bytes(8, "big")], [reading, log.fileno(), log.fileno()])
                os.close(reading)
                connection.sendall(asked)
                connection.setblocking(False)
                pid = int.from_bytes(await asyncio.get_running_loop().sock_recv(connection, 8), "big")
                return _Process(pid, _Input(writing), connection)

        if sys.platform == "linux":
            patch.setattr(python_process, "Child", Forked)
        try:
            yield
        finally:
            forks.end()
