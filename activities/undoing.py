"""The activity ``seed_undo``: what a finished run below a node did, for the run that undoes it."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.exceptions import ApplicationError

from dalang.errors import DalangError
from dalang.program import Program
from dalang.undo_seeding import finished_seed
from dalang.wire import SEED_UNDO, UndoSeedInput


class UndoSeeds:
    """Reads what runs did. One per worker process."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @activity.defn(name=SEED_UNDO)
    async def seed(self, request: Any) -> dict[str, Any]:
        """Return the seed of the run that undoes another one; repeated by Temporal while Postgres is away."""
        told: UndoSeedInput = request
        program = await asyncio.to_thread(Program, told["program"])
        run_id = UUID(told["runId"])
        try:
            return await finished_seed(self._engine, told["tenantId"], run_id, program, told["inputs"], told["about"])
        except DalangError as error:
            # What is needed was erased: trying again cannot help, and a person has to.
            raise ApplicationError(str(error), type=type(error).__name__, non_retryable=True) from error
