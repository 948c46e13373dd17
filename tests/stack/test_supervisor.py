"""Stacks as a whole: one per home, started again after any crash, watched while they run."""

import asyncio
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import asyncpg
import psutil
import pytest

from dalang.settings import Settings
from dalang.stack import ports
from dalang.stack.errors import StackError
from dalang.stack.python_process import PythonProcess
from dalang.stack.supervisor import SERVERS, stack
from dalang.stack.up import own_parts
from dalang.temporal import connect
from tests.harness import PATIENCE, ROOT

SUPERVISOR = """
import asyncio, sys
from dalang.settings import Settings
from dalang.stack.supervisor import SERVERS, stack

async def main():
    settings = Settings.load(running_stack=False)
    async with stack(settings, SERVERS, migrate=False, supervised=True) as running:
        print("up", *(part.pid for part in running.parts.values()), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def supervisor(settings: Settings, before: str = "") -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A process like `dalang up`, and the servers it started."""
    environment = {**os.environ, **settings.environment()}
    process = subprocess.Popen(
        [sys.executable, "-c", before + SUPERVISOR], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = process.stdout.readline().split()
    assert said[:1] == ["up"]
    return process, [psutil.Process(int(pid)) for pid in said[1:]]


async def answers(settings: Settings) -> None:
    """Both servers of a stack answer."""
    await connect(settings, timeout_seconds=10)
    connection = await asyncpg.connect(settings.database_url.replace("+asyncpg", ""))
    await connection.close()


async def test_the_next_start_works_after_kill_9_of_the_supervisor(free: Settings) -> None:
    """Also at once, while what the killed one left is still going down."""
    process, _ = supervisor(free)
    process.kill()
    process.communicate()
    async with stack(free, SERVERS, migrate=False) as running:
        await answers(running.settings)


async def test_the_next_start_ends_servers_that_survived_the_supervisor(free: Settings) -> None:
    """Where the system does not tell children of their parent's death, their marks do."""
    process, servers = supervisor(free, before="import dalang.stack.processes; dalang.stack.processes._libc = None")
    process.kill()
    process.communicate()
    assert all(alive(server) for server in servers)
    await connect(free, timeout_seconds=5)
    async with stack(free, SERVERS, migrate=False) as running:
        await answers(running.settings)
        assert not any(alive(server) for server in servers)


async def test_a_second_stack_in_a_home_is_refused_with_the_pid_of_the_first(free: Settings) -> None:
    """The lock ends with its process."""
    async with stack(free, (), migrate=False):
        with pytest.raises(StackError, match=rf"already runs in .*pid {os.getpid()}"):
            async with stack(free, (), migrate=False):
                pass
    async with stack(free, (), migrate=False):
        pass


async def test_a_port_in_use_is_named_before_anything_starts(free: Settings) -> None:
    """The error names the setting; no server has been started for nothing."""
    named = rf"port {free.temporal_ui_port} \(DALANG_TEMPORAL_UI_PORT\)"
    with socket.create_server((ports.LOOPBACK, free.temporal_ui_port)), pytest.raises(StackError, match=named):
        async with stack(free, SERVERS, migrate=False):
            pass
    assert not (free.home / "logs").exists()


async def test_processes_of_the_same_folder_find_the_stack(free: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing set but the home, settings have the addresses and the token; the files are private."""
    monkeypatch.setenv("DALANG_HOME", str(free.home))
    async with stack(free, SERVERS, migrate=False, durable=False):
        found = Settings.load()
        assert found.temporal_address == free.temporal_address
        assert found.api_url == free.api_url
        assert found.read_token()
        await answers(found)
    for name in ("stack.json", "token", "postgres.json", "audit-key.pem"):
        assert stat.S_IMODE((free.home / name).stat().st_mode) == 0o600


async def test_a_part_that_dies_starts_again_and_a_stopped_one_does_not(free: Settings) -> None:
    """The watch tells crash from order."""
    said: list[str] = []
    again = asyncio.Event()

    def say(line: str) -> None:
        said.append(line)
        if "runs again" in line:
            again.set()

    async with stack(free, ("postgres",), migrate=False, durable=False, supervised=True, say=say) as running:
        await running.kill("postgres")
        await asyncio.wait_for(again.wait(), PATIENCE)
        assert "PostgreSQL ended with exit code -9" in said[0]
        await running.stop("postgres")
        assert not running.parts["postgres"].running
        await running.start("postgres")
        connection = await asyncpg.connect(running.settings.database_url.replace("+asyncpg", ""))
        await connection.close()
    assert len([line for line in said if "starts again" in line]) == 1


async def test_an_unsupervised_stack_leaves_a_killed_part_down(free: Settings) -> None:
    """Fault tests decide themselves when it comes back."""
    async with stack(free, ("temporal",), migrate=False, durable=False) as running:
        await running.kill("temporal")
        assert not running.parts["temporal"].running
        await running.start("temporal")
        await connect(running.settings, timeout_seconds=10)


async def test_a_process_that_does_not_come_up_says_why(free: Settings) -> None:
    """The end of its log is in the error."""

    async def never(_: int) -> bool:
        return False

    part = PythonProcess("broken", "dalang.no_such_module", free, never)
    with pytest.raises(StackError, match=r"broken ended with exit code 1(?s:.*)no_such_module"):
        await part.start()


def test_servers_of_ones_own_are_used_instead(home: Path) -> None:
    """What the settings place elsewhere is not started."""
    assert own_parts(Settings(home=home)) == {"postgres", "temporal", "worker", "api"}
    assert own_parts(Settings(home=home, database_url="postgresql://a:b@db/d")) == {"temporal", "worker", "api"}
    assert own_parts(Settings(home=home, temporal_address="cloud:7233")) == {"postgres", "worker", "api"}
    assert own_parts(Settings(home=home, temporal_port=7300)) == {"postgres", "temporal", "worker", "api"}
