"""The node type ``container`` against a fake of the Docker Engine API that keeps its contract."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dalang.activities.container import ContainerRules, Containers, container_name
from dalang.activities.docker import Frames, _prefix
from dalang.errors import ErrorType
from dalang.nodes import NodeContext, NodeFailure
from tests.engine.fake_docker import DIGEST, FakeDocker
from tests.engine.kit import Engine, body_of, node_events

KEY = "run-1:n:0:0"


@pytest.fixture
async def engine() -> AsyncIterator[FakeDocker]:
    with tempfile.TemporaryDirectory() as folder:
        async with FakeDocker().serving(Path(folder) / "docker.sock") as fake:
            fake.address = f"unix://{folder}/docker.sock"  # type: ignore[attr-defined]
            yield fake


@pytest.fixture
async def containers(engine: FakeDocker) -> AsyncIterator[Containers]:
    made = Containers(ContainerRules(engine.address, cpus=2, memory_mb=1024))  # type: ignore[attr-defined]
    yield made
    await made.close()


def context(*args: str, inputs: dict[str, Any] | None = None, **more: Any) -> NodeContext:
    """A node that runs this command."""
    implementation = {"type": "container", "coordinate": "team/words:1.0", "digest": DIGEST, "args": list(args)}
    implementation.update(more.pop("implementation", {}))
    more = {"implementation": implementation, **more}
    return NodeContext("n", "n", "container", "run-1", "t", inputs or {}, KEY, **more)


async def failure(containers: Containers, ctx: NodeContext) -> NodeFailure:
    """Run a job that must fail, and return how it did."""
    with pytest.raises(NodeFailure) as caught:
        await containers(ctx)
    return caught.value


async def test_a_job_from_inputs_to_outputs(containers: Containers, engine: FakeDocker) -> None:
    """Inputs in a file and the environment, outputs from the last line, a sandbox around it, and nothing is left."""
    inputs = {"text": "Käse", "n": 1}
    resources = {"cpuCores": 0.5, "memoryMb": 64, "gpu": 0}
    assert await containers(context("noisy", inputs=inputs, resources=resources)) == inputs
    (job,) = engine.made
    assert engine.removed == [container_name(KEY)]
    assert not engine.containers
    assert json.loads(job.files["/dalang/inputs.json"]) == json.loads(job.env["DALANG_INPUTS"]) == inputs
    assert job.env["DALANG_IDEMPOTENCY_KEY"] == KEY
    assert job.config["Image"] == f"team/words@{DIGEST}"
    host = job.config["HostConfig"]
    assert (host["NetworkMode"], host["CapDrop"], host["SecurityOpt"]) == ("none", ["ALL"], ["no-new-privileges"])
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (64 * 2**20, 64 * 2**20, 500_000_000)


async def test_large_inputs_are_in_the_file_only(containers: Containers, engine: FakeDocker) -> None:
    """An environment takes no more than 128 KiB in one variable."""
    inputs = {"text": "x" * 200_000}
    assert await containers(context(inputs=inputs)) == inputs
    assert "DALANG_INPUTS" not in engine.made[0].env


@pytest.mark.parametrize(
    ("ctx", "type", "retryable", "says"),
    [
        (context("exit", "3"), ErrorType.TOOL_ERROR, False, "exited with 3: the disk is full"),
        (context("exit", "75"), ErrorType.TOOL_ERROR, True, "exited with 75"),
        (context("oom"), ErrorType.RESOURCE_EXHAUSTED, False, "512 MiB"),
        (context("rubbish"), ErrorType.TOOL_ERROR, False, "did not write JSON"),
        (context(resources={"cpuCores": 3}), ErrorType.VALIDATION_ERROR, False, "DALANG_CONTAINER_CPUS"),
        (context(resources={"memoryMb": 2048}), ErrorType.VALIDATION_ERROR, False, "DALANG_CONTAINER_MEMORY_MB"),
        (context(resources={"gpu": 1}), ErrorType.VALIDATION_ERROR, False, "DALANG_CONTAINER_GPUS"),
        (context(implementation={"digest": None}), ErrorType.VALIDATION_ERROR, False, "which image"),
        (context(implementation={"coordinate": "no/such"}), ErrorType.VALIDATION_ERROR, False, "there is no image"),
    ],
)
async def test_what_goes_wrong_has_its_type(
    containers: Containers, engine: FakeDocker, ctx: NodeContext, type: ErrorType, retryable: bool, says: str
) -> None:
    """Without a network none of it had an effect, and no container is left."""
    error = await failure(containers, ctx)
    assert (error.type, error.retryable, error.no_effect) == (type, retryable, True), error
    assert says in str(error)
    assert not engine.containers


async def test_an_image_that_is_not_there_is_pulled(containers: Containers, engine: FakeDocker) -> None:
    """By its digest."""
    late = {"coordinate": "registry.example/late"}
    assert await containers(context(inputs={"a": 1}, implementation=late)) == {"a": 1}
    assert engine.made[0].config["Image"] == f"registry.example/late@{DIGEST}"


async def test_another_attempt_takes_over_the_job(containers: Containers, engine: FakeDocker) -> None:
    """The connection breaks while it waits; the next attempt waits for the same container, which started once."""
    engine.drop.add("wait")
    error = await failure(containers, context("hang", max_attempts=2))
    assert (error.type, error.retryable) == (ErrorType.NETWORK_ERROR, True)
    second = asyncio.create_task(containers(context("hang", attempt=2, max_attempts=2)))
    await asyncio.sleep(0.05)
    job = engine.one()
    assert not second.done()
    job.write(1, '{"late": true}\n')
    job.end(0)
    assert await second == {"late": True}
    assert (len(engine.made), job.starts) == (1, 1)
    assert not engine.containers


async def test_a_job_that_was_only_created_is_started(containers: Containers, engine: FakeDocker) -> None:
    """The attempt that created it died before it could start it."""
    running = asyncio.create_task(containers(context("hang")))
    job = await engine.until("running")
    running.cancel()
    await asyncio.wait({running})
    job.status, job.files = "created", {}
    engine.containers[container_name(KEY)] = job
    job.config["Cmd"] = ["echo"]
    assert await containers(context(inputs={"b": 2})) == {"b": 2}


async def test_after_the_last_attempt_nothing_is_left(containers: Containers, engine: FakeDocker) -> None:
    """Nobody would come back for it."""
    engine.drop.add("wait")
    await failure(containers, context("hang"))
    assert not engine.containers


async def test_a_container_of_others_is_left_alone(containers: Containers, engine: FakeDocker) -> None:
    """A name that is taken by somebody else is an error, not an answer."""
    await containers(context())
    other = engine.made[0]
    other.config["Labels"] = {}
    engine.containers[container_name(KEY)] = other
    error = await failure(containers, context())
    assert "none of Dalang's" in str(error)
    assert engine.one() is other


async def test_a_cancel_kills_it(containers: Containers, engine: FakeDocker) -> None:
    """And removes it."""
    running = asyncio.create_task(containers(context("hang")))
    job = await engine.until("running")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert job.code == 137
    assert not engine.containers


async def test_without_an_engine(tmp_path: Path) -> None:
    """It says what to set; an engine that is away is worth another attempt."""
    assert "DALANG_CONTAINER_ENGINE" in str(await failure(Containers(ContainerRules()), context()))
    away = Containers(ContainerRules(f"unix://{tmp_path}/none.sock"))
    error = await failure(away, context(max_attempts=2))
    assert (error.type, error.retryable, error.no_effect) == (ErrorType.NETWORK_ERROR, True, True)
    await away.close()


def test_an_engine_is_spoken_to_in_a_version_it_knows() -> None:
    """Its own if it is older than ours; one that does not say is asked without."""
    assert [_prefix(one) for one in ("1.41", "1.60", "2.0", "", "x.y")] == ["/v1.41", "/v1.51", "/v1.51", "", ""]


def test_frames_are_put_together_however_they_are_cut() -> None:
    """Byte by byte or all at once."""
    data = b"".join(
        bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text
        for stream, text in ((1, b"one"), (2, b""), (2, b"two!"), (1, b"3"))
    )
    for size in (1, 3, 7, 8, 9, len(data)):
        frames, found = Frames(), {1: b"", 2: b""}
        for at in range(0, len(data), size):
            for stream, piece in frames.feed(data[at : at + size]):
                found[stream] += piece
        assert found == {1: b"one3", 2: b"two!"}


async def test_a_plan_runs_a_container(shared_engine: Engine) -> None:
    """Its resources reach the engine, a failing one its error edge, and cancelling the run kills what runs."""
    path = Path(shared_engine.settings.container_engine.removeprefix("unix://"))

    def job(node: str, *args: str, **more: Any) -> dict[str, Any]:
        implementation = {"type": "container", "coordinate": "team/words", "digest": DIGEST, "args": list(args)}
        return {"nodeId": node, "type": "count", "descriptor": {"implementation": implementation}, **more}

    plan = {
        "nodes": [
            job("a", inputs={"n": 7}, requirements={"resources": {"memoryMb": 32}}),
            job("b", "exit", "4"),
            job("c", "hang"),
            {"nodeId": "d", "type": "noop"},
        ],
        "edges": [
            {"sourceNodeId": "a", "targetNodeId": "b"},
            {"sourceNodeId": "b", "sourcePort": "error", "targetNodeId": "c"},
            {"sourceNodeId": "c", "targetNodeId": "d"},
        ],
    }
    async with FakeDocker().serving(path) as fake:
        started = await shared_engine.start(plan)
        hanging = await fake.until("running")
        await started.handle.signal("cancel", {"operator": "kim"})
        ended = await started.end()
    assert ended["run"]["status"] == "CANCELLED"
    assert body_of(ended, "NODE_COMPLETED", "a")["outputs"] == {"n": 7}
    assert fake.made[0].config["HostConfig"]["Memory"] == 32 * 2**20
    assert ended["nodes"]["b"]["status"] == "ERROR"
    assert (hanging.code, node_events(ended, "c")[-1]) == (137, "NODE_CANCELLED")
    assert not fake.containers
