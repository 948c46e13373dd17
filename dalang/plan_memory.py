"""What a node is given of the past, and where it works apart from others: the field ``memory``."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from dalang.plan_base import Model
from dalang.scopes import MAX_PATTERNS, pattern_problem

DEFAULT_EPISODES = 5
MAX_EPISODES = 50
MAX_QUERY = 500
_BRANCH = re.compile(r"(?![-/.])(?!.*(?:\.\.|//|/\.|\.lock(?:/|$)|@\{))[A-Za-z0-9._/@+-]{1,200}(?<![/.])")


class OnConflict(StrEnum):
    """What becomes of a node whose changes do not go together with what others changed meanwhile."""

    FAIL = "fail"
    """It fails."""
    REVIEW = "review"
    """It fails and suggests HUMAN_REVIEW: a person decides, and may merge by hand before."""


def _pattern(value: str) -> str:
    problem = pattern_problem(value)
    if problem is not None:
        raise ValueError(problem)
    return value


def _branch(value: str) -> str:
    if not _BRANCH.fullmatch(value):
        raise ValueError("a branch is named as git allows it, such as main or release/1.2")
    return value


Pattern = Annotated[str, AfterValidator(_pattern)]


class SessionSpec(Model):
    """Where a node works apart from others until it has succeeded: a worktree of a repository, or in the Cortex."""

    repository: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="Name of a git repository that the operator allows; the node gets a worktree of its own. Default: "
        "a session of the Cortex.",
    )
    base: Annotated[str, AfterValidator(_branch)] | None = Field(
        None, description="Branch that it begins with and that its changes are merged into. Default: the repository's."
    )
    workspace: str | None = Field(
        None, min_length=1, max_length=200, description="Of the Cortex. Default: the setting `cortex_workspace`."
    )
    paths: tuple[Pattern, ...] = Field(
        (), max_length=MAX_PATTERNS, description="Only these may be changed, such as `src/**`. Default: everything."
    )
    read_only_paths: tuple[Pattern, ...] = Field(
        (), max_length=MAX_PATTERNS, description="These may not be changed, whatever `paths` says."
    )
    on_conflict: OnConflict = Field(
        OnConflict.FAIL, description="When the changes do not merge: fail, or review (suggestedAction HUMAN_REVIEW)."
    )


class MemorySpec(Model):
    """What a handler finds as `ctx.episodes` and `ctx.session`."""

    episodes: int = Field(
        DEFAULT_EPISODES, ge=0, le=MAX_EPISODES, strict=True, description="So many past executions are looked up."
    )
    query: str | None = Field(
        None, min_length=1, max_length=MAX_QUERY, description="What they are looked up by. Default: the node's name."
    )
    session: SessionSpec | None = None
    required: bool = Field(
        False,
        strict=True,
        description="The node fails where the Cortex that is configured does not answer, or a session of it is wanted "
        "and there is none. Default: it works without.",
    )
