"""Agents in processes of their own, and workers beside them, that are killed in the midst of the work."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dalang.settings import Settings
from dalang.stack.ports import free_port
from dalang.store.engine import system_transaction
from dalang.store.tokens import create_token
from tests.engine.agents import Client, agents_of, api, outputs, program, register, said, served, start, wants
from tests.engine.kit import TENANT
from tests.faults.site import Site, site, until
from tests.harness import PATIENCE, ROOT


@pytest.fixture
async def with_api(settings: Settings, folder: Path) -> AsyncIterator[Site]:
    """A worker process, and the API on a port for programs."""
    settings = settings.model_copy(update={"api_port": free_port()})
    async with site(settings, folder) as made, served(settings):
        yield made


async def test_an_agent_that_is_killed_is_followed_by_another(with_api: Site, tmp_path: Path) -> None:
    """The program of the examples, by HTTP: the second does what the first had begun, under the same key."""
    async with system_transaction(with_api.engine.db) as conn:
        plain, _ = await create_token(conn, TENANT, "agents", ["agent"])
    token = tmp_path / "token"
    token.write_text(plain)
    script = [ROOT / "examples/poll_agent.py", "--api", f"http://127.0.0.1:{with_api.engine.settings.api_port}"]
    common = ["--token-file", token, "--capability", "counting", "--heartbeat", 3]
    async with program(*script, *common, "--id", "a-first") as first:
        node = wants("n", "counting", inputs={"text": "to be or not", "seconds": 3600})
        started = await start(with_api.engine, node)
        await said(first, "took n")
        first.kill()
        await first.wait()
        async with program(*script, *common, "--id", "b-second") as second:
            await said(second, "took n attempt 2")
            await started.handle.execute_update("cancel", {})
            assert agents_of(await started.end(), "n") == ["a-first", "b-second"]
            await said(second, "not wanted any more: n")
            quick = await start(with_api.engine, wants("n", "counting", inputs={"text": "to be or not"}))
            end = await quick.end()
    assert outputs(end, "n") == {"words": 4, "by": "b-second", "key": f"{quick.run_id}:n:0:0"}


@pytest.mark.parametrize("ended_meanwhile", [True, False])
async def test_a_worker_that_is_killed_finds_the_agent_still_at_work(workers: Site, ended_meanwhile: bool) -> None:
    """The next attempt goes on waiting for the same assignment, or takes how it ended; nothing is done twice."""
    await register(workers.engine, "ida", capabilities={"k-work": 1})
    async with api(workers.engine) as http:
        ida = Client(http, "ida")
        started = await start(workers.engine, wants("n", "k-work"))
        one = await ida.poll()
        await workers.stack.kill("worker")
        if ended_meanwhile:
            assert await ida.tell(one, "complete", outputs={"once": True}) == 200
        await workers.stack.start("worker")
        if not ended_meanwhile:
            async with asyncio.timeout(PATIENCE):
                while len(agents_of(await started.stored(), "n")) < 2:
                    await asyncio.sleep(0.1)
            assert (await http.post(f"{ida.at}/poll", json={"waitSeconds": 1})).status_code == 204
            assert await ida.tell(one, "complete", outputs={"once": True}) == 200
        end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    assert outputs(end, "n") == {"once": True}
    assert agents_of(end, "n") == ["ida", "ida"]


async def test_a_worker_that_ends_leaves_the_work_to_the_next(settings: Settings, folder: Path) -> None:
    """Its time to drain is up while the agent is at work."""
    settings = settings.model_copy(update={"graceful_shutdown_seconds": 1})
    async with site(settings, folder) as workers, api(workers.engine) as http:
        await register(workers.engine, "kim", capabilities={"k-drain": 1})
        kim = Client(http, "kim")
        started = await start(workers.engine, wants("n", "k-drain"))
        one = await kim.poll()
        assert await workers.sigterm() == 0
        await workers.stack.start("worker")
        assert await kim.tell(one, "complete", outputs={"once": True}) == 200
        end = await started.end()
    assert end["run"]["status"] == "COMPLETED", str(end["run"]["error"])
    assert outputs(end, "n") == {"once": True}


@pytest.fixture
async def queue(workers: Site) -> str:
    """The task queue of an agent that is a Temporal worker."""
    name = f"agents-{uuid.uuid4().hex[:8]}"
    endpoint = {"taskQueue": name, "activity": "answer", "heartbeatMs": 2000}
    await register(
        workers.engine, "q1", "taskQueue", endpoint=endpoint, capabilities={"q-work": 1}, heartbeat_seconds=90
    )
    return name


def foreign(workers: Site, queue: str, name: str) -> contextlib.AbstractAsyncContextManager[Any]:
    address = workers.engine.settings.temporal_address
    return program(Path(__file__).with_name("queue_agent.py"), address, queue, name)


def logged(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


async def test_a_temporal_worker_of_its_own_does_nodes_on_its_queue(workers: Site, queue: str, tmp_path: Path) -> None:
    """It gets plain JSON and answers plain JSON; large outputs, failures and rubbish are what they are for others."""
    log = tmp_path / "log"

    async def end(**inputs: Any) -> Mapping[str, Any]:
        kind = inputs.pop("kind", "agent")
        node = wants("n", "q-work", kind, inputs={"log": str(log), **inputs})
        return await (await start(workers.engine, node)).end()

    async with foreign(workers, queue, "one"):
        done = await end()
        assert outputs(done, "n") == {"by": "one", "text": "x", "big": 0}
        assert agents_of(done, "n") == ["q1"]
        assert outputs(await end(kind="only-theirs"), "n")["by"] == "one"
        large = await end(size=100_000)
        assert outputs(large, "n")["text"] == "x" * 100_000
        again = await end(fail=True)
        assert [row["data"]["attempt"] for row in again["events"] if row["type"] == "NODE_STARTED"] == [1, 2]
        assert {key for _, key in logged(log)[-2:]} == {f"{again['run']['run_id']}:n:0:0"}
        assert (await end(refuse=True))["run"]["error"]["message"] == "never"
        assert "is not JSON" in (await end(unsafe=True))["run"]["error"]["message"]
        assert "at most 262,144 bytes" in (await end(size=300_000))["run"]["error"]["message"]
        before = len(logged(log))
        refused = await end(padding="x" * 70_000)
        assert "a node gets at most" in refused["run"]["error"]["message"]
        assert len(logged(log)) == before
        with_callback = wants("n", "q-work", inputs={"log": str(log)}, callback={"timeout": "1m"})
        refused = await (await start(workers.engine, with_callback)).end()
        assert "callback cannot go to an agent" in refused["run"]["error"]["message"]


async def test_a_temporal_worker_that_is_killed_is_followed_by_another_agent(
    workers: Site, queue: str, tmp_path: Path
) -> None:
    """Its heartbeats end, the attempt fails, and the node goes to another agent, under the same key."""
    log, other = tmp_path / "log", {"taskQueue": f"{queue}-2", "activity": "answer", "heartbeatMs": 2000}
    await register(workers.engine, "q2", "taskQueue", endpoint=other, capabilities={"q-work": 0.5})
    async with foreign(workers, queue, "one") as one, foreign(workers, f"{queue}-2", "two"):
        started = await start(workers.engine, wants("n", "q-work", inputs={"log": str(log), "seconds": 3600}))
        await until(lambda: logged(log))
        one.kill()
        await until(lambda: len(logged(log)) == 2, 30)
        await started.handle.execute_update("cancel", {})
        end = await started.end()
    assert end["run"]["status"] == "CANCELLED"
    assert agents_of(end, "n") == ["q1", "q2"]
    assert [name for name, _ in logged(log)] == ["one", "two"]
    assert len({key for _, key in logged(log)}) == 1
