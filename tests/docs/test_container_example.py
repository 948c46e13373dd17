"""The example of a container: the real plan and the real program, on an engine that has everything but containers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from dalang.loading import load_plan
from dalang.settings import Settings
from tests.engine.fake_docker import DIGEST, Container, FakeDocker
from tests.engine.kit import body_of, engine
from tests.harness import ROOT

EXAMPLES = ROOT / "examples"


def run_words(container: Container) -> None:
    """Run the program of the image in a process."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(container.files[container.env["DALANG_INPUTS_FILE"]])
        file.flush()
        env: dict[str, str] = {**os.environ, **container.env, "DALANG_INPUTS_FILE": file.name}
        script = [sys.executable, str(EXAMPLES / "container/words.py")]
        ended: Any = subprocess.run(script, env=env, capture_output=True, text=True, check=False)
    container.write(1, ended.stdout)
    container.write(2, ended.stderr)
    container.end(ended.returncode)


async def test_the_container_example_counts(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image is pulled, its program runs, and what is wrong with its inputs is in the node's error."""
    monkeypatch.setattr(Container, "run", run_words)
    plan = load_plan((EXAMPLES / "container.yaml").read_bytes()).require()
    fake = FakeDocker()
    fake.registry.add(f"registry.example/team/words@{DIGEST}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "docker.sock"
        update = {"container_engine": f"unix://{path}"}
        async with fake.serving(path), engine(settings.model_copy(update=update)) as running:
            ended = await (await running.start_plan(plan, {"text": "satu dua tiga"})).end()
            failed = await (await running.start_plan(plan, {"text": ""})).end()
    assert ended["result"]["outputs"] == {"words": 3}
    assert fake.made[0].config["HostConfig"]["NanoCpus"] == 500_000_000
    error = body_of(failed, "NODE_FAILED", "count")["error"]
    assert error["message"] == "the container exited with 1: there is no text"
