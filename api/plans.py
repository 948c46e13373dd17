"""Plans: validate, store by version, read, draw."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from dalang.api.auth import Operator, Principal, Reader
from dalang.api.bodies import JSON_TYPES, SMALL_BYTES, YAML_TYPES, body_schema, media_type, read_body
from dalang.api.limit_warnings import limit_warnings
from dalang.api.problems import UnsupportedMedia, wire
from dalang.api.schemas import (
    PlanChecked,
    PlanCreated,
    PlanDetail,
    PlanItem,
    PlanPage,
    PlanQuery,
    PlanVersions,
    ProblemItem,
)
from dalang.api.services import Service, Services
from dalang.drawing import dot, mermaid, svg
from dalang.errors import InvalidDocument, NotFound, Problem
from dalang.formats import load_document, to_plan_document
from dalang.store.agents import capabilities_of_all
from dalang.store.plans import PlanVersion, get_plan, list_plans, list_versions, put_plan
from dalang.validation import Report, validate

router = APIRouter(prefix="/orchestrator/plans", tags=["plans"])

Version = Annotated[str | None, Query(max_length=100, description="Default: the highest version.")]
Format = Annotated[Literal["svg", "mermaid", "dot"], Query(description="svg, mermaid or dot.")]
_BODY = body_schema(*JSON_TYPES, *YAML_TYPES[:2])
_DRAWINGS = {"svg": (svg, "image/svg+xml"), "mermaid": (mermaid, "text/plain"), "dot": (dot, "text/vnd.graphviz")}
GRAPH_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/svg+xml": {}, "text/plain": {}, "text/vnd.graphviz": {}}, "description": "The picture."}
}
_STORED: dict[int | str, dict[str, Any]] = {200: {"model": PlanCreated, "description": "It is stored already."}}


@router.post("", status_code=201, openapi_extra=_BODY, responses=_STORED)
async def create_plan(who: Operator, request: Request, response: Response, it: Service) -> PlanCreated:
    """Store a version of a plan, given as JSON or YAML; Axon's `tasks` and `dependencies` are read too.

    The same version with the same content is answered with 200, with other content with 409: versions never change.
    """
    report = await _checked(request, who, it)
    plan = report.require()
    async with it.transaction(who.tenant_id, seconds=60) as conn:
        stored, new = await put_plan(conn, who.tenant_id, plan, created_by=who.subject)
    limits = await limit_warnings(it, who.tenant_id, await it.launcher.preparations.of_plan(plan))
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"/orchestrator/plans/{stored.plan_id}?version={quote(stored.version, safe='')}"
    return PlanCreated(
        plan_id=stored.plan_id,
        version=stored.version,
        digest=stored.digest,
        name=stored.name,
        nodes=stored.node_count,
        edges=stored.edge_count,
        warnings=[*_items(report.warnings), *limits],
    )


@router.post("/validate", openapi_extra=_BODY)
async def validate_plan(who: Reader, request: Request, it: Service) -> PlanChecked:
    """Validate a plan without storing it; every problem at once, each with JSON Pointer, code and sentence."""
    try:
        report = await _checked(request, who, it)
    except InvalidDocument as error:
        report = Report(None, error.problems)
    return PlanChecked(valid=report.ok, problems=_items(report.problems))


@router.get("")
async def get_plans(who: Reader, query: Annotated[PlanQuery, Query()], it: Service) -> PlanPage:
    """List plans, each in its highest version, by name."""
    async with it.transaction(who.tenant_id) as conn:
        page = await list_plans(conn, who.tenant_id, text=query.name, limit=query.limit, cursor=query.cursor)
    return PlanPage(items=[_item(one) for one in page.items], next=page.cursor)


@router.get("/{planId}")
async def get_one_plan(who: Reader, planId: UUID, it: Service, version: Version = None) -> PlanDetail:
    """Read a plan: its highest version, or the one asked for."""
    async with it.transaction(who.tenant_id) as conn:
        stored = await get_plan(conn, who.tenant_id, planId, version)
    if stored is None:
        raise _no_plan(planId, version)
    return PlanDetail(**_item(stored).model_dump(), plan=stored.document)


@router.get("/{planId}/versions")
async def get_versions(who: Reader, planId: UUID, it: Service) -> PlanVersions:
    """List the versions of a plan, the highest first."""
    async with it.transaction(who.tenant_id) as conn:
        found = await list_versions(conn, who.tenant_id, planId)
    if not found:
        raise _no_plan(planId, None)
    return PlanVersions(items=[_item(one) for one in found])


@router.get("/{planId}/graph", response_class=Response, responses=GRAPH_RESPONSES)
async def get_graph(
    who: Reader, planId: UUID, it: Service, version: Version = None, format: Format = "svg"
) -> Response:
    """Draw a plan."""
    async with it.transaction(who.tenant_id) as conn:
        stored = await get_plan(conn, who.tenant_id, planId, version)
    if stored is None:
        raise _no_plan(planId, version)
    return await drawn(stored.document, format)


async def drawn(document: Mapping[str, Any], form: str, statuses: Mapping[str, str] | None = None) -> Response:
    """Return the picture of a stored plan."""
    draw, media = _DRAWINGS[form]
    text = await asyncio.to_thread(lambda: draw(validate(document).require(), statuses))
    # Opened by itself the picture may hold nothing that runs, whatever names are in it.
    policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
    return Response(text, media_type=f"{media}; charset=utf-8", headers=policy)


async def read_plan(body: bytes, media: str) -> dict[str, Any]:
    """Return the plan document in ``body``, in Dalang's own form; not validated yet.

    Raises:
        UnsupportedMedia, InvalidDocument: as they say.
    """
    if media not in (*JSON_TYPES, *YAML_TYPES):
        raise UnsupportedMedia("A plan is sent as application/json or application/yaml.")
    name = "plan.json" if media in JSON_TYPES else "plan.yaml"

    def parse() -> dict[str, Any]:
        return to_plan_document(load_document(body, name=name))

    return parse() if len(body) <= SMALL_BYTES else await asyncio.to_thread(parse)


async def _checked(request: Request, who: Principal, it: Services) -> Report:
    media = media_type(request)
    if media not in (*JSON_TYPES, *YAML_TYPES):
        raise UnsupportedMedia("A plan is sent as application/json or application/yaml.")
    body = await read_body(request, it.settings.max_plan_bytes)
    document = await read_plan(body, media)
    async with it.transaction(who.tenant_id) as conn:
        agents = await capabilities_of_all(conn, who.tenant_id)
    return await it.launcher.preparations.check(document, agents)


def _item(stored: PlanVersion) -> PlanItem:
    return PlanItem(
        plan_id=stored.plan_id,
        version=stored.version,
        name=stored.name,
        digest=stored.digest,
        nodes=stored.node_count,
        edges=stored.edge_count,
        created_by=stored.created_by,
        created_at=stored.created_at,
    )


def _items(problems: tuple[Problem, ...]) -> list[ProblemItem]:
    return [ProblemItem.model_validate(wire(one)) for one in problems]


def _no_plan(plan_id: UUID, version: str | None) -> NotFound:
    return NotFound(f"There is no plan {plan_id}" + (f" in version {version!r}." if version is not None else "."))
