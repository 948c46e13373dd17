"""What a starting worker finds out about its keys: whether they fit those that others use.

That a key file can be read is asked where it is read, and ends the process. Here is what only the database and Temporal
can tell: a worker whose audit keys differ from the others' makes heads that they call forged; one that lacks a key of
encryption would fail the tasks of runs that others go on with, so it does not start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.api.common.v1 import Payload, WorkflowExecution
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryRequest
from temporalio.client import Client
from temporalio.service import RPCError

from dalang import wire
from dalang.encryption_keys import SETTING, watched_keys
from dalang.payload_codec import UndecryptablePayload, decrypted, is_encrypted
from dalang.settings import Settings, SettingsError
from dalang.signing import ALGORITHM, Keyring
from dalang.store.audit_tables import audit_anchors
from dalang.store.engine import is_connection_error, system_transaction
from dalang.store.tables import execution_runs

SECONDS = 5.0
LOOKED_AT = 20

logger = logging.getLogger("dalang.keys")


async def check_keys(settings: Settings, engine: AsyncEngine, client: Client, keys: Keyring) -> list[str]:
    """Compare the keys of this process with what others have signed and encrypted last; return ids that are unknown.

    What is away is not waited for: then nothing is found out.

    Raises:
        SettingsError: a run that goes on is encrypted with a key that is not known here.
    """
    foreign: list[str] = []
    try:
        async with asyncio.timeout(SECONDS):
            foreign = await _foreign_signers(engine, keys)
    except Exception as error:
        if not isinstance(error, TimeoutError) and not is_connection_error(error):
            raise
    if foreign:
        logger.error(
            "others sign what runs do with keys that are not in this worker's DALANG_AUDIT_KEY_FILE (%s); those who do "
            "not know its key call what it signs forged",
            ", ".join(foreign),
        )
    try:
        async with asyncio.timeout(SECONDS):
            await _check_encryption(settings, client)
    except (TimeoutError, RPCError) as error:
        logger.warning("the keys of encryption were not compared with those of runs: %s", type(error).__name__)
    return foreign


async def _foreign_signers(engine: AsyncEngine, keys: Keyring) -> list[str]:
    """Return the ids of keys that have signed the newest anchors and heads of runs that go on, and are not known."""
    if not keys:
        return []
    runs, anchors = execution_runs.c, audit_anchors.c
    going_on = select(runs.head_signature).where(runs.completed_at.is_(None), runs.head_signature.is_not(None))
    newest = select(anchors.signature).order_by(anchors.at.desc())
    async with system_transaction(engine) as conn:
        found = [*(await conn.execute(going_on.limit(LOOKED_AT))).scalars()]
        found += (await conn.execute(newest.limit(1))).scalars()
    return signers(found, keys)


def signers(signatures: Iterable[str], keys: Keyring) -> list[str]:
    """Return the ids of the keys that made these signatures and are not among ``keys``."""
    parts = [one.split(":") for one in signatures]
    ids = {part[1] for part in parts if len(part) == 3 and part[0] == ALGORITHM}
    return sorted(ids - keys.public_keys.keys())


async def _check_encryption(settings: Settings, client: Client) -> None:
    """Raise SettingsError when a run that goes on cannot be read here."""
    payload = await _a_payload(client, settings.task_queue)
    if payload is None or not is_encrypted(payload):
        return
    watched = watched_keys(settings)
    if watched is None:
        raise SettingsError(f"runs that go on are encrypted, and {SETTING} names no keys")
    try:
        decrypted(payload, watched.current())
    except UndecryptablePayload as error:
        raise SettingsError(f"a run that goes on cannot be read: {error}") from None


async def _a_payload(client: Client, task_queue: str) -> Payload | None:
    """Return the state that one of the runs that go on began with, as Temporal holds it."""
    own = task_queue.replace("'", "")
    query = f"WorkflowType = '{wire.PLAN_RUN}' AND ExecutionStatus = 'Running' AND TaskQueue = '{own}'"
    async for one in client.list_workflows(query, limit=1):
        execution = WorkflowExecution(workflow_id=one.id, run_id=one.run_id)
        history = await client.workflow_service.get_workflow_execution_history(
            GetWorkflowExecutionHistoryRequest(namespace=client.namespace, execution=execution, maximum_page_size=1)
        )
        for event in history.history.events[:1]:
            payloads = event.workflow_execution_started_event_attributes.input.payloads
            return payloads[-1] if payloads else None
    return None
