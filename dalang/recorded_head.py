"""The head of a run as Temporal holds it: in the result of its workflow, which the database cannot change."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from dalang.errors import DalangError
from dalang.wire import Head

SECONDS = 5.0


class TemporalState(StrEnum):
    """What Temporal says about the head of a run."""

    MATCHES = "MATCHES"
    """The workflow ended with a head of this chain."""
    DIFFERS = "DIFFERS"
    """The workflow ended with a head that is not in this chain."""
    RUNNING = "RUNNING"
    """The workflow goes on."""
    EXPIRED = "EXPIRED"
    """Temporal has deleted the workflow, or never had it."""
    NO_HEAD = "NO_HEAD"
    """The workflow ended without a result: it was cancelled, terminated, or ran too long."""
    UNAVAILABLE = "UNAVAILABLE"
    """Temporal does not answer."""
    NOT_ASKED = "NOT_ASKED"
    """There is nothing to ask about, or nobody wanted it."""


async def recorded_head(client: Client, workflow_id: str) -> Head | TemporalState:
    """Return the head with which a workflow ended, or why there is none."""
    handle = client.get_workflow_handle(workflow_id)
    try:
        async with asyncio.timeout(SECONDS):
            if (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
                return TemporalState.RUNNING
            result: Any = await handle.result()
    except WorkflowFailureError as error:
        cause = error.cause
        result = cause.details[0] if isinstance(cause, ApplicationError) and cause.details else None
    except RPCError as error:
        gone = error.status is RPCStatusCode.NOT_FOUND
        return TemporalState.EXPIRED if gone else TemporalState.UNAVAILABLE
    except (TimeoutError, DalangError):
        return TemporalState.UNAVAILABLE
    head = result.get("head") if isinstance(result, Mapping) else None
    if not isinstance(head, Mapping) or not isinstance(head.get("hash"), str):
        return TemporalState.NO_HEAD
    return {"epoch": int(head["epoch"]), "seq": int(head["seq"]), "hash": head["hash"]}
