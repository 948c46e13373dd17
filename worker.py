"""The worker: runs workflows and activities. ``python -m dalang.worker``; SIGTERM lets what runs end first."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from dalang import tracing
from dalang.activities.a2a import A2A
from dalang.activities.admission import Admissions
from dalang.activities.agents import AgentWork
from dalang.activities.catalogue import load_node_modules, node_activities
from dalang.activities.container import ContainerRules, Containers
from dalang.activities.egress import enforcing
from dalang.activities.execution import Handler, HandlerLoop
from dalang.activities.http import Http
from dalang.activities.llm import Llm, operators_models
from dalang.activities.mcp.node import Mcp
from dalang.activities.mcp.servers import NamedServers
from dalang.activities.memory import Memories
from dalang.activities.node_logs import NodeLogs
from dalang.activities.observing import ObservingInterceptor
from dalang.activities.projection import Projection, StoreRecorder
from dalang.activities.revisions import Revisions
from dalang.activities.runtime_hub import RuntimeHub
from dalang.activities.scheduled_run import ScheduledRuns
from dalang.activities.secrets import Vault, mask_output
from dalang.activities.undoing import UndoSeeds
from dalang.activities.wasm import Bounds, Wasm
from dalang.anchoring import Anchoring
from dalang.artifacts import Artifacts
from dalang.breakers import Breakers
from dalang.cortex import Cortex
from dalang.errors import DalangError
from dalang.health import Health, database_checks, keys_check, round_check, storing_check, temporal_checks
from dalang.key_checks import check_keys
from dalang.launch import Launcher, TemporalLink, require_keys
from dalang.leasing import Leasing, Teller
from dalang.logs import configure
from dalang.mirroring import Mirror
from dalang.presence import Presence
from dalang.publishing.publisher import Publisher
from dalang.publishing.targets import targets
from dalang.redaction_file import redaction_of
from dalang.retention import Policy, Retention
from dalang.scheduling import Schedules
from dalang.settings import Settings, SettingsError
from dalang.signing import Keyring
from dalang.store.assignments import CHANGED
from dalang.store.blobs import PostgresBlobDriver
from dalang.store.engine import create_engine
from dalang.store.listening import Listener
from dalang.tallying import Tallying
from dalang.temporal import connect, ensure_search_attributes
from dalang.vitals import SdkMetrics, Vitals, serving
from dalang.worker_memory import SHARE_OF_LARGE, Tidying, give_buffers_back, spare_the_collector, tidy_for_ever
from dalang.worker_versions import deployment_config
from dalang.workflows.interceptor import GuardInterceptor
from dalang.workflows.plan_run import PlanRun
from dalang.workflows.scheduled_run import ScheduledRun

ACTIVATION_SECONDS = 30
PUBLISHER_CONNECTIONS = 4
"""Of its own, so that telling others never holds up what a run stores."""

logger = logging.getLogger("dalang.worker")


@contextlib.asynccontextmanager
async def worker(settings: Settings) -> AsyncIterator[Worker]:
    """Run a worker for the length of the block; leaving it drains: no new work, and what runs may end."""
    with enforcing(settings.egress):
        async with _worker(settings) as running:
            yield running


@contextlib.asynccontextmanager
async def _worker(settings: Settings) -> AsyncIterator[Worker]:
    keys = Keyring.load(settings.audit_keys_path)
    require_keys(settings, keys, signs=False)
    if settings.production and keys.own_id is None:
        logger.warning("nothing that runs do is signed: audit_key_file names no private key")
    load_node_modules(settings.node_modules)
    engine = create_engine(settings)
    sdk = SdkMetrics() if settings.worker_metrics_ports else None
    runtime = None if sdk is None else sdk.runtime
    tidying = Tidying(SHARE_OF_LARGE)
    client = await connect(settings, storage_driver=PostgresBlobDriver(engine, on_large=tidying.step), runtime=runtime)
    await check_keys(settings, engine, client, keys)
    await _register_search_attributes(client)
    identity = f"{socket.gethostname()}-{os.getpid()}"
    redaction = redaction_of(settings)
    projection = Projection(engine, client, keys, redaction)
    link = TemporalLink(settings, engine, client)
    await link.identify(client)
    launcher = Launcher(settings, engine, link)
    scheduled = ScheduledRuns(engine, client, launcher, Schedules(client, settings))
    leasing = Leasing(engine, settings.payload_threshold_bytes)
    admissions = Admissions(leasing)
    teller = Teller(engine, settings.require_database_url(), client, leasing)
    a2a = A2A(Vault.of(settings))
    mcp = Mcp(NamedServers(Path(settings.mcp_servers_file) if settings.mcp_servers_file else None), Vault.of(settings))
    llm = Llm(operators_models(settings))
    loop, http = HandlerLoop(settings.max_concurrent_activities), Http()
    revisions, undo_seeds = Revisions(engine), UndoSeeds(engine)
    breakers = Breakers(engine, settings.require_database_url(), settings.breaker_thresholds)
    artifacts = Artifacts.of(engine, settings)
    logs = NodeLogs(engine, settings.node_log_lines) if settings.node_log_lines else None
    recorder = StoreRecorder(
        engine,
        identity,
        settings.public_url,
        launcher.enforcer,
        Vault.of(settings),
        artifacts,
        settings.build_id,
        redaction,
        logs,
    )
    listener = Listener(settings.require_database_url(), [CHANGED])
    gate = breakers if settings.breaker_failure_threshold else None
    wasm = Wasm(Bounds(settings.wasm_dir, settings.wasm_fuel, settings.wasm_memory_mb, settings.wasm_seconds))
    containers = Containers(
        ContainerRules(
            settings.container_engine,
            settings.container_network,
            settings.container_cpus,
            settings.container_memory_mb,
            settings.container_gpus,
        )
    )
    runtime_hub = RuntimeHub()
    adapters: dict[str, Handler] = {
        "mcp": mcp,
        "a2a": a2a,
        "wasm": wasm,
        "container": containers,
        "runtime-hub": runtime_hub,
    }
    cortex = Cortex.of(settings)
    memories = Memories.of(settings, engine, cortex)
    mirror = None if cortex is None else Mirror(engine, settings.require_database_url(), cortex)
    work = AgentWork(engine, listener, a2a, Vault.of(settings))
    activities = node_activities(recorder, loop, http, gate, work, memories, adapters=adapters, llm=llm)
    presence = Presence(engine, client, leasing, settings.agent_places)
    publishing = create_engine(settings.require_database_url(), pool_size=PUBLISHER_CONNECTIONS)
    publisher = Publisher(publishing, settings.require_database_url(), targets(settings), settings.event_source)
    beside = (
        teller.tell_for_ever(),
        breakers.listen_for_ever(),
        listener.listen(),
        presence.watch_for_ever(),
        memories.look_after_for_ever(),
        *([] if mirror is None else [mirror.tell_for_ever()]),
        publisher.publish_for_ever(),
        Tallying(engine).fold_for_ever(),
        tidy_for_ever(),
        Anchoring(engine, keys, settings.audit_anchor_seconds).anchor_for_ever(),
        Retention(
            engine,
            Policy.read(settings.retention_days, settings.retention_tenants),
            artifacts=Artifacts.of(engine, settings),
            client=client,
        ).delete_for_ever(),
    )
    running = Worker(
        client,
        task_queue=settings.task_queue,
        identity=identity,
        build_id=None if settings.worker_deployment else settings.build_id,  # the SDK would take 0.3 s to make one
        workflows=[PlanRun, ScheduledRun],
        activities=[
            projection.record,
            admissions.admit,
            scheduled.start,
            scheduled.wait,
            revisions.prepare,
            revisions.load,
            undo_seeds.seed,
            *activities,
        ],
        interceptors=[GuardInterceptor(), ObservingInterceptor()],
        # Unsandboxed for speed; the import contract and the replay tests guard determinism (TEMPORAL.md, "Cost").
        workflow_runner=UnsandboxedWorkflowRunner(),
        deployment_config=deployment_config(settings),
        max_concurrent_activities=settings.max_concurrent_activities,
        max_cached_workflows=settings.max_cached_workflows,
        # Above 1 the SDK makes a task for each payload, large or not: a sixth of what short nodes cost a worker.
        max_workflow_task_external_storage_concurrency=1,
        max_eager_activity_reservations_per_workflow_task=max(settings.max_eager_activities, 1),
        disable_eager_activity_execution=settings.max_eager_activities == 0,
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=settings.sticky_timeout_seconds),
        graceful_shutdown_timeout=timedelta(seconds=settings.graceful_shutdown_seconds),
        max_heartbeat_throttle_interval=timedelta(seconds=1),
        default_heartbeat_throttle_interval=timedelta(seconds=1),
    )
    allow_long_activations(running)
    try:
        kept = contextlib.nullcontext() if logs is None else logs.keeping()
        async with kept, running, _beside(*beside), _watched(settings, engine, client, sdk):
            logger.info("working on task queue %s as %s", settings.task_queue, identity)
            yield running
    finally:
        await scheduled.close()
        recorder.close()
        leasing.close()
        loop.close()
        wasm.close()
        await containers.close()
        await runtime_hub.close()
        await http.close()
        await mcp.close()
        await llm.close()
        await a2a.close()
        await launcher.enforcer.close()
        if cortex is not None:
            await cortex.close()
        await publishing.dispose()
        await engine.dispose()


@contextlib.asynccontextmanager
async def _watched(
    settings: Settings, engine: AsyncEngine, client: Client, sdk: SdkMetrics | None
) -> AsyncIterator[None]:
    """Tell metrics and health for the length of the block, if they are wanted."""
    if sdk is None:
        yield
        return

    async def connected() -> Client:
        return client

    health = Health(
        [
            *database_checks(engine),
            *temporal_checks(connected, settings.task_queue),
            storing_check(),
            round_check("publisher", "It tells subscriptions of events: look at PostgreSQL and the log."),
            round_check("leases", "It tells runs what they were granted: look at Temporal and PostgreSQL."),
            keys_check(settings),
        ]
    )
    try:
        async with serving(settings, Vitals(engine, health, sdk)):
            yield
    finally:
        await sdk.close()


@contextlib.asynccontextmanager
async def _beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Keep background work going for the length of the block."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def allow_long_activations(running: Worker) -> None:
    """Give the first pass over a very large plan the time it needs.

    The SDK fails a workflow task that computes for more than 2 seconds, as deadlocked, and has no option for it.
    Reading and indexing 100,000 nodes takes about that, so such a run failed task after task before it began. Our
    workflow never blocks, and a task's own timeout still bounds it. A test notices when a new SDK calls it otherwise.
    """
    running._workflow_worker._deadlock_timeout_seconds = ACTIVATION_SECONDS  # type: ignore[union-attr]


async def _register_search_attributes(client: Client) -> None:
    try:
        await ensure_search_attributes(client)
    except RPCError as error:
        # Temporal Cloud lets operators do this elsewhere; runs without them work, they only cannot be filtered by.
        logger.warning("search attributes could not be registered: %s", error.message)


async def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then drain."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with worker(settings):
        await stop.wait()
        logger.info("draining: what runs may take %s s to end", settings.graceful_shutdown_seconds)


def main() -> int:
    """Run a worker with the settings of the environment."""
    spare_the_collector()
    give_buffers_back()
    try:
        settings = Settings.load()
        mask_output()
        configure(settings.log_level, settings.log_form, redaction=redaction_of(settings))
        tracing.start(settings, "dalang-worker")
        asyncio.run(run(settings))
    except (SettingsError, DalangError) as error:
        sys.stderr.write(f"dalang worker: {error}\n")
        return 2
    finally:
        tracing.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
