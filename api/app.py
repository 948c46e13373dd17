"""The composition of the API: ``create_app(settings)``. Nobody imports it but ``__main__`` and tests."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from dalang import __version__
from dalang.api import (
    agents,
    approval_tokens,
    artifacts,
    assignments,
    audit,
    breakers,
    budgets,
    codec,
    decisions,
    docs,
    episodes,
    erasure,
    events,
    flat,
    health,
    human_tasks,
    inbound,
    limits,
    node_logs,
    nodes,
    plans,
    problems,
    provenance,
    queue,
    redrives,
    rehearsals,
    revisions,
    run_checkpoints,
    runs,
    runtime_hub,
    schedules,
    signed_in,
    subscriptions,
    system_events,
    task_decisions,
    terminations,
    tickets,
    tokens,
)
from dalang.api.a2a import routes as a2a
from dalang.api.agent_schemas import BODIES as AGENT_BODIES
from dalang.api.breakers import BODIES as BREAKER_BODIES
from dalang.api.inbound_schemas import BODIES as INBOUND_BODIES
from dalang.api.limit_schemas import BODIES as LIMIT_BODIES
from dalang.api.mcp import McpEndpoint
from dalang.api.middleware import Metrics, RequestContext
from dalang.api.redrives import RedriveRequest
from dalang.api.rehearsals import RehearseRequest
from dalang.api.revisions import ReplanRequest
from dalang.api.run_checkpoints import CheckpointRequest
from dalang.api.schedule_schemas import BackfillRequest, CreateScheduleRequest, TriggerRequest, UpdateScheduleRequest
from dalang.api.schemas import (
    CancelRequest,
    ExecutePlanRequest,
    PauseResumeRequest,
    PauseRunRequest,
    ProblemDetails,
    RetryNodeRequest,
    SkipNodeRequest,
)
from dalang.api.services import Services
from dalang.api.subscription_schemas import BODIES as SUBSCRIPTION_BODIES
from dalang.api.task_schemas import BODIES as TASK_BODIES
from dalang.api.terminations import TerminateRequest
from dalang.api.ui import providers, sign_in
from dalang.api.ui import routes as ui
from dalang.settings import Settings

_TAGS = [
    {"name": "runs", "description": "Start plans, look at their runs, pause, resume and cancel them."},
    {"name": "nodes", "description": "The nodes of a run: inputs, outputs, attempts, errors."},
    {"name": "events", "description": "What happened in a run, as a list and as Server-Sent Events."},
    {"name": "subscriptions", "description": "Who is told of events: webhooks, Kafka, NATS."},
    {"name": "waiting", "description": "Events and answers from outside, for nodes that wait for them."},
    {"name": "plans", "description": "Plans and their versions, which never change."},
    {"name": "human tasks", "description": "What people are asked, and what they decide."},
    {"name": "agents", "description": "Who does the work of nodes that ask for capabilities."},
    {"name": "limits", "description": "Pools, quotas, who waits for a lease and who holds one, retries."},
    {"name": "schedules", "description": "Start runs of stored plans by cron, interval and calendar."},
    {"name": "circuit breakers", "description": "Who is not called for a while, since it fails."},
    {"name": "episodes", "description": "What was done before, and how it ended."},
    {"name": "runtime hub", "description": "Wayang's contract: single tasks for the workers of this Dalang."},
    {"name": "audit", "description": "Proof that nobody rewrote what runs did."},
    {"name": "provenance", "description": "Where everything in a run came from."},
    {"name": "artifacts", "description": "Files that inputs and outputs refer to."},
    {"name": "codec", "description": "For Temporal's Web UI and CLI: reads and writes encrypted payloads."},
    {"name": "identity", "description": "Who may come in: tokens, and links that sign a browser in."},
    {"name": "health", "description": "For load balancers and Prometheus."},
]
_DESCRIPTION = (
    "Durable plans of agents, tools, services and people on Temporal. Every request but health carries "
    "`Authorization: Bearer <token>`, or the session cookie of a browser that is signed in; what is another tenant's "
    "is answered with 404. Errors are `application/problem+json` (RFC 9457)."
)
_SCHEDULE_BODIES = (CreateScheduleRequest, UpdateScheduleRequest, TriggerRequest, BackfillRequest)
_BODIES = (
    *AGENT_BODIES,
    *BREAKER_BODIES,
    *SUBSCRIPTION_BODIES,
    *TASK_BODIES,
    *INBOUND_BODIES,
    *LIMIT_BODIES,
    *budgets.BODIES,
    *codec.BODIES,
    *runtime_hub.BODIES,
    *tokens.BODIES,
    *erasure.BODIES,
    *_SCHEDULE_BODIES,
    ExecutePlanRequest,
    PauseResumeRequest,
    PauseRunRequest,
    CancelRequest,
    RetryNodeRequest,
    SkipNodeRequest,
    RedriveRequest,
    CheckpointRequest,
    ReplanRequest,
    TerminateRequest,
    RehearseRequest,
    ProblemDetails,
)


def create_app(settings: Settings) -> FastAPI:
    """Return the app; it connects to Postgres and Temporal when it is first needed, and starts without them."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = app.state.services = Services(settings, metrics)
        async with services.running(), mcp.running():
            yield

    problem = {"description": "A problem.", "content": {problems.MEDIA_TYPE: {"schema": _reference(ProblemDetails)}}}
    app = FastAPI(
        title="Dalang",
        version=__version__,
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    # The stream before the list's sibling addresses: nodes take any path that is left.
    resources = (
        agents,
        breakers,
        assignments,
        inbound,
        plans,
        rehearsals,
        runs,
        redrives,
        revisions,
        run_checkpoints,
        terminations,
        audit,
        system_events,
        events,
        node_logs,
        episodes,
        artifacts,
        budgets,
        codec,
        decisions,
        queue,
        limits,
        provenance,  # before nodes, whose ids may hold slashes
        nodes,
        human_tasks,
        task_decisions,
        approval_tokens,
        schedules,
        subscriptions,
        runtime_hub,
        tickets,
        tokens,
        erasure,
        signed_in,
        health,
        docs,
        sign_in,
        providers,
        a2a,
    )
    for router in (*(resource.router for resource in resources), *ui.ROUTERS):
        flat.add(app, router, {"4XX": problem, "5XX": problem})
    mcp = McpEndpoint(app, settings.max_plan_bytes + 64 * 1024, (settings.public_url, settings.api_url))
    app.router.routes.append(mcp.route)
    problems.install(app)
    app.add_middleware(codec.CodecCors, ui_url=settings.temporal_ui_url)
    app.add_middleware(RequestContext, metrics=metrics)
    _complete_openapi(app)
    return app


def _reference(model: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _complete_openapi(app: FastAPI) -> None:
    """Add the schemas of bodies that routes read by themselves; 4XX says all that FastAPI's 422 would."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            _, schemas = models_json_schema(
                [(model, "validation") for model in _BODIES], ref_template="#/components/schemas/{model}"
            )
            known = document.setdefault("components", {}).setdefault("schemas", {})
            known.update(schemas["$defs"])
            for unused in ("HTTPValidationError", "ValidationError"):
                known.pop(unused, None)
            for path in document["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
                    operation["summary"] = re.split(r"[.;:]", operation["description"], maxsplit=1)[0]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document
