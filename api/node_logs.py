"""What handlers of a run logged."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from dalang.api.auth import Reader
from dalang.api.runs import found_run
from dalang.api.schemas import Answer, Limit, QueryModel
from dalang.api.services import Service
from dalang.store.node_logs import list_lines

router = APIRouter(prefix="/orchestrator/runs/{runId}/logs", tags=["nodes"])

Place = Annotated[int | None, Field(ge=0, le=2**63 - 1)]


class LogQuery(QueryModel):
    """Which lines of a run."""

    node_id: str | None = Field(None, max_length=1_000, description="Only lines of this node.")
    after: Place = Field(None, description="Lines after this position.")
    before: Place = Field(None, description="Lines before this position.")
    newest: bool = Field(False, description="Of more lines than `limit` the last, not the first.")
    limit: Limit = 200


class LogItem(Answer):
    """One line that a handler, or a library it used, logged."""

    position: int = Field(description="Grows in the order in which lines of the run were kept.")
    node_id: str
    generation: int
    attempt: int
    at: datetime
    level: str
    logger: str
    message: str
    error: str | None = Field(description="The stack of an exception that was logged with it.")


_LINE = tuple(name for name in LogItem.model_fields if name != "position")


class LogPage(Answer):
    """Lines in order."""

    items: list[LogItem]
    next: int | None = Field(description="What `after` is for the lines that follow; null: there is none by now.")


@router.get("")
async def get_logs(who: Reader, runId: UUID, query: Annotated[LogQuery, Query()], it: Service) -> LogPage:
    """List what the handlers of a run logged, the oldest first; workers keep a line within a second.

    Whoever wants to go on reads again with the last `position` as `after`: no line comes before one that was seen.
    """
    options = query.model_dump()
    async with it.transaction(who.tenant_id) as conn:
        await found_run(conn, who, runId)
        lines = await list_lines(conn, who.tenant_id, runId, **options)
    items = [LogItem(position=position, **{name: getattr(line, name) for name in _LINE}) for position, line in lines]
    is_full = len(items) == query.limit and not query.newest
    return LogPage(items=items, next=items[-1].position if is_full else None)
