"""Whatever is sent into a run by any name, no workflow task fails and the run ends as if nothing had come."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle, WorkflowQueryFailedError, WorkflowUpdateFailedError
from temporalio.common import RawValue
from temporalio.service import RPCError

from dalang import wire
from dalang.statuses import RUN_ENDS
from tests.effort import tries
from tests.engine.kit import Engine

PLAN = {
    "nodes": [
        {"nodeId": "ask", "type": "human", "task": {"title": "Well?", "candidateGroup": "ops"}},
        {"nodeId": "hear", "type": "event", "inputs": {"name": "go"}},
        {"nodeId": "then", "type": "noop"},
    ],
    "edges": [{"sourceNodeId": "hear", "targetNodeId": "then"}],
}
UPDATES = sorted({value for name, value in vars(wire).items() if name.startswith("UPDATE_")})
SIGNALS = (*wire.SIGNALS, wire.SIGNAL_LEASES, "no-such-signal")
QUERIES = (wire.QUERY_STATUS, wire.QUERY_NODES, wire.QUERY_PLAN, wire.QUERY_TASKS)
FIELDS = [
    *("taskId", "action", "operator", "digest", "values", "outputs", "inputs", "notes", "groups", "decisionId", "to"),
    *("toGroup", "reason", "nodeId", "name", "mode", "correlationKey", "payload", "eventId", "key", "number", "plan"),
    *("generation", "patch", "tokens", "cost", "limits", "leases", "requestId", "dryRun", "change"),
]
"""Names that payloads have, so that some get past the first look."""

RAW = [
    Payload(metadata={"encoding": encoding}, data=data)
    for encoding, data in (
        (b"json/plain", b"{"),
        (b"json/plain", b'{"operator": NaN, "reason": "\\ud800"}'),
        (b"json/plain", b"[" * 600 + b"]" * 600),
        (b"json/plain", b"[" * 100_000),
        (b"binary/plain", b"\xff"),
        (b"no/such", b"{}"),
    )
]
"""What other clients may send."""

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["ask", "hear", "then", "approve", "pause", "go", "x" * 3_000, "0" * 64, "${inputs}", "a\u0000b"])
)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), inner),
    max_leaves=8,
)
payloads = anything | st.dictionaries(st.sampled_from(FIELDS), anything, min_size=1, max_size=6)


async def _throw(handle: WorkflowHandle[Any, Any], kind: str, name: str, args: list[Any]) -> None:
    try:
        if kind == "signal":
            await handle.signal(name, args=args)
        elif kind == "query":
            await handle.query(name, args=args, rpc_timeout=None)
        else:
            await handle.execute_update(name, args=args)
    except (WorkflowUpdateFailedError, WorkflowQueryFailedError, RPCError):
        pass


def _made_up(count: int) -> list[list[Any]]:
    """So many lists of arguments: what may be a payload, none, too many."""
    found: list[list[Any]] = [[], [{}, {}, "one too many"], *([RawValue(one)] for one in RAW)]

    @settings(
        max_examples=count,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(payloads)
    def make(payload: Any) -> None:
        found.append([payload])

    make()
    return found


async def _failed_tasks(handle: WorkflowHandle[Any, Any], engine: Engine) -> list[str]:
    """Return what workflow tasks of the run failed with, in all the runs of Temporal that it went on in."""
    found: list[str] = []
    run_id = handle.first_execution_run_id or handle.result_run_id
    assert run_id is not None
    while run_id:
        following = None
        async for event in engine.client.get_workflow_handle(handle.id, run_id=run_id).fetch_history_events():
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
                found.append(event.workflow_task_failed_event_attributes.failure.message)
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
                following = event.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
        run_id = following
    return found


async def test_no_payload_harms_a_run(shared_engine: Engine) -> None:
    """By every signal, update and query, with too few and too many arguments; then it is decided and ends."""
    started = await shared_engine.start(PLAN)
    await started.until("HITL_TASK_CREATED", "ask")
    thrown = await asyncio.to_thread(_made_up, tries(12))
    for kind, names in (("query", QUERIES), ("update", UPDATES), ("signal", SIGNALS)):
        for name in sorted(names, key=lambda one: one == wire.SIGNAL_CANCEL):
            for args in thrown if name != wire.UPDATE_CANCEL else ():  # that one understands nearly all of them
                await _throw(started.handle, kind, name, args)
        assert await _failed_tasks(started.handle, shared_engine) == []
    status = await started.handle.query(wire.QUERY_STATUS)
    assert (status["status"] in RUN_ENDS, status["rejectedRequests"] > 100) == (False, True), status
    for args in [["now"], [{}, {}, {}], [{"operator": "ann"}]]:
        await _throw(started.handle, "signal", wire.SIGNAL_CANCEL, args)
    assert (await started.end())["run"]["status"] == "CANCELLED"
    assert await _failed_tasks(started.handle, shared_engine) == []
    assert await shared_engine.chain_problem(started.run_id) is None
