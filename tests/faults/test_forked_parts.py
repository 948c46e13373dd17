"""The workers that tests fork instead of starting them are processes as others, to whoever started them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from dalang.stack import python_process


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere none is forked")
async def test_it_ends_as_a_process_does(tmp_path: Path) -> None:
    """The first one is the program itself; those after it have its command's exit code, signals, session and log."""
    for number in range(3):
        child = python_process.Child(
            "part",
            [sys.executable, "-m", "dalang.start", "worker", "--told"],
            log=tmp_path / "log",
            mark=tmp_path / "mark",
            environment=dict(os.environ),
            asks=True,
        )
        await child.start()
        assert child.running
        assert child.pid is not None
        parents = [one.pid for one in psutil.Process(child.pid).parents()]
        assert os.getpid() in parents
        if number == 0:
            await child.tell("nonsense")
            assert await child.wait() == 1
            assert "JSONDecodeError" in (tmp_path / "log").read_text()
        elif number == 1:
            await child.tell('{"DALANG_NONSENSE": "1"}')
            assert await child.wait() == 2
            assert "dalang worker: DALANG_NONSENSE" in (tmp_path / "log").read_text()
        else:
            while os.getsid(child.pid) != child.pid:
                await asyncio.sleep(0.02)
            await child.kill()
            assert await child.wait() == -signal.SIGKILL
        assert not child.running
