"""`dalang up` as a person sees it: everything starts, a dead worker comes back, Ctrl-C ends it all."""

import importlib.util
import os
import signal
import subprocess
import sys
import urllib.request

import psutil
import pytest

from dalang.settings import Settings
from dalang.stack.processes import marked_process
from tests.harness import ROOT

UP = (
    "import asyncio\n"
    "from dalang.settings import Settings\n"
    "from dalang.stack.up import up\n"
    "asyncio.run(up(Settings.load(running_stack=False)))\n"
)

has_api = importlib.util.find_spec("dalang.api.__main__") is not None


@pytest.mark.skipif(not has_api, reason="there is no `python -m dalang.api` yet")
def test_up_runs_everything_until_it_is_told_to_stop(free: Settings) -> None:
    """Ready means that the API answers; after SIGINT no process of it is left."""
    environment = {**os.environ, **free.environment()}
    up = subprocess.Popen([sys.executable, "-c", UP], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        until(up, "running;")
        with urllib.request.urlopen(f"{free.api_url}/health/ready", timeout=5) as answer:
            assert answer.status == 200
        processes = [marked_process(mark) for mark in sorted(free.home.glob("*.process"))]
        assert len(processes) == 4
        worker = marked_process(free.home / "worker.process")
        assert worker is not None
        worker.kill()
        until(up, "worker runs again")
        up.send_signal(signal.SIGINT)
        said, _ = up.communicate(timeout=60)
        assert up.returncode == 0, said
        assert said.endswith("stopped\n")
        assert not list(free.home.glob("*.process"))
        gone, alive = psutil.wait_procs([process for process in processes if process is not None], timeout=5)
        assert not alive, gone
    finally:
        if up.poll() is None:
            up.kill()
            up.communicate()


def until(up: subprocess.Popen[str], text: str) -> None:
    """Read what it says up to a line with ``text``; its end before that fails the test with all it said."""
    assert up.stdout is not None
    said = []
    for line in up.stdout:
        said.append(line)
        if text in line:
            return
    pytest.fail("it ended: " + "".join(said))
