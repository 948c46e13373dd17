"""Child processes that are found again: started with a mark on disk, ended by that mark after a crash.

A mark holds the pid *and* the start time of a process, so that a pid that the system gave to someone else
meanwhile is never signalled.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from dalang.stack.errors import StackError
from dalang.stack.private_files import write_private

_PR_SET_PDEATHSIG = 1
_LARGEST_LOG = 20 * 1024 * 1024
# Loaded here because the function between fork and exec must not import or load anything.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class Child:
    """One server or process of the stack: its command, its log, its mark.

    ``stop_signal`` asks it to end; on Linux it also gets that signal when this process dies, however it dies.
    Start it from the main thread: Linux ties that to the thread that forked. One that ``asks`` reads its first line of
    input, which :meth:`tell` gives it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        mark: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        asks: bool = False,
    ) -> None:
        self.name = name
        self.command = tuple(command)
        self.log = log
        self.mark = mark
        self.environment = environment
        self.folder = folder
        self.user = user
        self.stop_signal = stop_signal
        self.asks = asks
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The pid while it runs, else None."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def running(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self.pid is not None

    async def start(self) -> None:
        """Start the process; its output is appended to its log. Raises :class:`StackError` if it cannot be started."""
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _rotate(self.log)
        with self.log.open("ab") as log:
            try:
                self._process = await self._spawn(log)
            except OSError as e:
                raise StackError(f"{self.name} cannot be started: {e}") from e
        write_mark(self.mark, self._process.pid, self.name)

    async def _spawn(self, log: BinaryIO) -> asyncio.subprocess.Process:
        identity: dict[str, Any] = (
            {"user": self.user, "group": _group_of(self.user), "extra_groups": []} if self.user else {}
        )
        return await asyncio.create_subprocess_exec(
            *self.command,
            stdin=asyncio.subprocess.PIPE if self.asks else asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.folder,
            env=dict(self.environment) if self.environment is not None else None,
            # Ctrl-C in a terminal reaches the supervisor alone, which stops the parts in order.
            start_new_session=True,
            preexec_fn=DiesWithParent(self.stop_signal, os.getpid()) if _libc is not None else None,
            **identity,
        )

    async def tell(self, line: str) -> None:
        """Give the process its only line of input; what has ended meanwhile says so by its exit code."""
        if self._process is None or self._process.stdin is None:
            raise StackError(f"{self.name} has not been started, or asks nothing")
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(line.encode() + b"\n")
            await self._process.stdin.drain()
            self._process.stdin.close()

    async def wait(self) -> int:
        """Wait until the process ends and return its exit code (negative: the signal that ended it)."""
        if self._process is None:
            raise StackError(f"{self.name} has not been started")
        return await self._process.wait()

    async def stop(self, seconds: float = 10) -> None:
        """Ask the process to end and wait; after ``seconds`` kill it. Does nothing if it does not run."""
        if self._process is None or not self.running:
            self.mark.unlink(missing_ok=True)
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(self.stop_signal)
        try:
            await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            await self.kill()
        self.mark.unlink(missing_ok=True)

    async def kill(self) -> None:
        """End the process and its own children at once, as a crash would (SIGKILL), and wait until they are gone."""
        if self._process is None or not self.running:
            return
        await asyncio.to_thread(end_family, self._process.pid)
        await self._process.wait()

    def failure(self) -> str:
        """Say that it ended, how, and what its log says last: the text for an error."""
        code = self._process.returncode if self._process is not None else None
        return f"{self.name} ended with exit code {code}; the end of {self.log}:\n{tail(self.log)}"


def write_mark(mark: Path, pid: int, name: str) -> None:
    """Note on disk that ``pid`` is ours."""
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(pid).create_time()
        write_private(mark, json.dumps({"pid": pid, "started": started, "name": name}))


def marked_process(mark: Path) -> psutil.Process | None:
    """Return the process that ``mark`` speaks of, or None if it is gone or its pid is another process now."""
    try:
        note = json.loads(mark.read_text(encoding="utf-8"))
        process = psutil.Process(int(note["pid"]))
        same = abs(process.create_time() - float(note["started"])) < 1
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    return process if same and process.status() != psutil.STATUS_ZOMBIE else None


async def end_leftover(mark: Path, stop_signal: signal.Signals = signal.SIGTERM, seconds: float = 10) -> bool:
    """End what an earlier, crashed supervisor left running, and forget the mark; True if there was anything."""
    process = marked_process(mark)
    if process is not None:
        await end_process(process, stop_signal, seconds)
    await asyncio.to_thread(mark.unlink, missing_ok=True)
    return process is not None


async def end_process(process: psutil.Process, stop_signal: signal.Signals, seconds: float) -> None:
    """Ask a process that is not our child to end; after ``seconds`` kill it and its children."""
    family = _family(process.pid)
    with contextlib.suppress(psutil.Error):
        process.send_signal(stop_signal)
    _, alive = await asyncio.to_thread(psutil.wait_procs, family, seconds)
    await asyncio.to_thread(_kill, alive)


def end_family(pid: int) -> None:
    """End a process and its children at once (SIGKILL), and return when they are gone, 5 s later at the latest."""
    _kill(_family(pid))


def tail(log: Path, lines: int = 12) -> str:
    """Return the last ``lines`` lines of a log file, indented."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            last = file.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        last = []
    return "\n".join(f"  {line}" for line in last) or "  (empty)"


def _rotate(log: Path) -> None:
    """Put a log that has grown large aside as ``<name>.old``, at the start of the process that writes it."""
    if log.exists() and log.stat().st_size > _LARGEST_LOG:
        log.replace(log.with_name(f"{log.name}.old"))


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(family: list[psutil.Process]) -> None:
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(family, 5)


def _group_of(user: str | None) -> int | None:
    if user is None:
        return None
    import pwd

    return pwd.getpwnam(user).pw_gid


class DiesWithParent:
    """Called between fork and exec: ask Linux to signal this process when its parent dies."""

    def __init__(self, stop_signal: signal.Signals, parent: int) -> None:
        self.stop_signal = int(stop_signal)
        self.parent = parent

    def __call__(self) -> None:
        """Ask; end at once where it is dead already."""
        assert _libc is not None
        _libc.prctl(_PR_SET_PDEATHSIG, self.stop_signal, 0, 0, 0)
        if os.getppid() != self.parent:  # the parent died before the line above
            os._exit(1)
