"""Checkpoints of runs: named points that a redrive can start from."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from dalang.api.auth import Operator, Reader
from dalang.api.bodies import body_schema, small_body
from dalang.api.runs import found_run
from dalang.api.schemas import Answer, QueryModel, RequestModel, Text, Time
from dalang.api.services import Service
from dalang.errors import NotFound
from dalang.statuses import NodeStatus
from dalang.store.run_checkpoints import (
    RunCheckpoint,
    checkpoint_statistics,
    create_checkpoint,
    delete_checkpoint,
    delete_checkpoints_before,
    get_checkpoint,
    list_checkpoints,
)

router = APIRouter(prefix="/orchestrator/runs/{runId}/checkpoints", tags=["runs"])


class CheckpointRequest(RequestModel):
    """A name that the run does not have yet, and what it is good for."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    note: Text = ""


class RunCheckpointItem(Answer):
    """A named point in a run's chain of events."""

    run_id: UUID
    name: str
    event_id: str = Field(description="`epoch.seq` of the last event before it.")
    node_status_counts: dict[NodeStatus, int] = Field(description="Of all nodes something had happened to then.")
    note: str
    created_by: str
    created_at: datetime


class CheckpointStatisticsItem(Answer):
    """How many there are, since when, and how many bytes they take."""

    count: int
    size_bytes: int
    oldest: datetime | None
    newest: datetime | None


class RunCheckpoints(Answer):
    """A run's checkpoints, the oldest first."""

    run_id: UUID
    items: list[RunCheckpointItem]
    statistics: CheckpointStatisticsItem


class CheckpointsDeleted(Answer):
    """How many checkpoints were deleted."""

    deleted: int


class OlderThan(QueryModel):
    """Which checkpoints."""

    before: Time = Field(description="Those that were made before this time (RFC 3339).")


Body = Annotated[CheckpointRequest, Depends(small_body(CheckpointRequest, optional=False))]


@router.post("", status_code=201, openapi_extra=body_schema("application/json", model=CheckpointRequest))
async def make_checkpoint(who: Operator, runId: UUID, body: Body, it: Service) -> RunCheckpointItem:
    """Name what a run has come to, to start from there again later; it may be under way or have ended."""
    async with it.transaction(who.tenant_id) as conn:
        return _item(await create_checkpoint(conn, who.tenant_id, runId, body.name, who.subject, body.note))


@router.get("")
async def get_checkpoints(who: Reader, runId: UUID, it: Service) -> RunCheckpoints:
    """List a run's checkpoints, with statistics."""
    async with it.transaction(who.tenant_id) as conn:
        await found_run(conn, who, runId)
        items = await list_checkpoints(conn, who.tenant_id, runId)
        statistics = await checkpoint_statistics(conn, who.tenant_id, runId)
    shown = CheckpointStatisticsItem.model_validate(vars(statistics))
    return RunCheckpoints(run_id=runId, items=[_item(one) for one in items], statistics=shown)


@router.get("/{name}")
async def get_one_checkpoint(who: Reader, runId: UUID, name: str, it: Service) -> RunCheckpointItem:
    """Read a checkpoint."""
    async with it.transaction(who.tenant_id) as conn:
        found = await get_checkpoint(conn, who.tenant_id, runId, name)
    if found is None:
        raise NotFound(f"Run {runId} has no checkpoint {name!r}.")
    return _item(found)


@router.delete("/{name}", status_code=204, response_class=Response)
async def delete_one_checkpoint(who: Operator, runId: UUID, name: str, it: Service) -> None:
    """Delete a checkpoint; the run and its events stay as they are."""
    async with it.transaction(who.tenant_id) as conn:
        if not await delete_checkpoint(conn, who.tenant_id, runId, name):
            raise NotFound(f"Run {runId} has no checkpoint {name!r}.")


@router.delete("")
async def delete_old_checkpoints(
    who: Operator, runId: UUID, query: Annotated[OlderThan, Query()], it: Service
) -> CheckpointsDeleted:
    """Delete the checkpoints of a run that were made before a time."""
    async with it.transaction(who.tenant_id) as conn:
        await found_run(conn, who, runId)
        count = await delete_checkpoints_before(conn, who.tenant_id, runId, query.before)
    return CheckpointsDeleted(deleted=count)


def _item(one: RunCheckpoint) -> RunCheckpointItem:
    names = ("run_id", "name", "node_status_counts", "note", "created_by", "created_at")
    return RunCheckpointItem(**{name: getattr(one, name) for name in names}, event_id=f"{one.epoch}.{one.seq}")
