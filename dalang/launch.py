"""Starting runs: a row first, then the workflow, so that whatever crashes in between is found and finished.

Theory of operation. ``POST /execute`` writes the run's row (PENDING, with tenant, Idempotency-Key and digest of the
request) and commits; only then Temporal is asked to start ``PlanRun`` with the id ``run-<runId>``, which starts at
most one workflow however often it is asked; then the row notes which execution it is. A crash, or a Temporal that is
away, leaves a row without an execution: :meth:`Launcher.reconcile` starts those. Every API process runs it, safely side
by side.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from temporalio.api.workflowservice.v1 import GetClusterInfoRequest
from temporalio.client import Client
from temporalio.common import (
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from dalang import temporal, wire
from dalang.authority import run_authority
from dalang.compilation import compile_packed
from dalang.enforcement import Enforcer
from dalang.errors import Conflict, ErrorPayload, ErrorType, InvalidDocument, NotFound, Unavailable
from dalang.metrics import rounds
from dalang.nesting import embedded_plans, names_stored_plans
from dalang.nodes import registry
from dalang.plan import Plan
from dalang.program import Program
from dalang.run_attributes import details, search_attributes, summary
from dalang.seeding import redrive_seed
from dalang.settings import Settings, SettingsError
from dalang.signing import Keyring
from dalang.start_notes import StartNotes
from dalang.statuses import RunStatus
from dalang.store.blobs import PostgresBlobDriver
from dalang.store.bounds import Bounds, bounds_of
from dalang.store.engine import is_connection_error, system_transaction, transaction
from dalang.store.plans import get_document, put_document
from dalang.store.runs import NewRun, Run, Started, create_run, list_not_started, mark_all_started, mark_start_failed
from dalang.undo_seeding import undo_seed
from dalang.validation import Report, validate
from dalang.workflows.dispatch import task_timeout, temporal_priority

logger = logging.getLogger("dalang.launch")

CONNECT_SECONDS = 3.0
"""How long a request waits for a Temporal that does not answer."""
SILENCE_SECONDS = 1.0
"""For so long after a failed connection the next ones fail at once."""
START_SECONDS = 10.0
LEFT_SECONDS = 5.0
"""A row so old without an execution was left by somebody: a start takes well under a second."""
CACHED_NODES = 200_000
PREPARING_AT_ONCE = 2


class TemporalLink:
    """The process's one client of Temporal, connected at first use: an API answers while Temporal is away."""

    def __init__(self, settings: Settings, engine: AsyncEngine, client: Client | None = None) -> None:
        self.settings = settings
        # A request does not wait for a database as long as a node may.
        driver = PostgresBlobDriver(engine, wait_seconds=CONNECT_SECONDS)
        # A worker brings its own client.
        self.converter = client.data_converter if client else temporal.data_converter(settings, driver)
        self._client = client
        self._lock = asyncio.Lock()
        self._silence: Exception | None = None
        self._silent_until = 0.0
        self.cluster_id: str | None = None

    async def client(self) -> Client:
        """Return the client.

        Raises:
            dalang.temporal.TemporalUnavailable: Temporal does not answer, or refuses us.
        """
        if self._client is not None:
            return self._client
        async with self._lock:
            if self._client is None:
                if self._silence is not None and time.monotonic() < self._silent_until:
                    raise self._silence  # whoever waited behind the one that tried does not wait once more
                self._client = await self._connect()
        return self._client

    async def _connect(self) -> Client:
        try:
            async with asyncio.timeout(START_SECONDS):
                client = await temporal.connect(
                    self.settings, converter=self.converter, timeout_seconds=CONNECT_SECONDS
                )
                await self.prepare_namespace(client)
        except (TimeoutError, Unavailable) as error:
            known = isinstance(error, Unavailable)
            self._silence = error if known else temporal.TemporalUnavailable("Temporal does not answer in time.")
            self._silent_until = time.monotonic() + SILENCE_SECONDS
            raise self._silence from error
        return client

    async def prepare_namespace(self, client: Client) -> None:
        """Register search attributes and ask which cluster this is; where that is forbidden, others have done it."""
        with suppress(RPCError):
            await temporal.ensure_search_attributes(client)
        await self.identify(client)

    async def identify(self, client: Client) -> None:
        """Ask which cluster this is."""
        with suppress(RPCError):
            info = await client.workflow_service.get_cluster_info(GetClusterInfoRequest())
            self.cluster_id = info.cluster_id or None


@dataclass(frozen=True)
class Prepared:
    """A valid plan ready to be started: its program, and its head (without nodes and edges) for inputs and priority.

    ``inner`` are the plans within it, which the runs below its nodes run; ``is_open`` says that it names stored plans,
    which are to be put into it first (``embedding.py``).
    """

    digest: str
    head: Plan
    program: Mapping[str, Any]
    nodes: int
    inner: tuple[Plan, ...] = ()
    is_open: bool = False

    @property
    def plan_id(self) -> UUID:
        """The plan's id; validation derives one from the name where the document gives none."""
        assert self.head.plan_id is not None
        return self.head.plan_id


def check_plan(document: Mapping[str, Any], agents: Iterable[frozenset[str]] = ()) -> Report:
    """Validate a plan document against what this process knows of node types and agents, and ``agents`` besides."""
    known = [*(frozenset(agent.capabilities) for agent in registry.agents), *agents]
    return validate(document, node_types=registry.node_types, agents=known or None)


def prepare(plan: Plan) -> Prepared:
    """Compile a valid plan."""
    head = plan.model_copy(update={"nodes": (), "edges": (), "finally_": ()})
    inner = tuple({one.digest(): one for one in embedded_plans(plan)}.values())
    program, nodes = compile_packed(plan, registry.light), len(plan.all_nodes())
    return Prepared(plan.digest(), head, program, nodes, inner, names_stored_plans(plan))


class Preparations:
    """Prepared plans by digest, the least recently used dropped. Large plans take seconds, so it is done in threads."""

    def __init__(self) -> None:
        self._prepared: OrderedDict[str, Prepared] = OrderedDict()
        self._nodes = 0
        self._slots = asyncio.Semaphore(PREPARING_AT_ONCE)

    async def check(self, document: Mapping[str, Any], agents: Iterable[frozenset[str]] = ()) -> Report:
        """Validate a plan document; ``agents`` are the capabilities of each agent that is registered."""
        async with self._slots:
            return await asyncio.to_thread(check_plan, document, agents)

    async def of_plan(self, plan: Plan) -> Prepared:
        """Prepare a plan that was validated."""
        async with self._slots:
            prepared = await asyncio.to_thread(prepare, plan)
        return self._keep(prepared)

    def known(self, digest: str) -> Prepared | None:
        """Return a plan that was prepared before and is remembered."""
        found = self._prepared.get(digest)
        if found is not None:
            self._prepared.move_to_end(digest)
        return found

    async def of_document(self, digest: str, document: Mapping[str, Any], *, known_types: bool = True) -> Prepared:
        """Prepare a stored plan; ``known_types`` asks that this process knows its node types.

        Raises:
            InvalidDocument: this version of Dalang refuses it.
        """
        found = self.known(digest)
        if found is not None:
            return found
        async with self._slots:
            report = await asyncio.to_thread(check_plan if known_types else validate, document)
        return await self.of_plan(report.require())

    def _keep(self, prepared: Prepared) -> Prepared:
        if prepared.digest not in self._prepared:
            self._nodes += prepared.nodes
        self._prepared[prepared.digest] = prepared
        while self._nodes > CACHED_NODES and len(self._prepared) > 1:
            _, dropped = self._prepared.popitem(last=False)
            self._nodes -= dropped.nodes
        return prepared


class Launcher:
    """Writes rows of runs and starts their workflows."""

    def __init__(self, settings: Settings, engine: AsyncEngine, link: TemporalLink) -> None:
        self._settings = settings
        self._engine = engine
        self._link = link
        self.keys = Keyring.load(settings.audit_keys_path)
        self.preparations = Preparations()
        self.notes = StartNotes(engine)
        self.enforcer = Enforcer(settings)

    async def accept(
        self, new: NewRun, inline: Plan | None = None, inner: Sequence[Plan] = (), roles: Iterable[str] = ()
    ) -> Run:
        """Write the run's row and, for a plan that is stored nowhere yet, its document; committed when this returns.

        ``inner`` are the plans within it: the runs below its nodes show theirs. ``roles`` are those of who asks.

        The same Idempotency-Key with the same request answers the run that is there.

        Raises:
            Conflict: the key was used for another request.
            Denied: a policy forbids the run, or could not be asked.
        """
        if self.enforcer.active:
            await self.enforcer.check_run(policy_subject(new, roles))
        new = replace(
            new,
            workflow_id=new.workflow_id or f"{wire.WORKFLOW_ID_PREFIX}{new.run_id}",
            temporal_namespace=self._settings.temporal_namespace,
            temporal_cluster_id=self._link.cluster_id,
        )
        async with transaction(self._engine, new.tenant_id) as conn:
            if inline is not None:
                await put_document(conn, new.tenant_id, inline)
            for plan in inner:
                await put_document(conn, new.tenant_id, plan)
            run, _ = await create_run(conn, new)
        return run

    async def start(
        self,
        run: Run,
        prepared: Prepared | None = None,
        state: dict[str, Any] | None = None,
        bounds: Bounds | None = None,
    ) -> bool:
        """Start the run's workflow unless it has been; False when Temporal refuses it, and the run is FAILED then.

        ``state`` is what :meth:`state_of` gave for it, ``bounds`` are those of its tenant now, as far as is known.

        Raises:
            Unavailable: Temporal, or Postgres, is away; the run stays PENDING and is started later.
            Conflict, NotFound, InvalidDocument: what it is made from is gone.
        """
        if run.temporal_run_id is not None or run.status != RunStatus.PENDING:
            return True
        if prepared is None:
            prepared = await self.prepared_of(run.tenant_id, run.plan_digest)
        client = await self._link.client()
        state = await self.state_of(run, prepared, bounds) if state is None else state
        try:
            async with asyncio.timeout(START_SECONDS):
                execution = await self._start_workflow(client, run, prepared, state)
        except RPCError as error:
            if error.status != RPCStatusCode.INVALID_ARGUMENT:
                logger.warning("run %s was not started: %s", run.run_id, error.message)
                raise Unavailable("Temporal did not start the run.") from error
            if "search attribute" in error.message.lower():
                # The namespace was made anew beneath us: register them again, and the next try succeeds.
                await self._link.prepare_namespace(client)
                raise Unavailable("Temporal lacked search attributes.") from error
            await self.fail(run, f"Temporal refuses to start it: {error.message}")
            return False
        except Exception as error:
            if isinstance(error, TimeoutError) or is_connection_error(error):
                raise Unavailable("Temporal, or Postgres, did not answer in time.") from error
            raise
        await self._mark_started(client, run, execution)
        return True

    async def state_of(self, run: Run | NewRun, prepared: Prepared, bounds: Bounds | None = None) -> dict[str, Any]:
        """Return what ``run`` begins with.

        Raises:
            Conflict, InvalidDocument: it cannot begin with what it takes over from another run.
        """
        state = initial_state(run, self._settings)
        if bounds is None:
            async with transaction(self._engine, run.tenant_id) as conn:
                bounds = await bounds_of(conn, run.tenant_id)
        authority = run_authority(self.keys, self._settings.authenticated_only)
        if authority is not None:
            state["authority"] = authority
        if bounds.limits:
            state["limits"] = list(bounds.limits)
        if bounds.over is not None:
            state["over"] = dict(bounds.over)
        if run.redrive_of is None and run.undo_of is None:
            return state
        if run.origin is None or run.inputs is None:
            raise Conflict("What the run begins with was erased.")
        program = await asyncio.to_thread(Program, prepared.program)
        if run.redrive_of is not None:
            seed = await redrive_seed(self._engine, run, program, state["about"], run.origin)
        else:
            client = await self._link.client()
            seed = await undo_seed(self._engine, client, run, program, state["about"], run.origin)
        return {**state, "seed": seed, "keyRoot": str(run.root_run_id)}

    async def _start_workflow(self, client: Client, run: Run, prepared: Prepared, state: dict[str, Any]) -> str:
        """Start the workflow, or find that it has been; return the execution's id."""
        workflow_id = run.workflow
        try:
            handle = await client.start_workflow(
                wire.PLAN_RUN,
                args=[{**prepared.program, "priority": run.priority}, state],
                id=workflow_id,
                task_queue=self._settings.task_queue,
                task_timeout=task_timeout(prepared.nodes),
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                search_attributes=search_attributes(run),
                static_summary=summary(run),
                static_details=details(run, self._settings.public_url),
                priority=temporal_priority(run.priority, run.tenant_id),
                rpc_timeout=timedelta(seconds=START_SECONDS),
            )
        except WorkflowAlreadyStartedError as error:  # it has ended already
            return error.run_id or (await client.get_workflow_handle(workflow_id).describe()).run_id
        return handle.first_execution_run_id or handle.result_run_id or ""

    async def _mark_started(self, client: Client, run: Run, execution: str) -> None:
        started = Started(run.run_id, run.workflow, execution, client.namespace, self._link.cluster_id)
        if self.notes.kept:
            self.notes.add(started)
            return
        try:
            async with transaction(self._engine, run.tenant_id) as conn:
                await mark_all_started(conn, [started])
        except Exception as error:
            # The run is under way; its own flush, or the reconciler, notes the execution.
            if not is_connection_error(error):
                raise

    async def fail(self, run: Run, message: str) -> None:
        """End a run FAILED that cannot be started for good."""
        error = ErrorPayload(type=ErrorType.VALIDATION_ERROR, message=message[:2000], origin_run_id=str(run.run_id))
        async with transaction(self._engine, run.tenant_id) as conn:
            if await mark_start_failed(conn, run.tenant_id, run.run_id, error.wire()):
                logger.warning("run %s cannot be started: %s", run.run_id, message)

    async def prepared_of(self, tenant_id: str, digest: str) -> Prepared:
        """Prepare the plan that a run was made of.

        Raises:
            NotFound: it is not stored.
        """
        async with transaction(self._engine, tenant_id) as conn:
            document = await get_document(conn, tenant_id, digest)
        return await self._prepared(digest, document)

    async def prepared_in(self, conn: AsyncConnection, tenant_id: str, digest: str) -> Prepared:
        """Do so in a transaction: who has a connection and waits for another holds up everybody who does the same."""
        return await self._prepared(digest, await get_document(conn, tenant_id, digest))

    async def _prepared(self, digest: str, document: Mapping[str, Any] | None) -> Prepared:
        if document is None:
            raise NotFound(f"The plan {digest} is not stored.")
        # It was accepted; that this process lacks a module of node types must not end a run of it.
        return await self.preparations.of_document(digest, document, known_types=False)

    async def reconcile(self, older_than_seconds: float = LEFT_SECONDS) -> int:
        """Start what was left PENDING without an execution for so long; return how many were started.

        Safe side by side. What can never be started ends FAILED.

        Raises:
            Unavailable: Temporal is away; the rest is for the next time.
        """
        async with system_transaction(self._engine) as conn:
            left = await list_not_started(conn, older_than_seconds)
        started = 0
        for run in left:
            try:
                started += await self.start(run)
            except (NotFound, InvalidDocument, Conflict) as error:
                await self.fail(run, str(error))
        if started:
            logger.info("started %d runs that were left without a workflow", started)
        return started

    async def reconcile_for_ever(self, every_seconds: float = LEFT_SECONDS) -> None:
        """Reconcile until cancelled; what is away meanwhile is only logged."""
        turns = rounds("reconciler", every_seconds)
        while True:
            try:
                await self.reconcile()
                turns.went()
            except Unavailable as error:
                turns.failed(error)
                logger.warning("runs that were left wait: %s", error)
            except Exception as error:
                turns.failed(error)
                if not is_connection_error(error):
                    logger.exception("reconciling failed")
            await asyncio.sleep(every_seconds)


def require_keys(settings: Settings, keys: Keyring, *, signs: bool) -> None:
    """Refuse to begin runs that nobody could decide anything in.

    Raises:
        SettingsError: decisions have to be signed, and there is no key; ``signs``: no private one.
    """
    if settings.authenticated_only and (keys.own_id is None if signs else not keys):
        kind = "private " if signs else ""
        raise SettingsError(
            f"decisions have to be signed (DALANG_REQUIRE_AUTHENTICATED, which DALANG_PRODUCTION implies), and "
            f"DALANG_AUDIT_KEY_FILE names no {kind}key"
        )


def about_of(run: Run | NewRun) -> dict[str, Any]:
    """Return what expressions and handlers see of a run as ``run``."""
    return {
        "id": str(run.run_id),
        "planId": str(run.plan_id),
        "plan": run.plan_name,
        "planVersion": run.plan_version,
        "tenantId": run.tenant_id,
        "createdBy": run.created_by,
        "priority": run.priority,
        "metadata": run.metadata,
    }


def initial_state(run: Run | NewRun, settings: Settings) -> dict[str, Any]:
    """Return the second argument of ``PlanRun``: the run's state before its first event."""
    return {
        "engine": wire.ENGINE_VERSION,
        "runId": str(run.run_id),
        "tenantId": run.tenant_id,
        "inputs": run.inputs or {},
        "about": about_of(run),
        "maxInFlight": settings.max_in_flight,
        "historyLimit": settings.history_events_limit,
        "pages": f"{settings.public_url}/ui/runs",
    }


def policy_subject(new: NewRun, roles: Iterable[str]) -> dict[str, Any]:
    """Return what rules see of a run that is asked for."""
    return {
        "tenant": new.tenant_id,
        "plan": {
            "id": str(new.plan_id),
            "name": new.plan_name,
            "version": new.plan_version,
            "digest": new.plan_digest,
            "nodes": new.total_nodes,
        },
        "run": {"id": str(new.run_id), "priority": new.priority, "metadata": dict(new.metadata or {})},
        "inputs": dict(new.inputs or {}),
        "requester": new.created_by,
        "roles": sorted(roles),
    }
