"""A plan runs on real Temporal and real PostgreSQL, and what happened is stored."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError

from dalang.fact_packing import with_facts
from tests.engine.kit import Engine, body_of, node_events, noop_chain

FAST = {"initialDelayMs": 10, "maxDelayMs": 20}


async def test_outputs_flow_from_inputs_through_nodes_to_the_runs_outputs(shared_engine: Engine) -> None:
    """Inputs, mappings, expressions and plan outputs carry values; events, nodes and run tell of them."""
    started = await shared_engine.start(
        {
            "inputs": {"type": "object"},
            "nodes": [
                {"nodeId": "a", "type": "t-value", "inputs": {"x": "${inputs.n + 1}", "text": "n is ${inputs.n}"}},
                {"nodeId": "b", "type": "t-value", "inputs": {"own": True}},
            ],
            "edges": [{"sourceNodeId": "a", "targetNodeId": "b", "mapping": {"x": "y"}}],
            "outputs": {"y": "${nodes.b.outputs.y}", "text": "${nodes.a.outputs.text}"},
        },
        {"n": 41},
    )
    end = await started.end()
    assert end["result"]["outputs"] == {"y": 42, "text": "n is 41"}
    assert end["run"]["status"] == "COMPLETED"
    assert end["run"]["outputs"] == {"y": 42, "text": "n is 41"}
    assert end["run"]["node_status_counts"] == {"SUCCESS": 2}
    assert body_of(end, "NODE_STARTED", "b") == {"inputs": {"own": True, "y": 42}}
    assert node_events(end, "b") == ["NODE_STARTED", "NODE_COMPLETED"]
    assert [row["seq"] for row in end["events"]] == list(range(1, len(end["events"]) + 1))
    assert end["result"]["head"]["hash"] == end["run"]["head_hash"]
    assert await shared_engine.chain_problem(started.run_id) is None


@pytest.mark.parametrize("strategy", ["FIXED", "LINEAR", "EXPONENTIAL"])
@pytest.mark.parametrize("jitter", [False, True])
async def test_an_attempt_in_retry_on_is_repeated(shared_engine: Engine, strategy: str, jitter: bool) -> None:
    """A failure whose type is in retryOn is repeated with every backoff, under one idempotency key, and recorded."""
    policy = {"backoffStrategy": strategy, "jitter": jitter, **FAST}
    started = await shared_engine.start({"nodes": [{"nodeId": "a", "type": "t-flaky", "retryPolicy": policy}]})
    end = await started.end()
    assert body_of(end, "NODE_COMPLETED", "a")["outputs"]["attempt"] == 3
    assert end["nodes"]["a"]["attempt"] == 3
    assert [row["attempt"] for row in end["attempts"]] == [1, 2]
    assert {row["error"]["type"] for row in end["attempts"]} == {"NETWORK_ERROR"}


async def test_an_attempt_outside_of_retry_on_is_not_repeated(shared_engine: Engine) -> None:
    """By default only NETWORK_ERROR and TIMEOUT are repeated; a TOOL_ERROR fails the node at its first attempt."""
    node = {"nodeId": "a", "type": "t-flaky", "inputs": {"type": "TOOL_ERROR"}, "retryPolicy": FAST}
    end = await (await shared_engine.start({"nodes": [node]})).end()
    error = body_of(end, "NODE_FAILED", "a")["error"]
    assert (error["type"], error["attempt"], error["maxAttempts"]) == ("TOOL_ERROR", 1, 3)


async def test_a_failure_is_the_same_error_payload_in_node_run_event_and_temporal(shared_engine: Engine) -> None:
    """The ErrorPayload names type, message, origin and attempt wherever it is read."""
    end = await (await shared_engine.start({"nodes": [{"nodeId": "a", "type": "t-fail"}]})).end()
    error = body_of(end, "NODE_FAILED", "a")["error"]
    assert error["type"] == "TOOL_ERROR"
    assert error["message"] == "it failed"
    assert error["originNode"] == "a"
    assert error["originRunId"] == str(end["run"]["run_id"])
    assert error["details"] == {"why": "asked to"}
    assert len(error["hash"]) == 64
    assert end["run"]["status"] == "FAILED"
    assert end["run"]["error"] == error
    assert isinstance(end["result"], ApplicationError)
    assert end["result"].type == "TOOL_ERROR"
    assert end["result"].details[0]["error"] == error


@pytest.mark.parametrize("what", ["object", "nan", "surrogate", "nul", "big", "keys"])
async def test_outputs_that_are_not_json_fail_the_node(shared_engine: Engine, what: str) -> None:
    """What cannot be stored is a VALIDATION_ERROR of the node, not a run that never ends."""
    end = await (
        await shared_engine.start({"nodes": [{"nodeId": "a", "type": "t-not-json", "inputs": {"what": what}}]})
    ).end()
    assert body_of(end, "NODE_FAILED", "a")["error"]["type"] == "VALIDATION_ERROR"
    assert end["run"]["status"] == "FAILED"


async def test_an_unclassified_exception_is_unknown_error_with_a_storable_text(shared_engine: Engine) -> None:
    """Surrogates and U+0000 in an exception's text do not stop its record."""
    end = await (await shared_engine.start({"nodes": [{"nodeId": "a", "type": "t-raise"}]})).end()
    error = body_of(end, "NODE_FAILED", "a")["error"]
    assert error["type"] == "UNKNOWN_ERROR"
    assert error["message"].startswith("RuntimeError: surprise")


@pytest.mark.parametrize("kind", ["t-exit", "t-exit-thread", "t-cancel-itself"])
async def test_a_handler_cannot_end_its_worker_by_an_exception(shared_engine: Engine, kind: str) -> None:
    """SystemExit and CancelledError fail the node; the worker goes on with the next."""
    end = await (await shared_engine.start({"nodes": [{"nodeId": "a", "type": kind}]})).end()
    assert body_of(end, "NODE_FAILED", "a")["error"]["type"] == "UNKNOWN_ERROR"
    assert (await (await shared_engine.start(noop_chain(1))).end())["run"]["status"] == "COMPLETED"


@pytest.mark.parametrize("kind", ["t-hang", "t-hang-thread", "t-block"])
async def test_a_handler_that_hangs_times_out(shared_engine: Engine, kind: str) -> None:
    """A handler past startToClose fails with TIMEOUT, whether it waits, holds a thread or blocks its loop."""
    node = {"nodeId": "a", "type": kind, "timeouts": {"startToClose": "300ms"}, "retryPolicy": {"maxAttempts": 1}}
    end = await (await shared_engine.start({"nodes": [node]})).end()
    error = body_of(end, "NODE_FAILED", "a")["error"]
    assert error["type"] == "TIMEOUT"
    assert "0.3 s" in error["message"]


async def test_an_error_edge_takes_a_failure(shared_engine: Engine) -> None:
    """A live error edge makes the node ERROR, carries the payload, and the run completes."""
    end = await (
        await shared_engine.start(
            {
                "nodes": [
                    {"nodeId": "a", "type": "t-fail"},
                    {"nodeId": "fix", "type": "t-value"},
                    {"nodeId": "next", "type": "noop"},
                ],
                "edges": [
                    {
                        "sourceNodeId": "a",
                        "sourcePort": "error",
                        "targetNodeId": "fix",
                        "mapping": {"message": "why"},
                        "condition": "error.type == 'TOOL_ERROR'",
                    },
                    {"sourceNodeId": "a", "targetNodeId": "next"},
                ],
            }
        )
    ).end()
    assert end["run"]["status"] == "COMPLETED"
    assert {node: row["status"] for node, row in end["nodes"].items()} == {
        "a": "ERROR",
        "fix": "SUCCESS",
        "next": "SKIPPED",
    }
    assert body_of(end, "NODE_COMPLETED", "fix") == {"outputs": {"why": "it failed"}}
    assert end["nodes"]["next"]["skip_reason"] == "condition"


async def test_continue_finishes_independent_branches(shared_engine: Engine) -> None:
    """With A failing and B fine, D behind both is SKIPPED(upstreamFailed) and what B alone leads to still runs."""
    end = await (
        await shared_engine.start(
            {
                "failurePolicy": "continue",
                "nodes": [
                    {"nodeId": "A", "type": "t-fail"},
                    *({"nodeId": n, "type": "noop"} for n in ("B", "C", "D")),
                ],
                "edges": [
                    {"sourceNodeId": "A", "targetNodeId": "D"},
                    {"sourceNodeId": "B", "targetNodeId": "D"},
                    {"sourceNodeId": "B", "targetNodeId": "C"},
                ],
            }
        )
    ).end()
    assert end["run"]["status"] == "FAILED"
    assert {node: row["status"] for node, row in end["nodes"].items()} == {
        "A": "FAILED",
        "B": "SUCCESS",
        "C": "SUCCESS",
        "D": "SKIPPED",
    }
    assert end["nodes"]["D"]["skip_reason"] == "upstreamFailed"


async def test_fail_fast_stops_what_is_in_flight_then_runs_finally(shared_engine: Engine) -> None:
    """Under failFast a failure cancels what runs and what waits; the finally nodes see the end and still run."""
    end = await (
        await shared_engine.start(
            {
                "nodes": [
                    {"nodeId": "a", "type": "t-fail"},
                    {"nodeId": "b", "type": "t-hang"},
                    {"nodeId": "c", "type": "noop"},
                ],
                "edges": [{"sourceNodeId": "b", "targetNodeId": "c"}],
                "finally": [
                    {"nodeId": "f", "type": "t-value", "inputs": {"was": "${run.status}", "a": "${nodes.a.status}"}}
                ],
            }
        )
    ).end()
    assert end["run"]["status"] == "FAILED"
    assert {node: row["status"] for node, row in end["nodes"].items()} == {
        "a": "FAILED",
        "b": "CANCELLED",
        "c": "CANCELLED",
        "f": "SUCCESS",
    }
    assert body_of(end, "NODE_COMPLETED", "f") == {"outputs": {"was": "FAILED", "a": "FAILED"}}


async def test_a_suggested_abort_ends_a_continuing_run(shared_engine: Engine) -> None:
    """A handler that suggests ABORT overrules the policy continue."""
    end = await (
        await shared_engine.start(
            {
                "failurePolicy": "continue",
                "nodes": [
                    {"nodeId": "a", "type": "t-fail", "inputs": {"action": "ABORT"}},
                    {"nodeId": "b", "type": "t-hang"},
                ],
            }
        )
    ).end()
    assert end["nodes"]["b"]["status"] == "CANCELLED"


async def test_agents_are_chosen_by_capability_and_by_name(shared_engine: Engine) -> None:
    """An agent node goes to the agent with all its capabilities and the fewest others, or to the one it names."""
    end = await (
        await shared_engine.start(
            {
                "nodes": [
                    {"nodeId": "t", "type": "agent", "requirements": {"capabilities": ["t-testing"]}},
                    {"nodeId": "c", "type": "agent", "requirements": {"capabilities": ["t-coding", "t-testing"]}},
                    {"nodeId": "n", "type": "agent", "handler": "t-coder"},
                ]
            }
        )
    ).end()
    by = {row["node_id"]: row["body"]["outputs"]["by"] for row in end["events"] if row["type"] == "NODE_COMPLETED"}
    assert by == {"t": "t-tester", "c": "t-coder", "n": "t-coder"}


async def test_an_agent_nobody_is_exhausts_resources(shared_engine: Engine) -> None:
    """A capability that no agent has is RESOURCE_EXHAUSTED and names what there is."""
    node = {"nodeId": "a", "type": "agent", "requirements": {"capabilities": ["t-flying"]}}
    end = await (await shared_engine.start({"nodes": [node]})).end()
    error = body_of(end, "NODE_FAILED", "a")["error"]
    assert error["type"] == "RESOURCE_EXHAUSTED"
    assert "t-coder" in error["message"]


async def test_handlers_know_their_node_and_run(shared_engine: Engine) -> None:
    """Context carries names, metadata and the run; plain functions run in threads; python nodes name a handler."""
    node = {
        "nodeId": "a",
        "name": "Say it",
        "type": "python",
        "handler": "t-context",
        "metadata": {"team": "blue"},
        "retryPolicy": {"maxAttempts": 7},
    }
    end = await (await shared_engine.start({"nodes": [node]})).end()
    outputs = body_of(end, "NODE_COMPLETED", "a")["outputs"]
    assert outputs["name"] == "Say it"
    assert outputs["metadata"] == {"team": "blue"}
    assert outputs["maxAttempts"] == 7
    assert outputs["run"]["plan"] == "test"
    assert outputs["thread"] == "node"


async def test_inputs_that_do_not_fit_a_function_are_a_validation_error(shared_engine: Engine) -> None:
    """A missing parameter fails the node before the function runs."""
    end = await (await shared_engine.start({"nodes": [{"nodeId": "a", "type": "t-wait-file"}]})).end()
    error = body_of(end, "NODE_FAILED", "a")["error"]
    assert error["type"] == "VALIDATION_ERROR"
    assert "path" in error["message"]


async def test_sleep_is_a_timer_and_its_bad_inputs_a_validation_error(shared_engine: Engine) -> None:
    """A sleep node waits without a worker; a duration that is none fails it."""
    end = await (
        await shared_engine.start(
            {
                "failurePolicy": "continue",
                "nodes": [
                    {"nodeId": "s", "type": "sleep", "inputs": {"duration": "200ms"}},
                    {"nodeId": "bad", "type": "sleep", "inputs": {"duration": "soon"}},
                ],
            }
        )
    ).end()
    times = {row["type"]: row["at"] for row in end["events"] if row["node_id"] == "s"}
    assert (times["NODE_COMPLETED"] - times["NODE_STARTED"]).total_seconds() >= 0.2
    assert body_of(end, "NODE_FAILED", "bad")["error"]["type"] == "VALIDATION_ERROR"


async def test_max_in_flight_one_is_sequential(shared_engine: Engine) -> None:
    """With maxInFlight 1 a node starts only when the one before has ended, by priority, then plan order."""
    nodes: list[dict[str, Any]] = [{"nodeId": f"n{i}", "type": "noop"} for i in range(5)]
    nodes[3]["priority"] = "high"
    end = await (await shared_engine.start({"maxInFlight": 1, "nodes": nodes})).end()
    order = [(row["type"], row["node_id"]) for row in end["events"] if row["node_id"]]
    expected = ["n3", "n0", "n1", "n2", "n4"]
    assert order == [(kind, node) for node in expected for kind in ("NODE_STARTED", "NODE_COMPLETED")]


async def test_pause_drains_and_resume_goes_on(shared_engine: Engine, tmp_path: Path) -> None:
    """Paused, what runs ends and nothing starts; resumed, the run goes on to its end."""
    gate = tmp_path / "gate"
    started = await shared_engine.start(
        {
            "nodes": [
                {"nodeId": "a", "type": "t-wait-file", "inputs": {"path": str(gate)}},
                {"nodeId": "b", "type": "noop"},
            ],
            "edges": [{"sourceNodeId": "a", "targetNodeId": "b"}],
        }
    )
    await started.until("NODE_STARTED", "a")
    answer = await started.handle.execute_update("pause", {"operator": "ann", "reason": "lunch"})
    assert answer["status"] == "PAUSED"
    assert (await started.stored())["run"]["status"] == "PAUSED"
    gate.touch()
    await started.until("NODE_COMPLETED", "a")
    assert node_events(await started.stored(), "b") == []
    await started.handle.signal("resume")
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    paused = next(row for row in end["events"] if row["type"] == "PLAN_PAUSED")
    assert paused["data"]["operator"] == "ann"
    assert paused["data"]["reason"] == "lunch"


@pytest.mark.parametrize("how", ["signal", "update", "temporal"])
async def test_cancel_stops_a_run_in_order(shared_engine: Engine, how: str) -> None:
    """A cancel by signal, by update or by Temporal itself stops what runs and ends CANCELLED, with finally."""
    started = await shared_engine.start(
        {"nodes": [{"nodeId": "a", "type": "t-hang"}], "finally": [{"nodeId": "f", "type": "noop"}]}
    )
    await started.until("NODE_STARTED", "a")
    if how == "signal":
        await started.handle.signal("cancel", {"reason": "enough"})
    elif how == "update":
        await started.handle.execute_update("cancel", {"reason": "enough"})
    else:
        await started.handle.cancel()
    end = await started.end()
    assert end["run"]["status"] == "CANCELLED"
    assert {node: row["status"] for node, row in end["nodes"].items()} == {"a": "CANCELLED", "f": "SUCCESS"}
    if how != "temporal":
        assert end["result"]["reason"] == "enough"
    assert end["run"]["reason"] == ("cancelled through Temporal" if how == "temporal" else "enough")


async def test_a_runs_timeout_ends_it_like_a_cancel(shared_engine: Engine) -> None:
    """When the plan's timeout has passed the run is CANCELLED with reason TIMEOUT, and finally nodes run."""
    end = await (
        await shared_engine.start(
            {
                "timeout": "300ms",
                "nodes": [{"nodeId": "a", "type": "t-hang"}],
                "finally": [{"nodeId": "f", "type": "noop"}],
            }
        )
    ).end()
    assert (end["run"]["status"], end["run"]["reason"]) == ("CANCELLED", "TIMEOUT")
    assert end["nodes"]["f"]["status"] == "SUCCESS"


async def test_large_outputs_are_kept_outside_of_history_and_events(shared_engine: Engine) -> None:
    """Outputs over the thresholds reach the next node whole; history, flush and events hold references."""
    started = await shared_engine.start(
        {
            "nodes": [
                {"nodeId": "a", "type": "t-size", "inputs": {"kilobytes": 300}},
                {"nodeId": "b", "type": "t-value"},
            ],
            "edges": [{"sourceNodeId": "a", "targetNodeId": "b"}],
            "outputs": {"size": "${size(nodes.b.outputs.text)}"},
        }
    )
    end = await started.end()
    assert end["result"]["outputs"] == {"size": 300 * 1024}
    reference = body_of(end, "NODE_COMPLETED", "b")["outputs"]
    assert set(reference) == {"$ref", "size"}
    history = await started.handle.fetch_history()
    assert sum(event.ByteSize() for event in history.events) < 60_000
    assert await shared_engine.chain_problem(started.run_id) is None


async def test_a_run_continues_as_new_and_ends_as_if_it_had_not(shared_engine: Engine) -> None:
    """Past the history limit a run goes on in a new execution; events stay numbered without a gap."""
    plan = {**noop_chain(60), "timeout": "1h"}
    plan["nodes"].append({"nodeId": "s", "type": "sleep", "inputs": {"duration": "1s"}})
    started = await shared_engine.start(plan, historyLimit=100)
    end = await started.end()
    assert end["run"]["node_status_counts"] == {"SUCCESS": 61}
    assert [row["seq"] for row in end["events"]] == list(range(1, len(end["events"]) + 1))
    first = await shared_engine.client.get_workflow_handle(
        started.handle.id, run_id=started.handle.first_execution_run_id
    ).describe()
    assert first.status is not None
    assert first.status.name == "CONTINUED_AS_NEW"
    assert await shared_engine.chain_problem(started.run_id) is None


async def test_many_runs_at_once_share_a_worker(shared_engine: Engine) -> None:
    """Twenty runs side by side all complete."""
    runs = [await shared_engine.start(noop_chain(3)) for _ in range(20)]
    ends = await asyncio.gather(*(run.end() for run in runs))
    assert {end["run"]["status"] for end in ends} == {"COMPLETED"}


async def test_nodes_may_be_called_by_numbers(shared_engine: Engine) -> None:
    """The SDK numbers what it schedules without a name, and no two activities of a run may have one id at a time."""
    nodes = [{"nodeId": str(n), "type": "noop"} for n in range(60)] + [{"nodeId": "node:7", "type": "noop"}]
    end = await (await shared_engine.start({"nodes": nodes})).end()
    assert end["run"]["node_status_counts"] == {"SUCCESS": 61}


async def test_a_short_run_is_stored_at_once_as_it_ends(shared_engine: Engine) -> None:
    """The workflow task that ends it stores what is left; its marker holds that, for a backup that is restored."""
    past = {
        "nodeId": "past",
        "type": "timer",
        "inputs": {"until": "2020-01-01T00:00:00Z"},
    }
    started = await shared_engine.start({"nodes": [past]})
    end = await started.end()
    markers = []
    async for event in started.handle.fetch_history_events():
        if event.HasField("marker_recorded_event_attributes"):
            markers.append(event.marker_recorded_event_attributes.details["result"].payloads)
    (stored,) = [(await shared_engine.client.data_converter.decode(marker))[0] for marker in markers]
    answer = {**stored, "batch": with_facts(stored["batch"])}
    assert [fact["seq"] for fact in answer["batch"]["facts"]][-1] == end["events"][-1]["seq"]
    assert answer["hash"] == end["result"]["head"]["hash"]
