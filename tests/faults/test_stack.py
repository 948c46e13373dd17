"""The API, and `dalang up` with all its processes, killed in mid-run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import text

from dalang.settings import Settings
from dalang.stack import ports, supervisor
from dalang.stack.private_files import make_home
from dalang.stack.supervisor import Stack, on_free_ports, stack
from dalang.store.engine import create_engine, transaction
from dalang.store.verification import verify_run
from dalang.temporal import TemporalUnavailable
from tests.faults.site import NODE_MODULES, Effects, Watch, chain, effect, until
from tests.harness import PATIENCE, ROOT

UP = (
    "import asyncio\n"
    "from dalang.settings import Settings\n"
    "from dalang.stack.up import up\n"
    "asyncio.run(up(Settings.load(running_stack=False)))\n"
)
ENDED = ("COMPLETED", "FAILED", "CANCELLED")
OF_UP = "default"
"""The tenant of a stack's own token."""


def client(settings: Settings) -> httpx.AsyncClient:
    """A client of the stack's API, with its token."""
    headers = {"Authorization": f"Bearer {settings.read_token()}"}
    return httpx.AsyncClient(
        base_url=f"{settings.api_url}/orchestrator", headers=headers, trust_env=False, timeout=PATIENCE
    )


async def ended(api: httpx.AsyncClient, run_id: str, within: float = PATIENCE) -> dict[str, Any]:
    """Wait for a run's end and return it."""
    async with asyncio.timeout(within):
        while True:
            with contextlib.suppress(httpx.TransportError):
                run: dict[str, Any] = (await api.get(f"/runs/{run_id}")).raise_for_status().json()
                if run["status"] in ENDED:
                    return run
            await asyncio.sleep(0.1)


async def chain_holds(settings: Settings, run_id: str) -> bool:
    """Whether nothing of the run's chain was changed."""
    engine = create_engine(settings, pooled=False)
    async with transaction(engine, OF_UP) as conn:
        return (await verify_run(conn, OF_UP, uuid.UUID(run_id))).valid


async def row_of(settings: Settings, key: str, within: float = PATIENCE) -> str:
    """Wait until the row of the run with this Idempotency-Key is committed; return the run's id."""
    engine = create_engine(settings, pooled=False)
    async with asyncio.timeout(within):
        while True:
            async with transaction(engine, OF_UP) as conn:
                query = text("select run_id from execution_runs where idempotency_key = :key")
                found = (await conn.execute(query, {"key": key})).scalar()
            if found is not None:
                return str(found)
            await asyncio.sleep(0.02)


@pytest.fixture
async def with_api(own_settings: Settings, folder: Path) -> AsyncIterator[Stack]:
    """A worker and an API as processes, on servers that may be stopped."""
    folder.mkdir()
    port = ports.free_port()
    more = {"api_port": port, "api_url": f"http://127.0.0.1:{port}", "node_modules": NODE_MODULES}
    async with stack(own_settings.model_copy(update=more), {"worker", "api"}) as running:
        yield running


async def test_a_run_is_started_after_its_api_was_killed(with_api: Stack, servers_up: Stack, folder: Path) -> None:
    """Killed between row and workflow: the next API starts it once, and the same Idempotency-Key is the same run."""
    key = uuid.uuid4().hex
    request: dict[str, Any] = {"plan": {"name": "left", **chain(effect(folder, "a"), effect(folder, "b"))}}
    headers = {"Idempotency-Key": key}
    async with client(with_api.settings) as api:
        await servers_up.kill("temporal")
        asking = asyncio.create_task(api.post("/execute", json=request, headers=headers))
        run_id = await row_of(with_api.settings, key)
        await with_api.kill("api")
        with pytest.raises(httpx.TransportError):
            await asking
        await servers_up.start("temporal")
        await with_api.start("api")
        watch = Watch()
        run = await ended(api, run_id)
        print(f"\nended {watch.seconds():.1f} s after the API was ready again")
        assert run["status"] == "COMPLETED"
        again = await api.post("/execute", json=request, headers=headers)
        assert again.json()["runId"] == run_id
        request["plan"]["name"] = "another"
        assert (await api.post("/execute", json=request, headers=headers)).status_code == 409
    assert {len(attempts) for attempts in Effects(folder).asked(run_id).values()} == {1}
    assert await chain_holds(with_api.settings, run_id)


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that every user can pass through."""
    folder = make_home(Path(tempfile.mkdtemp(prefix="dalang-up-")))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def test_a_run_goes_on_when_everything_was_killed(home: Path, folder: Path) -> None:
    """kill -9 of `dalang up` and all its processes in mid-run: after the next start in the same home it completes."""
    folder.mkdir()
    settings = on_free_ports(Settings(home=home, node_modules=NODE_MODULES))
    gate, effects = folder / "gate", Effects(folder)
    nodes = [effect(folder, f"n{at}", seconds=0.05) for at in range(5)]
    plan = {"name": "survivor", **chain(*nodes, effect(folder, "held", gate=str(gate)), effect(folder, "last"))}
    with up(settings) as everything:
        async with client(settings) as api:
            run_id = (await api.post("/execute", json={"plan": plan})).raise_for_status().json()["runId"]
            await until(lambda: "held" in effects.under_way(run_id))
        kill(everything)
    gate.touch()
    with up(settings):
        watch = Watch()
        async with client(settings) as api:
            run = await ended(api, run_id)
        print(f"\nended {watch.seconds():.1f} s after the stack was ready again")
        assert run["status"] == "COMPLETED"
        assert await chain_holds(Settings.load(home=home), run_id)
    asked = {node: [attempt for attempt, _ in attempts] for node, attempts in effects.asked(run_id).items()}
    assert asked.pop("held") in ([1, 2], [1, 3])
    assert {tuple(attempts) for attempts in asked.values()} == {(1,)}


class Stubborn:
    """A part that ends at once, and that cannot be started twice, for a reason of its own."""

    name = "stubborn"
    pid, running, log = 1, True, Path("log")

    def __init__(self) -> None:
        self.starts = 0

    async def start(self) -> None:
        self.starts += 1
        if self.starts in (2, 3):
            raise TemporalUnavailable("Temporal is away, too")

    async def wait(self) -> str:
        if self.starts >= 5:
            await asyncio.Event().wait()
        return "it ended"

    async def prepare(self) -> None: ...
    async def stop(self) -> None: ...
    async def kill(self) -> None: ...


async def test_what_cannot_be_started_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies while Temporal is away comes back as well, whatever its start raised meanwhile."""
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE_SECONDS", 0.01)
    said: list[str] = []
    running, part = Stack(Settings(home=tmp_path), said.append, supervised=True), Stubborn()
    running.add(part)
    await running.start(part.name)
    await until(lambda: part.starts == 5, 10)
    await running.stop(part.name)
    assert "stubborn cannot be started: Temporal is away, too" in "".join(said)


@contextlib.contextmanager
def up(settings: Settings) -> Iterator[psutil.Process]:
    """A process like `dalang up`, ready; ended with all its children at the end of the block, if it still runs."""
    environment = {**os.environ, **settings.environment()}
    process = subprocess.Popen(
        [sys.executable, "-c", UP],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("running;"):
                break
        else:
            pytest.fail("it ended: " + "".join(said))
        yield psutil.Process(process.pid)
        process.terminate()
        process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            kill(psutil.Process(process.pid))
        process.communicate()


def kill(process: psutil.Process) -> None:
    """End a process and all its children as a crash of the machine would."""
    family = [process, *process.children(recursive=True)]
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(family, 10)
