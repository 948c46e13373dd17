"""Starting a run for somebody: his plan is found and prepared, his inputs are checked, then it is accepted and started.

REST and the A2A agent both do it here, so that a run is the same whoever asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from dalang.api.auth import Principal
from dalang.api.observing import is_about
from dalang.api.schemas import ExecutePlanRequest
from dalang.api.services import Services
from dalang.embedding import with_stored_plans
from dalang.errors import InvalidDocument, NotFound, Problem, Unavailable
from dalang.formats import to_plan_document
from dalang.launch import Prepared
from dalang.nesting import names_stored_plans
from dalang.plan import Plan
from dalang.store.bounds import Bounds, bounds_of
from dalang.store.plans import get_digest, get_document
from dalang.store.runs import NewRun, Run
from dalang.validation import inputs_problems, with_input_defaults

ACCEPT_SECONDS = 30.0


@dataclass(frozen=True)
class Begun:
    """A run that was asked for. ``new``: it was not there before; ``started``: its workflow is under way.

    ``started`` is False when Temporal refuses it for good, None while Temporal is away: it will be started then.
    """

    run: Run
    prepared: Prepared
    new: bool
    started: bool | None
    bounds: Bounds


async def begin(
    it: Services,
    who: Principal,
    wanted: ExecutePlanRequest,
    *,
    key: str | None,
    request_digest: str | None,
    run_id: UUID | None = None,
) -> Begun:
    """Start a run; the same ``key`` with the same ``request_digest`` answers the run that is there.

    ``run_id`` is for those who find the run by an id of theirs; it goes with a ``key``.

    Raises:
        NotFound: there is no such plan. InvalidDocument: the plan, or the inputs, are wrong.
        Conflict: the key was used for another request. Denied: a policy forbids it.
    """
    inline, prepared, bounds = await _prepared(wanted, who, it)
    new = NewRun(
        tenant_id=who.tenant_id,
        plan_id=prepared.plan_id,
        plan_name=prepared.head.name,
        plan_version=prepared.head.version,
        plan_digest=prepared.digest,
        created_by=who.subject,
        total_nodes=prepared.nodes,
        inputs=_inputs(prepared.head, wanted.inputs),
        metadata=wanted.metadata,
        priority=prepared.head.priority if wanted.priority is None else wanted.priority,
        idempotency_key=key,
        request_digest=request_digest,
        run_id=run_id or uuid4(),
    )
    async with asyncio.timeout(ACCEPT_SECONDS):
        run = await it.launcher.accept(new, inline, prepared.inner, who.roles)
    is_about(str(run.run_id))
    is_new = run.run_id == new.run_id
    try:
        # Of a key that was used before: what was made then may have been left without a workflow.
        started = await it.launcher.start(run, prepared if is_new else None, bounds=bounds)
    except Unavailable:
        # The row is committed, so the run will happen: a refusal now would make the caller ask for a second one.
        return Begun(run, prepared, is_new, None, bounds)
    return Begun(run, prepared, is_new, started, bounds)


async def _prepared(wanted: ExecutePlanRequest, who: Principal, it: Services) -> tuple[Plan | None, Prepared, Bounds]:
    """Return the plan of the request where it is not stored as it is, what is started, and what binds the tenant."""
    if wanted.plan is not None:
        inline, prepared = await _inline(wanted.plan, who, it)
        async with it.transaction(who.tenant_id) as conn:
            return inline, prepared, await bounds_of(conn, who.tenant_id)
    assert wanted.plan_id is not None
    preparations = it.launcher.preparations
    document: Mapping[str, Any] | None = None
    async with it.transaction(who.tenant_id) as conn:
        bounds = await bounds_of(conn, who.tenant_id)
        digest = await get_digest(conn, who.tenant_id, wanted.plan_id, wanted.plan_version)
        known = None if digest is None else preparations.known(digest)
        if digest is not None and (known is None or known.is_open):
            document = await get_document(conn, who.tenant_id, digest)
    if digest is None:
        version = f" in version {wanted.plan_version!r}" if wanted.plan_version is not None else ""
        raise NotFound(f"There is no plan {wanted.plan_id}{version}.")
    if known is not None and not known.is_open:
        return None, known, bounds
    assert document is not None  # a version of a plan refers to it
    prepared = await preparations.of_document(digest, document)
    if not prepared.is_open:
        return None, prepared, bounds
    try:
        return *await with_stored_plans(it.engine, preparations, who.tenant_id, document), bounds
    except InvalidDocument as error:
        places = [
            one.model_copy(update={"pointer": "/planId", "message": f"{one.message} (at {one.pointer} of the plan)"})
            for one in error.problems
        ]
        raise InvalidDocument(places) from error


async def _inline(given: Any, who: Principal, it: Services) -> tuple[Plan, Prepared]:
    """Return the plan of a request's body, checked, and what is started."""
    preparations = it.launcher.preparations
    try:
        report = await preparations.check(to_plan_document(given))
        plan = report.require()
        if names_stored_plans(plan):
            return await with_stored_plans(it.engine, preparations, who.tenant_id, plan)
    except InvalidDocument as error:
        below = [one.model_copy(update={"pointer": "/plan" + one.pointer}) for one in error.problems]
        raise InvalidDocument(below) from error
    return plan, await preparations.of_plan(plan)


def _inputs(head: Plan, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the run's inputs with the schema's defaults.

    Raises:
        InvalidDocument: they are not what the plan asks for.
    """
    problems: list[Problem] = [
        one.model_copy(update={"pointer": "/inputs" + one.pointer}) for one in inputs_problems(head, inputs)
    ]
    if any(one.severity == "error" for one in problems):
        raise InvalidDocument(problems, "inputs")
    return dict(with_input_defaults(head, inputs))
