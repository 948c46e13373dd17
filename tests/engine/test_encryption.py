"""With encryption on, nothing that people wrote can be read in Temporal; what is from before can be read on."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryRequest
from temporalio.client import WorkflowUpdateFailedError

from dalang.encryption_keys import with_new_key
from dalang.lost_history import read_lost_history
from dalang.nodes import NetworkError, NodeContext, ToolError, node
from dalang.payload_codec import UndecryptablePayload
from dalang.settings import Settings
from dalang.stack.private_files import write_private
from dalang.store.engine import system_transaction
from dalang.temporal import EncryptedPayload, data_converter
from dalang.worker import worker
from tests.engine.kit import Engine, Started, body_of, engine
from tests.harness import PATIENCE

MARKS = [f"mark-{kind}-7c9d" for kind in ("input", "literal", "output", "beat", "state", "error", "name", "reason")]
INPUT, LITERAL, OUTPUT, BEAT, STATE, ERROR, NAME, REASON = MARKS
BIG = "big-mark " * 20_000


@node("t-confides")
async def confides(ctx: NodeContext, told: str, literal: str, path: str) -> dict[str, Any]:
    """Heartbeat, checkpoint, fail once, wait for the test and answer."""
    ctx.progress(BEAT)
    await ctx.checkpoint({"state": STATE})
    if ctx.attempt == 1:
        raise NetworkError(f"{ERROR} for {told}")
    while not Path(path).exists():
        await asyncio.sleep(0.02)
    return {"told": OUTPUT}


@node("t-betrays")
async def betrays(ctx: NodeContext, big: str) -> None:
    """Fail for good."""
    raise ToolError(ERROR, details={"why": ERROR})


PLAN: dict[str, Any] = {
    "nodes": [
        {
            "nodeId": "a",
            "name": NAME,
            "type": "t-confides",
            "inputs": {"told": "${inputs.told}", "literal": LITERAL, "path": "${inputs.path}"},
            "retryPolicy": {"maxAttempts": 2, "backoffStrategy": "FIXED", "initialDelay": "1ms"},
        },
        {"nodeId": "b", "type": "t-betrays", "inputs": {"big": "${inputs.big}"}},
    ],
    "edges": [{"sourceNodeId": "a", "targetNodeId": "b"}],
}


@pytest.fixture
def keyed(settings: Settings, tmp_path: Path) -> Settings:
    """Settings with a file of one key."""
    path = tmp_path / "keys.json"
    write_private(path, with_new_key(path, "k1")[1])
    return settings.model_copy(update={"encryption_keys_file": str(path)})


@pytest.fixture
async def sealed(keyed: Settings) -> AsyncIterator[Engine]:
    """An engine and a worker that encrypt."""
    async with engine(keyed) as running:
        yield running


async def seen_by_temporal(started: Started) -> bytes:
    """Return all that Temporal holds of a run, as bytes: history and description."""
    client = started.engine.client
    held, token = b"", b""
    while True:
        request = GetWorkflowExecutionHistoryRequest(
            namespace=client.namespace,
            execution=WorkflowExecution(workflow_id=started.handle.id),
            next_page_token=token,
        )
        page = await client.workflow_service.get_workflow_execution_history(request)
        held += page.history.SerializeToString()
        token = page.next_page_token
        if not token:
            break
    return held + (await started.handle.describe()).raw_description.SerializeToString()


async def confided(running: Engine, go: Path) -> tuple[Started, dict[str, Any], bytes]:
    """Run the plan; return the run, its end and what Temporal held of it under way and at the end."""
    started = await running.start(PLAN, {"told": INPUT, "big": BIG, "path": str(go)})
    await started.handle.signal("nothing-known", {"operator": "kim", "reason": REASON})
    held = b""
    async with asyncio.timeout(PATIENCE):
        while True:
            description = (await started.handle.describe()).raw_description
            if any(one.attempt == 2 and one.HasField("heartbeat_details") for one in description.pending_activities):
                break
            await asyncio.sleep(0.02)
    held += description.SerializeToString()
    go.touch()
    end = await started.end()
    return started, end, held + await seen_by_temporal(started)


async def test_nothing_readable_is_in_temporal(sealed: Engine, tmp_path: Path) -> None:
    """Inputs, literals of the plan, outputs, heartbeats, checkpoints, errors, names, reasons of operators."""
    started, end, held = await confided(sealed, tmp_path / "go")
    assert end["run"]["status"] == "FAILED"
    assert body_of(end, "NODE_FAILED", "b")["error"]["message"] == ERROR
    assert [mark for mark in [*MARKS, "big-mark"] if mark.encode() in held] == []
    assert b"binary/encrypted" in held
    async with system_transaction(sealed.db) as conn:
        rows = (await conn.execute(text("select data, compressed, size from payload_blobs"))).all()
    # The big text is an output, and again an input: what holds it is stored, compressed before it was encrypted.
    assert [row.size for row in rows if b"big-mark" in row.data] == []
    closed = await read_lost_history(sealed.client, started.handle.id, started.handle.result_run_id or "")
    assert [one.error["message"] for one in closed.seen if one.end == "failed"] == [ERROR]
    assert await sealed.chain_problem(started.run_id) is None


async def test_without_encryption_all_of_it_can_be_read(shared_engine: Engine, tmp_path: Path) -> None:
    """So the test above can fail: each of the marks does go to Temporal."""
    _, _, held = await confided(shared_engine, tmp_path / "go")
    assert [mark for mark in MARKS if mark.encode() not in held] == []


async def test_runs_from_before_go_on_and_a_process_without_the_key_says_so(keyed: Settings) -> None:
    """A run that was begun in the clear ends under encryption; one that is encrypted is of no use without the key."""
    plain = keyed.model_copy(update={"encryption_keys_file": ""})
    async with engine(plain, with_worker=False) as before:
        old = await before.start({"nodes": [{"nodeId": "n", "type": "noop", "inputs": {"x": INPUT}}]})
        async with worker(keyed), engine(keyed, with_worker=False) as after:
            known = Started(after, old.run_id, after.client.get_workflow_handle(old.handle.id))
            assert (await known.end())["run"]["status"] == "COMPLETED"
            new = await after.start({"nodes": [{"nodeId": "n", "type": "sleep", "inputs": {"duration": "1h"}}]})
            await new.until("PLAN_STARTED")
            # What tells a client no is readable to it.
            with pytest.raises(WorkflowUpdateFailedError) as caught:
                await new.handle.execute_update("resume", {"operator": "kim"})
            assert "Encoded failure" not in str(caught.value.cause)
            with pytest.raises(EncryptedPayload, match="encrypted, and this process has no keys"):
                await before.client.get_workflow_handle(new.handle.id).query("status")
            await new.handle.signal("cancel", {"reason": REASON})
            assert (await new.end())["run"]["status"] == "CANCELLED"


async def test_a_process_with_another_key_tells_which_is_missing(keyed: Settings, tmp_path: Path) -> None:
    """It names the missing key and where it belongs: the log of a worker, and what its workflow tasks fail with."""
    path = tmp_path / "other.json"
    write_private(path, with_new_key(path, "k2")[1])
    wrong = data_converter(keyed.model_copy(update={"encryption_keys_file": str(path)}))
    sealed = await data_converter(keyed).encode([INPUT])
    with pytest.raises(UndecryptablePayload, match=r"'k1'.*DALANG_ENCRYPTION_KEYS_FILE"):
        await wrong.decode(sealed)


def test_the_converter_costs_nothing_while_it_is_off(settings: Settings) -> None:
    """No codec, and the failure converter of always."""
    converter = data_converter(settings)
    assert converter.payload_codec is None
    assert dataclasses.replace(converter).failure_converter_class.__name__ == "DefaultFailureConverter"
