"""Jobs in containers and tasks of hubs while the worker that waits for them goes: the next goes on with the same."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dalang import runtime_hub as hub
from dalang.settings import Settings
from tests.engine.fake_docker import DIGEST, FakeDocker
from tests.engine.kit import body_of
from tests.engine.test_runtime_hub import FakeHub, serving
from tests.faults.site import site


@pytest.fixture
async def engine() -> AsyncIterator[tuple[FakeDocker, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "docker.sock"
        async with FakeDocker().serving(path) as fake:
            yield fake, path


@pytest.mark.soak
@pytest.mark.parametrize("killed", [True, False])
async def test_another_worker_takes_over(
    settings: Settings, folder: Path, engine: tuple[FakeDocker, Path], killed: bool
) -> None:
    """Killed, or sent away at once: the container was started once, the task sent once, and both are taken."""
    docker, path = engine
    settings = settings.model_copy(
        update={"container_engine": f"unix://{path}", "graceful_shutdown_seconds": 0.2},
    )
    fake = FakeHub()
    implementation = {"type": "container", "coordinate": "team/words", "digest": DIGEST, "args": ["hang"]}
    async with serving(fake.app) as fake.url, site(settings, folder) as made:
        plan: dict[str, Any] = {
            "nodes": [
                {"nodeId": "job", "type": "container", "descriptor": {"implementation": implementation}},
                {"nodeId": "task", "type": "runtime-hub", "inputs": {"url": fake.url, "pollInterval": "50ms"}},
            ]
        }
        fake.answers = [(202, {})]
        started = await made.engine.start(plan)
        task = str(hub.task_id(f"{started.run_id}:task:0:0", 0))
        fake.statuses[task] = [(404, {}), "RUNNING"]
        job = await docker.until("running")
        while not fake.executed:
            await asyncio.sleep(0.02)
        await (made.stack.kill("worker") if killed else made.stack.stop("worker"))
        assert job.status == "running"
        job.write(1, '{"done": 1}\n')
        job.end(0)
        fake.statuses[task] = [{"status": "SUCCESS", "outputs": {"done": 2}}]
        await made.stack.start("worker")
        ended = await started.end()
    assert ended["run"]["status"] == "COMPLETED", ended["run"]
    assert [body_of(ended, "NODE_COMPLETED", one)["outputs"] for one in ("job", "task")] == [{"done": 1}, {"done": 2}]
    assert (len(docker.made), job.starts, len(docker.removed)) == (1, 1, 1)
    assert [one["taskId"] for one in fake.executed] == [task]
    assert fake.cancelled == []
