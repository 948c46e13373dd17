"""Episodes: what was done before, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from dalang.api.auth import Reader
from dalang.api.schemas import Answer, QueryModel
from dalang.api.services import Service
from dalang.plan_memory import MAX_QUERY
from dalang.store.episodes import MAX_FOUND, remember, search_episodes

router = APIRouter(prefix="/orchestrator/episodes", tags=["episodes"])


class EpisodeQuery(QueryModel):
    """What is looked for."""

    q: str | None = Field(
        None,
        max_length=MAX_QUERY,
        description='Words of name, plan, type, outcome, error or inputs: all of them; "a phrase", `or`, `-not`. '
        "Default: the newest.",
    )
    outcome: list[Literal["SUCCESS", "ERROR", "FAILED"]] = Field(
        default_factory=list, description="Only these; may be repeated."
    )
    limit: int = Field(20, ge=1, le=MAX_FOUND, description="At most so many; there is no other page.")


class EpisodeItem(Answer):
    """A past execution of a node; what was erased is null."""

    run_id: UUID
    node_id: str
    name: str
    type: str
    plan: str
    outcome: str
    started_at: datetime | None
    ended_at: datetime
    score: float = Field(description="How well it fits; 0 where nothing was asked for.")
    inputs: Any
    outputs: Any
    error: Any


class EpisodePage(Answer):
    """What was found, the best first."""

    items: Sequence[EpisodeItem]
    next: Literal[None] = None


@router.get("")
async def get_episodes(who: Reader, query: Annotated[EpisodeQuery, Query()], it: Service) -> EpisodePage:
    """Search past executions of nodes by name, outcome and inputs."""
    await remember(it.engine, it.indexes, who.tenant_id)
    async with it.transaction(who.tenant_id) as conn:
        found = await search_episodes(conn, who.tenant_id, query.q, outcomes=query.outcome, limit=query.limit)
    return EpisodePage(items=[EpisodeItem.model_validate(vars(one)) for one in found])
