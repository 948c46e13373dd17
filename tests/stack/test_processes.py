"""Child processes, their marks on disk, and ports."""

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import psutil
import pytest

from dalang import start
from dalang.stack import ports
from dalang.stack.errors import StackError
from dalang.stack.processes import Child, end_leftover, marked_process, write_mark
from tests.harness import PATIENCE

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


def sleeper(folder: Path) -> Child:
    return Child("sleeper", SLEEPER, log=folder / "log", mark=folder / "mark")


async def test_a_child_is_started_marked_and_stopped(tmp_path: Path) -> None:
    """The mark is there exactly while it should run."""
    child = sleeper(tmp_path)
    await child.start()
    found = marked_process(tmp_path / "mark")
    assert found is not None
    assert found.pid == child.pid
    await child.stop()
    assert not child.running
    assert not (tmp_path / "mark").exists()


async def test_what_a_crash_left_is_ended_by_its_mark(tmp_path: Path) -> None:
    """A process that nobody waits for any more ends, and is forgotten."""
    orphan = subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL)
    write_mark(tmp_path / "mark", orphan.pid, "orphan")
    waiting = asyncio.create_task(asyncio.to_thread(orphan.wait))
    assert await end_leftover(tmp_path / "mark")
    # It has ended; whoever of the two that waited for it came second is told 0, not the signal.
    assert await waiting in (-signal.SIGTERM, 0)
    assert orphan.poll() is not None
    assert not await end_leftover(tmp_path / "mark")


async def test_a_pid_that_was_given_to_another_process_is_not_signalled(tmp_path: Path) -> None:
    """The mark holds the start time too."""
    other = subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL)
    try:
        earlier = psutil.Process(other.pid).create_time() - 60
        (tmp_path / "mark").write_text(json.dumps({"pid": other.pid, "started": earlier, "name": "was-ours"}))
        assert not await end_leftover(tmp_path / "mark")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """kill -9 of the parent reaches the child as its stop signal."""
    code = (
        "import asyncio, sys, pathlib\n"
        "from tests.stack.test_processes import sleeper\n"
        "async def main():\n"
        f"    child = sleeper(pathlib.Path({str(tmp_path)!r}))\n"
        "    await child.start()\n"
        "    print(child.pid, flush=True)\n"
        "    await child.wait()\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    gone, _ = psutil.wait_procs([child], timeout=PATIENCE)
    assert gone or child.status() == psutil.STATUS_ZOMBIE


async def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    """The error says which part and why."""
    child = Child("Part", ["/nowhere/program"], log=tmp_path / "log", mark=tmp_path / "mark")
    with pytest.raises(StackError, match=r"Part cannot be started: .*nowhere"):
        await child.start()


async def test_a_child_that_fails_shows_the_end_of_its_log(tmp_path: Path) -> None:
    """What it wrote last is in the error."""
    command = [sys.executable, "-c", "import sys; sys.exit('the reason')"]
    child = Child("Part", command, log=tmp_path / "log", mark=tmp_path / "mark")
    await child.start()
    assert await child.wait() == 1
    assert "exit code 1" in child.failure()
    assert "the reason" in child.failure()


def test_a_port_in_use_names_the_setting_and_the_process() -> None:
    """So that one can end it, or move."""
    with socket.create_server((ports.LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=rf"port {port} \(DALANG_X\).*pid {os.getpid()}\).*set DALANG_X"):
            ports.require_free(port, "DALANG_X")
    ports.require_free(port, "DALANG_X")


async def test_a_child_that_asks_is_told_one_line(tmp_path: Path) -> None:
    """It may have much to do before it reads it; one that has ended meanwhile is no error of who tells it."""
    command = [sys.executable, "-c", "print(input())"]
    asking = Child("Part", command, log=tmp_path / "log", mark=tmp_path / "mark", asks=True)
    await asking.start()
    await asking.tell("go on")
    assert await asking.wait() == 0
    await asking.tell("go on")
    assert (tmp_path / "log").read_text() == "go on\n"


@pytest.mark.parametrize(("line", "code", "known"), [('{"DALANG_HOME": "there"}\n', 7, "there"), ("", 0, None)])
def test_a_process_begins_with_what_it_is_told(
    line: str, code: int, known: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings come after the imports; where nobody is left to tell them it ends."""
    monkeypatch.delenv("DALANG_HOME", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO(line))
    monkeypatch.setitem(sys.modules, "a_root", SimpleNamespace(main=lambda: 7))
    monkeypatch.setitem(start.ROOTS, "root", "a_root")
    monkeypatch.setattr(start, "gc", mock.Mock())
    assert start.become("root", told=True) == code
    assert os.environ.pop("DALANG_HOME", None) == known
