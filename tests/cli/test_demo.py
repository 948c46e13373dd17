"""``dalang demo`` as a newcomer types it: one command, a real stack, a result, nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dalang.stack.private_files import make_home
from tests.harness import ROOT


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary folders that PostgreSQL's system user can pass through."""
    with tempfile.TemporaryDirectory(prefix="dalang-cli-") as folder:
        yield make_home(Path(folder))


def demo(temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "TMPDIR": str(temporary),
        "DALANG_HOME": str(temporary / "none"),
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "dalang.cli", "demo", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def processes_of(temporary: Path) -> list[psutil.Process]:
    """Processes that were started with something of this folder on their command line."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(temporary) in part for part in process.info["cmdline"] or ()):
            found.append(process)
    return found


def test_the_demo_shows_a_run_and_leaves_nothing_behind(temporary: Path) -> None:
    """Its exit code is the run's; it says how to go on."""
    process = demo(temporary)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "✓ COMPLETED" in out
    assert re.search(r"^Code Review +SUCCESS", out, re.MULTILINE)
    for address in ("API reference", "Temporal Web UI"):
        assert re.search(rf"^{address} +http://127.0.0.1:\d+", out, re.MULTILINE)
    assert " up --node-modules dalang.demo" in out
    assert not list(temporary.glob("dalang-demo-*"))
    assert not processes_of(temporary)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_interrupted_leaves_nothing_behind(temporary: Path, number: signal.Signals) -> None:
    """Also while the stack is still starting."""
    process = demo(temporary)
    assert process.stdout is not None
    assert "Starting" in process.stdout.readline()
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not list(temporary.glob("dalang-demo-*"))
    assert not processes_of(temporary)


def test_a_plan_that_is_invalid_starts_no_stack(temporary: Path) -> None:
    """The problems come at once."""
    plan = temporary / "bad.yaml"
    plan.write_text("name: bad\nnodes: []\n")
    process = demo(temporary, str(plan))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "NO_NODES" in err
    assert out == ""
