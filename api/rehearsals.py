"""Rehearsing a plan: nothing is stored and nothing is started."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from dalang.api.auth import Operator
from dalang.api.bodies import JSON_TYPES, body_schema, checked, read_json
from dalang.api.schemas import RequestModel
from dalang.api.services import Service, Services
from dalang.errors import InvalidDocument, Problem
from dalang.formats import to_plan_document
from dalang.rehearsal import Options, load_options, rehearse

router = APIRouter(prefix="/orchestrator/plans", tags=["plans"])

MAX_RUNS = 10_000
DEFAULT_RUNS = 200
MAX_NODES = 10_000
BUDGET = 100_000
"""What one request may compute, in ends of nodes and attempts: some seconds. Then ``complete`` is false."""

_one_at_a_time = asyncio.Semaphore(1)
"""It is all computation in this process, which other requests wait for, so there is never more than one."""


class RehearseRequest(RequestModel):
    """A plan, and what is assumed about it; see docs/rehearsal.md."""

    plan: dict[str, Any] = Field(description="A plan document.")
    options: dict[str, Any] = Field(default_factory=dict, description="A rehearsal file's content, as JSON.")


@router.post("/rehearse", openapi_extra=body_schema(*JSON_TYPES, model=RehearseRequest))
async def rehearse_plan(who: Operator, request: Request, it: Service) -> dict[str, Any]:
    """Rehearse a plan; makespan percentiles, ends, criticality of nodes and use of resources, times in milliseconds."""
    wanted = checked(RehearseRequest, await read_json(request, it.settings.max_plan_bytes))
    return await rehearsed(it, to_plan_document(wanted.plan), wanted.options)


async def rehearsed(it: Services, document: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Rehearse a plan document within this process's bounds.

    Raises:
        InvalidDocument: the plan or the options are none.
    """
    options = load_options({"runs": DEFAULT_RUNS, **given})
    report = await it.launcher.preparations.check(document)
    plan = report.require()
    _bounded(options, len(plan.all_nodes()))
    async with _one_at_a_time:
        return await asyncio.to_thread(lambda: rehearse(plan, options, budget=BUDGET).wire())


def _bounded(options: Options, nodes: int) -> None:
    """Refuse what would keep this process busy for long; ``dalang plan rehearse`` has no such limits."""
    problems = []
    if options.runs > MAX_RUNS:
        message = f"At most {MAX_RUNS:,} rehearsals are made here."
        problems.append(Problem(pointer="/options/runs", code="LIMIT_EXCEEDED", message=message))
    if nodes > MAX_NODES:
        message = f"Plans of at most {MAX_NODES:,} nodes are rehearsed here; this one has {nodes:,}."
        problems.append(Problem(pointer="/plan/nodes", code="LIMIT_EXCEEDED", message=message))
    if problems:
        raise InvalidDocument(problems, "request")
