"""Dalang as an A2A agent, asked by the a2a-sdk's own client over HTTP, in both bindings and both versions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from a2a.types import (
    CancelTaskRequest,
    GetExtendedAgentCardRequest,
    GetTaskRequest,
    ListTasksRequest,
    StreamResponse,
    SubscribeToTaskRequest,
    Task,
    TaskState,
)

from tests.api.a2a_kit import DIALECTS, EXAMPLE, Served, message, request, sent, text_of
from tests.harness import PATIENCE

DONE, ASKS, WORKING = (
    TaskState.TASK_STATE_COMPLETED,
    TaskState.TASK_STATE_INPUT_REQUIRED,
    TaskState.TASK_STATE_WORKING,
)


@pytest.mark.parametrize(("binding", "version"), DIALECTS)
async def test_a_message_starts_a_run_and_waits_for_its_end(served: Served, binding: str, version: str) -> None:
    """The task is the run: same id, its outputs as artifacts, the message as its history."""
    async with served.client(binding, version) as client:
        task = await sent(client, request("a puppet"))
        assert task.status.state == DONE
        assert text_of(task.artifacts[0].parts) == "You said: a puppet"
        assert [text_of(one.parts) for one in task.history] == ["a puppet"]
        again = await client.get_task(GetTaskRequest(id=task.id, history_length=0))
        # 0.3 takes no history for all of it.
        assert (again.id, again.context_id, len(again.history)) == (task.id, task.context_id, int(version == "0.3"))
    run = (await served("GET", f"/orchestrator/runs/{task.id}")).json()
    assert (run["status"], run["planName"], run["createdBy"]) == ("COMPLETED", "a2a-agent", "operator@acme")


async def test_a_stream_tells_what_happens_until_the_end(served: Served) -> None:
    """First the task, then nodes as they go on, then the artifact, then the end."""

    async def stream(binding: str, version: str) -> list[StreamResponse]:
        async with served.client(binding, version, streaming=True) as client:
            return [one async for one in client.send_message(request("a puppet", kind="delayed-complete"))]

    for found in await asyncio.gather(*(stream(*dialect) for dialect in DIALECTS)):
        assert found[0].HasField("task")
        states = [one.status_update.status.state for one in found if one.HasField("status_update")]
        assert (states[-2:], states.count(DONE)) == ([WORKING, DONE], 1)
        artifact, last = found[-2:]
        assert text_of(artifact.artifact_update.artifact.parts) == "You said: a puppet"
        assert last.status_update.task_id == found[0].task.id
        metadata = [one.status_update.metadata for one in found]
        told = [(one["nodeId"], one["event"]) for one in metadata if "nodeId" in one]
        assert told[-3:] == [("work", "NODE_COMPLETED"), ("answer", "NODE_STARTED"), ("answer", "NODE_COMPLETED")]


@pytest.mark.parametrize(("binding", "version"), DIALECTS)
async def test_a_question_is_answered_by_a_message(served: Served, binding: str, version: str) -> None:
    """AWAITING_HITL is input-required, with what is asked; a message to the task decides it, and is part of history."""
    async with served.client(binding, version) as client:
        task = await sent(client, request(kind="input-required"))
        assert task.status.state == ASKS
        assert text_of(task.status.message.parts) == "What else should I know?"
        after = await sent(client, answer(task, "nothing"))
        assert (after.id, after.status.state) == (task.id, DONE)
        said = [(one.role, text_of(one.parts)) for one in after.history]
        assert [text for _, text in said] == ["Hello", "What else should I know?", "nothing"]


def answer(task: Task, text: str) -> Any:
    return request(text, taskId=task.id, contextId=task.context_id)


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
async def test_a_cancel_ends_the_run(served: Served, binding: str) -> None:
    """Once; a run that has ended is not cancelable."""
    async with served.client(binding) as client:
        task = await sent(client, request(kind="input-required"))
        cancelled = await client.cancel_task(CancelTaskRequest(id=task.id))
        assert cancelled.status.state == TaskState.TASK_STATE_CANCELED
        with pytest.raises(Exception, match="CANCELLED"):
            await client.cancel_task(CancelTaskRequest(id=task.id))


async def test_a_send_that_does_not_wait_is_answered_at_once(served: Served) -> None:
    """While the run goes on; who subscribes then is told of its end."""
    async with served.client() as client:
        task = await sent(client, request(kind="delayed-complete", at_once=True))
        assert task.status.state in (TaskState.TASK_STATE_SUBMITTED, WORKING)
    async with served.client(streaming=True) as client:
        found = [one async for one in client.subscribe(SubscribeToTaskRequest(id=task.id))]
        assert found[0].task.id == task.id
        assert found[-1].status_update.status.state == DONE


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
async def test_all_streams_of_a_task_tell_the_same(served: Served, binding: str) -> None:
    """Each from the task as it was to the end; that one is closed disturbs no other."""
    async with served.client(binding) as sender, served.client(binding, streaming=True) as client:
        task = await sent(sender, request(kind="input-required"))
        ready = [asyncio.Event() for _ in range(3)]

        async def listen(at: int, *, leave: bool = False) -> list[bytes]:
            found = []
            async for one in client.subscribe(SubscribeToTaskRequest(id=task.id)):
                found.append(one.SerializeToString(deterministic=True))
                ready[at].set()
                if leave:
                    break
            return found

        streams = [asyncio.create_task(listen(at, leave=at == 2)) for at in range(3)]
        for one in ready:
            await asyncio.wait_for(one.wait(), PATIENCE)
        await sent(sender, answer(task, "nothing"))
        first, second, left = await asyncio.wait_for(asyncio.gather(*streams), PATIENCE)
    assert first == second
    assert len(first) > 3
    assert left == first[:1]


async def test_tasks_are_listed_by_context_a_page_at_a_time(served: Served) -> None:
    """The one that changed last first; without artifacts unless asked for; another tenant sees none of them."""
    async with served.client() as client:
        tasks = [await sent(client, request(contextId="ctx-list")) for _ in range(3)]
        tasks.append(await sent(client, request(contextId="ctx-list", kind="input-required")))
        wanted = ListTasksRequest(context_id="ctx-list", page_size=3)
        first = await client.list_tasks(wanted)
        assert [one.id for one in first.tasks] == [one.id for one in tasks[:0:-1]]
        assert (first.total_size, first.page_size) == (4, 3)
        assert not any(one.artifacts for one in first.tasks)
        rest = await client.list_tasks(
            ListTasksRequest(context_id="ctx-list", page_token=first.next_page_token, include_artifacts=True)
        )
        assert [one.id for one in rest.tasks] == [tasks[0].id]
        assert rest.tasks[0].artifacts
        assert rest.next_page_token == ""
        asking = await client.list_tasks(ListTasksRequest(context_id="ctx-list", status=ASKS))
        assert [one.id for one in asking.tasks] == [tasks[3].id]
    async with served.client(as_=("globex", "operator")) as other:
        assert not (await other.list_tasks(wanted)).tasks


async def test_the_extended_card_lists_the_plans_as_skills(served: Served) -> None:
    """Each published plan of the token's tenant, but those that do not want to be; requests carry the tenant."""
    await served.publish({"name": "hidden", "nodes": [{"nodeId": "a", "type": "noop"}], "metadata": {"a2a": False}})
    async with served.client("HTTP+JSON") as client:
        card = await client.get_extended_agent_card(GetExtendedAgentCardRequest())
        names = {one.name: one for one in card.skills}
        assert "hidden" not in names
        assert names["a2a-agent"].description.startswith(EXAMPLE["description"])
        assert list(names["a2a-agent"].tags) == ["example", "conformance"]
        assert {one.tenant for one in card.supported_interfaces} == {"acme", ""}
        # From now on the client uses this card, and so the addresses with the tenant.
        task = await sent(client, request("a puppet"))
        assert task.status.state == DONE


async def test_an_authorization_is_a_state_of_its_own(served: Served) -> None:
    """A human node whose metadata says so is auth-required; a message decides it all the same."""
    async with served.client() as client:
        task = await sent(client, request(kind="auth-required"))
        assert task.status.state == TaskState.TASK_STATE_AUTH_REQUIRED
        found = await client.list_tasks(ListTasksRequest(status=TaskState.TASK_STATE_AUTH_REQUIRED))
        assert [one.id for one in found.tasks] == [task.id]
        after = await sent(client, answer(task, "approve"))
        assert after.status.state == DONE


async def test_a_data_part_is_the_inputs(served: Served) -> None:
    """By the name of the skill, also on in the same context; whole numbers stay whole; outputs come as data."""
    await served.publish(
        {
            "name": "sum",
            "inputs": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
            "nodes": [{"nodeId": "add", "type": "noop", "inputs": {"sum": "${inputs.a + inputs.b}"}}],
            "outputs": {"sum": "${nodes.add.outputs.sum}", "of": "${[inputs.a, inputs.b]}"},
        }
    )
    data = {"parts": [{"data": {"a": 2, "b": 3}}], "contextId": "ctx-sum"}
    body = {"message": message(**data, metadata={"skill": "sum"})}
    first = (await served("POST", "/a2a/rest/message:send", json=body)).json()["task"]
    assert first["artifacts"][0]["parts"] == [{"data": {"sum": 5.0, "of": [2.0, 3.0]}, "mediaType": "application/json"}]
    again = (await served("POST", "/a2a/rest/message:send", json={"message": message(**data)})).json()["task"]
    assert (again["metadata"]["plan"], again["contextId"]) == ("sum", "ctx-sum")
    assert again["id"] != first["id"]
