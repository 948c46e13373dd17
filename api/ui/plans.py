"""``/ui/plans``: plans and their versions, an editor that shows problems where they are, starting, rehearsing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Query, Request, Response
from markupsafe import Markup
from starlette.responses import JSONResponse

from dalang.api.auth import Reader
from dalang.api.bodies import read_body
from dalang.api.plans import read_plan
from dalang.api.problems import Forbidden, wire
from dalang.api.rehearsals import rehearsed
from dalang.api.services import Service
from dalang.api.ui.forms import fields_of
from dalang.api.ui.gantt import gantt
from dalang.api.ui.lines import line_told, lines_of
from dalang.api.ui.pages import Looks, PageRoute, Visitor
from dalang.api.ui.telling import as_mapping, pretty
from dalang.drawing import svg
from dalang.errors import DalangError, InvalidDocument, NotFound
from dalang.formats import load_document
from dalang.store.agents import capabilities_of_all
from dalang.store.plans import StoredPlan, get_plan, list_plans, list_versions
from dalang.store.run_lists import RunFilter, list_runs
from dalang.validation import validate
from dalang.yaml_core import dump_yaml

router = APIRouter(include_in_schema=False, route_class=PageRoute)

PAGE = 50
MAX_SHOWN_BYTES = 400_000
"""A larger plan is drawn, but not written out on its page."""
MAX_EDITED_BYTES = 2 * 1024 * 1024
MAX_PREVIEW_NODES = 400
REHEARSALS = 200
Version = Annotated[str | None, Query(max_length=100)]
EXAMPLE = """name: my-first-plan
inputs:
  type: object
  properties:
    name: {type: string, default: dalang}
nodes:
  - nodeId: greet
    type: noop
    inputs: {greeting: "Hello, ${inputs.name}"}
  - nodeId: wait
    type: timer
    inputs: {duration: 2s}
edges:
  - {sourceNodeId: greet, targetNodeId: wait}
"""


@router.get("/ui/plans")
async def plans_page(
    page: Looks,
    q: Annotated[str, Query(max_length=500)] = "",
    cursor: Annotated[str | None, Query(max_length=2_000)] = None,
) -> Response:
    """List plans, each in its highest version."""
    tenant = page.who.tenant_id
    async with page.it.transaction(tenant) as conn:
        found = await list_plans(conn, tenant, text=q.strip() or None, limit=PAGE, cursor=cursor or None)
    return await page.page(
        "plans.html", title="Plans", section="plans", plans=found.items, next=found.cursor, q=q.strip()
    )


@router.get("/ui/plans/new")
async def editor_page(page: Looks, plan: UUID | None = None, version: Version = None) -> Response:
    """Show the editor, with a stored plan to make another version of, or with an example."""
    text = EXAMPLE
    if plan is not None:
        stored = await _stored(page, plan, version)
        text = await asyncio.to_thread(dump_yaml, stored.document)
    return await page.page("plan_editor.html", title="New plan", section="plans", text=text, plan=plan)


@router.post("/ui/plans/check")
async def check(who: Reader, request: Request, it: Service) -> Response:
    """Validate the text of the editor; every problem with its line, and the picture of what is valid."""
    body = await read_body(request, MAX_EDITED_BYTES)
    text = body.decode("utf-8", "replace")
    picture = ""
    try:
        document = await read_plan(body, "application/json" if text.lstrip()[:1] == "{" else "application/yaml")
        async with it.transaction(who.tenant_id) as conn:
            agents = await capabilities_of_all(conn, who.tenant_id)
        report = await it.launcher.preparations.check(document, agents)
        problems = report.problems
        if report.ok and len(report.require().all_nodes()) <= MAX_PREVIEW_NODES:
            picture = await asyncio.to_thread(svg, report.require())
    except InvalidDocument as error:
        problems = error.problems
    places = await asyncio.to_thread(lines_of, text, {one.pointer for one in problems})
    told = [{**wire(one), "line": places.get(one.pointer) or line_told(one.message)} for one in problems]
    return JSONResponse(
        {"valid": not any(one.severity == "error" for one in problems), "problems": told, "svg": picture}
    )


@router.get("/ui/plans/{planId}")
async def plan_page(page: Looks, planId: UUID, version: Version = None) -> Response:
    """Show a plan: its picture, its document, its versions, its newest runs, and the form that starts it."""
    tenant = page.who.tenant_id
    stored = await _stored(page, planId, version)
    async with page.it.transaction(tenant) as conn:
        versions = await list_versions(conn, tenant, planId)
        runs = await list_runs(conn, tenant, RunFilter(plan_id=planId), limit=5)
    picture, text, problems = await asyncio.to_thread(_drawn, stored.document)
    schema = as_mapping(stored.document.get("inputs"))
    return await page.page(
        "plan.html",
        title=f"{stored.name} {stored.version}",
        section="plans",
        plan=stored,
        document=stored.document,
        versions=versions,
        runs=runs.items,
        picture=picture,
        text=text,
        problems=problems,
        fields=fields_of(schema),
        has_inputs=bool(schema),
        key=str(uuid4()),
        example=pretty({name: None for name in as_mapping(schema.get("properties"))}),
    )


@router.get("/ui/plans/{planId}/rehearsal")
async def rehearsal_page(
    page: Looks,
    planId: UUID,
    version: Version = None,
    runs: Annotated[int, Query(ge=1, le=10_000)] = REHEARSALS,
    seed: Annotated[int, Query(ge=0, le=2**31)] = 1,
    assumed: Annotated[str, Query(max_length=6_000)] = "",
) -> Response:
    """Rehearse a plan and draw the median rehearsal; what is assumed stands in the address."""
    stored = await _stored(page, planId, version)
    if not page.may_operate:
        raise Forbidden("Rehearsing takes the role operator: it keeps the server busy for a while.")
    summary: Mapping[str, Any] | None = None
    problem: dict[str, Any] | None = None
    try:
        options = as_mapping(load_document(assumed.encode(), name="options.yaml")) if assumed.strip() else {}
        summary = await rehearsed(page.it, stored.document, {**options, "runs": runs, "seed": seed})
    except InvalidDocument as error:
        problem = {"detail": str(error), "problems": [wire(one) for one in error.problems]}
    names = {one["nodeId"]: one.get("name") or one["nodeId"] for one in stored.document.get("nodes", [])}
    return await page.page(
        "rehearsal.html",
        title=f"Rehearsal of {stored.name}",
        section="plans",
        plan=stored,
        summary=summary,
        picture=gantt(summary["median"], names) if summary else "",
        problem=problem,
        runs=runs,
        seed=seed,
        assumed=assumed,
    )


async def _stored(page: Visitor, plan_id: UUID, version: str | None) -> StoredPlan:
    async with page.it.transaction(page.who.tenant_id) as conn:
        stored = await get_plan(conn, page.who.tenant_id, plan_id, version)
    if stored is None:
        raise NotFound(f"There is no plan {plan_id}" + (f" in version {version!r}." if version is not None else "."))
    return stored


def _drawn(document: Mapping[str, Any]) -> tuple[Markup | str, str | None, list[dict[str, Any]]]:
    """Return the picture, the text of a document that is not too large, and what this version has against it."""
    text = dump_yaml(document)
    report = validate(document)
    try:
        picture = Markup(svg(report.require()))  # noqa: S704  # svg escapes every name
    except DalangError:
        picture = Markup("")
    return picture, text if len(text) <= MAX_SHOWN_BYTES else None, [wire(one) for one in report.problems]
