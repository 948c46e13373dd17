"""The activity ``prepare_revision``: the next revision of a run's plan, off the critical path of its nodes.

It loads the plan, applies what was asked for, validates and compiles the result, stores its document, and fetches what
ended nodes have put out that only the new plan reads. Whether the run can take it the run decides, when it gets it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.exceptions import ApplicationError

from dalang.activities.patience import beating
from dalang.compilation import compile_plan
from dalang.embedding import with_stored_plans
from dalang.errors import InvalidDocument, NotFound, Problem
from dalang.launch import Preparations, check_plan
from dalang.nesting import embedded_plans, names_stored_plans
from dalang.nodes import registry
from dalang.plan_diff import counts, plan_diff, summary
from dalang.program import Program
from dalang.program_changes import changes
from dalang.revision import Revision, revise
from dalang.secret_references import nodes_given_otherwise
from dalang.store.engine import is_connection_error, transaction
from dalang.store.plans import get_document, put_document
from dalang.store.revisions import plan_of_revision, results_of
from dalang.validation import validate
from dalang.wire import LOAD_PLAN, PREPARE_REVISION, PreparedRevision, RevisionRequest

T = TypeVar("T")
logger = logging.getLogger("dalang.revisions")


class Revisions:
    """Prepares revisions. One per worker process; one at a time, since a large plan takes seconds of the processor."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._preparations = Preparations()
        self._slot = asyncio.Semaphore(1)

    @activity.defn(name=PREPARE_REVISION)
    async def prepare(self, request: Any) -> Any:
        """Return a :class:`PreparedRevision`: the new program, or what is wrong with the request."""
        async with beating():
            try:
                return await self._prepared(request)
            except NotFound as error:
                raise ApplicationError(str(error), type="NotFound", non_retryable=True) from error
            except Exception as error:
                if is_connection_error(error):
                    raise
                # The same request would fail again: whoever asked is answered instead of kept waiting.
                logger.exception("a revision of run %s could not be prepared", request.get("runId"))
                message = f"the revision could not be prepared: {type(error).__name__}; the worker's log has it"
                raise ApplicationError(message, non_retryable=True) from None

    @activity.defn(name=LOAD_PLAN)
    async def load(self, request: Any) -> Any:
        """Return the plan that a run has at a revision."""
        async with beating():
            try:
                return dict(await self._document(request))
            except NotFound as error:
                raise ApplicationError(str(error), type="NotFound", non_retryable=True) from error

    async def _prepared(self, request: RevisionRequest) -> PreparedRevision:
        document = await self._document(request)
        revision, problems = await self._compute(lambda: revise(document, request["change"], check_plan))
        if revision is None:
            return {"problems": [_wire(problem) for problem in problems]}
        if names_stored_plans(revision.plan):
            try:
                revision = await self._whole(request, document, revision)
            except InvalidDocument as error:
                root = "/" + next(iter(request["change"]))
                return {
                    "problems": [
                        _wire(one.model_copy(update={"pointer": root + one.pointer})) for one in error.problems
                    ]
                }
        if request.get("byPlanner"):
            told = _secrets_told(document, revision)
            if told:
                return {"problems": [_wire(problem) for problem in told]}
        program, needed = await self._compute(lambda: _compiled(document, revision, request["priority"]))
        tenant_id, run_id = request["tenantId"], UUID(request["runId"])
        async with transaction(self._engine, tenant_id) as conn:
            known = await results_of(conn, tenant_id, run_id, needed) if needed else {}
            if not request["dryRun"]:
                for plan in (revision.plan, *embedded_plans(revision.plan)):
                    await put_document(conn, tenant_id, plan)
        return {
            "program": program,
            "digest": revision.plan.digest(),
            "diff": summary(revision.diff),
            "counts": counts(revision.diff),
            "known": known,
            "places": dict(revision.places),
            "warnings": [_wire(problem) for problem in revision.warnings],
        }

    async def _whole(self, request: RevisionRequest, before: Mapping[str, Any], revision: Revision) -> Revision:
        """Return the revision with the stored plans that it names in it.

        Raises:
            InvalidDocument: one of them is not there, or does not fit in.
        """
        whole, _ = await with_stored_plans(self._engine, self._preparations, request["tenantId"], revision.plan)
        return replace(revision, plan=whole, diff=plan_diff(before, whole.wire()))

    async def _document(self, request: Mapping[str, Any] | RevisionRequest) -> Mapping[str, Any]:
        """Return the plan that the change is made of.

        Raises:
            NotFound: it is not stored.
        """
        tenant_id, digest = request["tenantId"], request["plan"]
        async with transaction(self._engine, tenant_id) as conn:
            if digest is None:
                digest = await plan_of_revision(conn, tenant_id, UUID(request["runId"]), request["revision"])
            document = None if digest is None else await get_document(conn, tenant_id, digest)
        if document is None:
            raise NotFound(f"The plan of run {request['runId']} is not stored, so it cannot be changed.")
        return document

    async def _compute(self, call: Callable[[], T]) -> T:
        async with self._slot:
            return await asyncio.to_thread(call)


def _secrets_told(document: Mapping[str, Any], revision: Revision) -> list[Problem]:
    return [
        Problem(
            pointer=revision.places.get(f"nodes/{node}", "/" + next(iter(revision.places), "").partition("/")[0]),
            code="BAD_SECRET",
            message=f"A planner neither writes nor changes a node that is given a secret, as {node!r} is.",
            severity="error",
            node_id=node,
        )
        for node in nodes_given_otherwise(document, revision.plan.wire())
    ]


def _compiled(document: Mapping[str, Any], revision: Revision, priority: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the new program, and the nodes whose outputs it reads and the old one did not."""
    program = {**compile_plan(revision.plan, registry.light), "priority": priority}
    before = Program({**compile_plan(validate(document).require(), registry.light), "priority": priority})
    return program, changes(before, Program(program)).needed()


def _wire(problem: Problem) -> dict[str, Any]:
    return problem.model_dump(mode="json", by_alias=True, exclude_none=True)
