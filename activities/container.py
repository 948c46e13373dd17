"""Node type ``container``: a job in a container, by the Docker Engine API.

The node's implementation names the image and its digest. The inputs are JSON in the file ``/dalang/inputs.json`` and,
if they are small, in ``DALANG_INPUTS``; the outputs are JSON in the last line of stdout. The container's name derives
from the idempotency key: another attempt finds the job that is there, and takes what it came to, instead of starting a
second one. A cancel kills it. Without a network, which is the default, nothing it does has an effect outside.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from dataclasses import dataclass
from typing import Any

from dalang.activities.docker import STDERR, STDOUT, Docker, NoImage, Taken
from dalang.activities.execution import goes_on_elsewhere
from dalang.activities.program_results import (
    MAX_STDERR_BYTES,
    MAX_STDOUT_BYTES,
    Tail,
    environment,
    exit_failure,
    last_line,
    outputs_of,
    text_tail,
)
from dalang.canonical import compact_json
from dalang.implementations import image_reference
from dalang.nodes import InvalidInput, NetworkError, NodeContext, ResourceExhausted, ToolError

INPUTS_FILE = "/dalang/inputs.json"
MAX_ENV_BYTES = 64 * 1024
"""Inputs up to here are in the environment, too; Linux takes 128 KiB in one variable."""
MAX_PROCESSES = 512
LOG_BYTES = "40m"
LABEL = "dalang.key"
NO_NETWORK = "none"
ENDED = ("exited", "dead", "stopped")
PAUSE_SECONDS = 0.02

logger = logging.getLogger("dalang.activities")


@dataclass(frozen=True)
class ContainerRules:
    """What the operator allows: the engine, the network of all jobs, and what one job may have at most."""

    engine: str = ""
    network: str = NO_NETWORK
    cpus: float = 4
    memory_mb: float = 4096
    gpus: int = 0


class Containers:
    """Runs jobs on one engine."""

    def __init__(self, rules: ContainerRules) -> None:
        self._rules = rules
        self._docker = Docker(rules.engine) if rules.engine else None

    async def close(self) -> None:
        """Close connections; jobs go on."""
        if self._docker is not None:
            await self._docker.close()

    async def __call__(self, ctx: NodeContext) -> Any:
        """Run the node's container to its end and return its outputs.

        Raises:
            NodeFailure: NETWORK_ERROR when the engine is away, TOOL_ERROR when the job exits with an error or writes no
                JSON, RESOURCE_EXHAUSTED when it needs more memory than it has, VALIDATION_ERROR when it cannot be run.
        """
        if self._docker is None:
            text = "this worker runs no containers: its operator names an engine in DALANG_CONTAINER_ENGINE"
            raise InvalidInput(text, no_effect=True)
        image = image_reference(str(ctx.implementation.get("coordinate")), ctx.implementation.get("digest"))
        if image is None:
            raise InvalidInput("the node does not say which image: coordinate and digest", no_effect=True)
        return await _Job(self._docker, self._rules, ctx, image).outputs()


class _NotOurs(ToolError):
    """The name is taken by somebody else."""


class _Job:
    """One node's job."""

    def __init__(self, docker: Docker, rules: ContainerRules, ctx: NodeContext, image: str) -> None:
        self._docker = docker
        self._rules = rules
        self._ctx = ctx
        self._image = image
        self._name = container_name(ctx.idempotency_key)
        self._isolated = rules.network == NO_NETWORK

    async def outputs(self) -> Any:
        """Start the job, or find it, wait for its end, take its outputs and remove it."""
        body = self._body()
        try:
            await self._begin(body)
            self._ctx.progress(f"container {self._name}")
            state = await self._end()
            stdout, stderr = await self._written()
        except asyncio.CancelledError:
            if not goes_on_elsewhere():
                await asyncio.shield(self._remove())
            raise
        except _NotOurs:
            raise
        except NetworkError:
            if self._ctx.attempt >= self._ctx.max_attempts:  # nobody comes back for it
                await self._remove()
            raise
        except Exception:
            await self._remove()
            raise
        await self._remove()
        return self._result(state, stdout, stderr)

    async def _begin(self, body: dict[str, Any]) -> None:
        try:
            try:
                await self._docker.create(self._name, body)
            except NoImage:
                self._ctx.progress(f"pulling {self._image}")
                await self._docker.pull(self._image)
                await self._docker.create(self._name, body)
        except NoImage as error:
            raise ToolError(f"the engine does not find the image it pulled: {error}", no_effect=True) from None
        except Taken:
            logger.info("container %s is there: this attempt goes on with it", self._name)
            if await self._status(own=True) != "created":
                return
        # Twice does no harm: neither the file nor the start.
        await self._docker.put_file(self._name, INPUTS_FILE, compact_json(dict(self._ctx.inputs)))
        await self._docker.start(self._name)

    async def _status(self, own: bool = False) -> str:
        found = await self._docker.inspect(self._name)
        if found is None:
            raise ToolError(f"the container {self._name} is gone: somebody removed it", retryable=True)
        labels = found.get("Config", {}).get("Labels") or {}
        if own and labels.get(LABEL) != self._ctx.idempotency_key:
            raise _NotOurs(f"there is a container {self._name} that is none of Dalang's")
        self._state: dict[str, Any] = found.get("State", {})
        return str(self._state.get("Status"))

    async def _end(self) -> dict[str, Any]:
        while await self._status() not in ENDED:
            await self._docker.wait(self._name)
            await asyncio.sleep(PAUSE_SECONDS)  # of an engine that does not wait
        return self._state

    async def _written(self) -> tuple[Tail, Tail]:
        tails = {STDOUT: Tail(MAX_STDOUT_BYTES), STDERR: Tail(MAX_STDERR_BYTES)}
        async for stream, piece in self._docker.logs(self._name):
            if stream in tails:
                tails[stream].add(piece)
        return tails[STDOUT], tails[STDERR]

    async def _remove(self) -> None:
        try:
            await self._docker.remove(self._name)
        except Exception as error:
            logger.warning("container %s could not be removed: %s", self._name, error)

    def _result(self, state: dict[str, Any], stdout: Tail, stderr: Tail) -> Any:
        details: dict[str, Any] = {"image": self._image}
        if stderr.data:
            details["stderr"] = text_tail(stderr.data)
        code = int(state.get("ExitCode") or 0)
        if state.get("OOMKilled"):
            text = f"the container needs more than its {self._memory_mb():g} MiB of memory"
            details["exitCode"] = code
            raise ResourceExhausted(text, retryable=False, details=details, no_effect=self._isolated)
        if code != 0 or state.get("Error"):
            if state.get("Error"):
                details["error"] = str(state["Error"])[:500]
            raise exit_failure(code, "the container", details, no_effect=self._isolated)
        return outputs_of(last_line(stdout.data), "the container", details, no_effect=self._isolated)

    # -- what is asked for -----------------------------------------------------------------------------------------

    def _body(self) -> dict[str, Any]:
        """Return the body of ``POST /containers/create``."""
        ctx, resources = self._ctx, self._ctx.resources
        cpus, gpus = float(resources.get("cpuCores", 1)), math.ceil(resources.get("gpu", 0))
        memory = self._memory_mb()
        for what, wanted, most, setting in (
            ("cores", cpus, self._rules.cpus, "CPUS"),
            ("MiB of memory", memory, self._rules.memory_mb, "MEMORY_MB"),
            ("GPUs", gpus, self._rules.gpus, "GPUS"),
        ):
            if wanted > most:
                text = (
                    f"the node wants {wanted:g} {what}, and the operator allows {most:g} (DALANG_CONTAINER_{setting})"
                )
                raise InvalidInput(text, no_effect=True)
        limit = int(memory * 1024 * 1024)
        host: dict[str, Any] = {
            "NetworkMode": self._rules.network,
            "Memory": limit,
            "MemorySwap": limit,  # no swap besides
            "NanoCpus": int(cpus * 1e9),
            "PidsLimit": MAX_PROCESSES,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "LogConfig": {"Type": "json-file", "Config": {"max-size": LOG_BYTES, "max-file": "1"}},
        }
        if gpus:
            host["DeviceRequests"] = [{"Count": gpus, "Capabilities": [["gpu"]]}]
        body: dict[str, Any] = {
            "Image": self._image,
            "Env": [f"{name}={value}" for name, value in self._environment().items()],
            "Labels": {
                LABEL: ctx.idempotency_key,
                "dalang.tenant": ctx.tenant_id,
                "dalang.run": ctx.run_id,
                "dalang.node": ctx.node_id,
            },
            "HostConfig": host,
        }
        if ctx.implementation.get("args"):
            body["Cmd"] = list(ctx.implementation["args"])
        return body

    def _memory_mb(self) -> float:
        # 0 means no limit to the engine; a plan that says 0 has not thought of one.
        return float(self._ctx.resources.get("memoryMb") or 512)

    def _environment(self) -> dict[str, str]:
        inputs = compact_json(dict(self._ctx.inputs))
        small = {"DALANG_INPUTS": inputs.decode()} if len(inputs) <= MAX_ENV_BYTES else {}
        return {**environment(self._ctx), "DALANG_INPUTS_FILE": INPUTS_FILE, **small}


def container_name(key: str) -> str:
    """Return the name of the container for an idempotency key."""
    return f"dalang-{hashlib.sha256(key.encode()).hexdigest()[:40]}"
