"""The program that tests of documentation run instead of ``dalang`` is ``dalang``."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dalang import __version__
from tests.forking import forking


async def _ran(words: str, env: dict[str, str], place: Path) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", words, cwd=place, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def programs_folder() -> Iterator[Path]:
    """Where programs may be: not every file system of memory lets them run."""
    with tempfile.TemporaryDirectory(prefix="dalang-forking-") as folder:
        yield Path(folder) / "it"


def _catches(pid: int, number: int) -> bool:
    (caught,) = [line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "SigCgt" in line]
    return bool(int(caught, 16) >> (number - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at processes as Linux shows them")
async def test_it_is_the_program(tmp_path: Path, programs_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments, folder, environment, files and exit code arrive, the first time and when it is forked."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (tmp_path / "a.yaml").write_text("name: a\nnodes: [{nodeId: n, type: noop}]\n")
    async with forking(programs_folder, dict(os.environ)) as programs:
        env = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "DALANG_HOME": str(tmp_path)}
        for _ in range(2):
            assert await _ran("dalang --version", env, tmp_path) == (0, f"dalang {__version__}\n", "")
            assert await _ran("dalang plan validate a.yaml", env, tmp_path) == (
                0,
                "a.yaml: 1 nodes, 0 edges; valid\n",
                "",
            )
            code, out, err = await _ran(
                "dalang plan validate - <a.yaml 2>&1 | cat; exit ${PIPESTATUS[0]}", env, tmp_path
            )
            assert (code, err) == (0, "")
            assert "<stdin>: 1 nodes" in out
            code, out, err = await _ran("dalang plan validate b.yaml", env, tmp_path)
            assert (code, out) == (2, "")
            assert "There is no file b.yaml." in err
            code, _, err = await _ran("dalang list", {**env, "DALANG_NONSENSE": "1"}, tmp_path)
            assert code == 2
            assert "DALANG_NONSENSE" in err
        assert (programs_folder / "used" / "plan").exists()
        # A command that waits is ended by the signal that its caller gets.
        waiting = await asyncio.create_subprocess_exec(
            "dalang", "plan", "validate", "-", cwd=tmp_path, env=env, stdin=asyncio.subprocess.PIPE
        )
        while not _catches(waiting.pid, signal.SIGTERM):
            await asyncio.sleep(0.02)
        waiting.send_signal(signal.SIGTERM)
        assert await waiting.wait() == -signal.SIGTERM
