"""Push notifications of the A2A agent: configs, and what a receiver on loopback is told."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from a2a.types import TaskPushNotificationConfig
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dalang.stack.ports import free_port
from dalang.store.a2a_tables import a2a_push_configs
from dalang.store.engine import system_transaction
from tests.api.a2a_kit import Served, error_of, message
from tests.harness import PATIENCE

REST = "/a2a/rest"
NOBODY = str(uuid.UUID(int=7))


class Receiver:
    """A server that keeps what it is told; ``answers`` are the statuses of the next answers, 200 after them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.told: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[int] = []

    async def take(self, request: Request) -> Response:
        status = self.answers.pop(0) if self.answers else 200
        self.headers.append(dict(request.headers))
        if status == 200:
            self.told.append(json.loads(await request.body()))
        return Response(status_code=status)

    async def until(self, state: str) -> list[str]:
        """Wait until this state is told; return all that were, and artifacts."""
        async with asyncio.timeout(PATIENCE):
            while f"TASK_STATE_{state}" not in self.states():
                await asyncio.sleep(0.03)
        return [one.removeprefix("TASK_STATE_") for one in self.states()]

    def states(self) -> list[str]:
        return [one["statusUpdate"]["status"]["state"] if "statusUpdate" in one else "artifact" for one in self.told]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    port = free_port()
    made = Receiver(f"http://127.0.0.1:{port}/hook")
    app = Starlette(routes=[Route("/hook", made.take, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.02)
    yield made
    server.should_exit = True
    await running


async def asking(served: Served, **configuration: Any) -> str:
    """Start a run that asks something; return its id."""
    body = {"message": message(kind="input-required"), "configuration": configuration}
    response = await served("POST", f"{REST}/message:send", json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["task"]["id"])


async def answered(served: Served, task_id: str) -> None:
    body = {"message": message("nothing", taskId=task_id)}
    assert (await served("POST", f"{REST}/message:send", json=body)).status_code == 200


async def test_a_task_is_pushed_from_its_first_message_to_its_end(served: Served, receiver: Receiver) -> None:
    """In order, each as a StreamResponse, with what convinces the receiver."""
    told = {"url": receiver.url, "token": "t-1", "authentication": {"scheme": "Bearer", "credentials": "c-1"}}
    task_id = await asking(served, taskPushNotificationConfig=told)
    await receiver.until("INPUT_REQUIRED")
    await answered(served, task_id)
    states = await receiver.until("COMPLETED")
    assert states == ["SUBMITTED", "WORKING", "INPUT_REQUIRED", "WORKING", "artifact", "COMPLETED"]
    assert all((one.get("statusUpdate") or one["artifactUpdate"])["taskId"] == task_id for one in receiver.told)
    assert {one["authorization"] for one in receiver.headers} == {"Bearer c-1"}
    assert {one["x-a2a-notification-token"] for one in receiver.headers} == {"t-1"}
    assert {one["content-type"] for one in receiver.headers} == {"application/a2a+json"}


async def test_of_what_has_ended_nobody_is_told(served: Served, receiver: Receiver) -> None:
    """Nor looked for any more."""
    body = {"message": message()}
    task = (await served("POST", f"{REST}/message:send", json=body)).json()["task"]
    path = f"{REST}/tasks/{task['id']}/pushNotificationConfigs"
    assert (await served("POST", path, json={"id": "late", "url": receiver.url})).status_code == 200
    async with asyncio.timeout(PATIENCE):
        is_due = True
        while is_due:
            async with system_transaction(served.services.engine) as conn:
                due = select(a2a_push_configs.c.due_at).where(a2a_push_configs.c.run_id == uuid.UUID(task["id"]))
                is_due = (await conn.execute(due)).scalar_one() is not None
            await asyncio.sleep(0.05)
    assert receiver.told == []
    assert (await served("GET", f"{path}/late")).json()["url"] == receiver.url


async def test_what_is_not_taken_is_sent_again(served: Served, receiver: Receiver) -> None:
    """And nothing after it before it."""
    receiver.answers = [302]
    task_id = await asking(served)
    config = {"id": "again", "url": receiver.url}
    made = await served("POST", f"{REST}/tasks/{task_id}/pushNotificationConfigs", json=config)
    assert made.status_code == 200, made.text
    await answered(served, task_id)
    assert await receiver.until("COMPLETED") == ["WORKING", "artifact", "COMPLETED"]
    assert len(receiver.headers) == 4


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
async def test_configs_are_made_read_listed_and_deleted(served: Served, binding: str) -> None:
    """By the SDK's client; what convinces the receiver is not shown again; deleted is deleted, twice too."""
    from a2a.types import (
        DeleteTaskPushNotificationConfigRequest,
        GetTaskPushNotificationConfigRequest,
        ListTaskPushNotificationConfigsRequest,
    )

    task_id = await asking(served)
    async with served.client(binding) as client:
        config = TaskPushNotificationConfig(task_id=task_id, id="one", url="https://example.com/hook", token="t")
        config.authentication.scheme, config.authentication.credentials = "Bearer", "very secret"
        made = await client.create_task_push_notification_config(config)
        assert (made.id, made.task_id, made.url, made.token) == ("one", task_id, "https://example.com/hook", "t")
        assert (made.authentication.scheme, made.authentication.credentials) == ("Bearer", "")
        wanted = GetTaskPushNotificationConfigRequest(task_id=task_id, id="one")
        assert await client.get_task_push_notification_config(wanted) == made
        listed = ListTaskPushNotificationConfigsRequest(task_id=task_id)
        assert list((await client.list_task_push_notification_configs(listed)).configs) == [made]
        gone = DeleteTaskPushNotificationConfigRequest(task_id=task_id, id="one")
        for _ in range(2):
            await client.delete_task_push_notification_config(gone)
        assert not (await client.list_task_push_notification_configs(listed)).configs
        with pytest.raises(Exception, match="no push notification config"):
            await client.get_task_push_notification_config(wanted)


async def test_configs_that_are_refused(served: Served) -> None:
    """Of nobody's task, at addresses that the operator does not allow, too many, and by who may not."""
    task_id = await asking(served)
    path = f"{REST}/tasks/{task_id}/pushNotificationConfigs"
    good = {"url": "https://example.com/hook"}
    for url in ("ftp://example.com/a", "nonsense", "http://169.254.169.254/latest", "http://10.0.0.7/", ""):
        error_of(await served("POST", path, json={"url": url}), 400, "INVALID_PARAMS")
        told = {"message": message(), "configuration": {"taskPushNotificationConfig": {"url": url}}}
        assert (await served.rpc("SendMessage", told))["error"]["code"] == -32602
    bad = {**good, "authentication": {"scheme": "Bearer", "credentials": "a\r\nX: y"}}
    error_of(await served("POST", path, json=bad), 400, "INVALID_PARAMS")
    error_of(await served("POST", path, json=good, as_=("acme", "viewer")), 403, "PERMISSION_DENIED")
    nobodys = f"{REST}/tasks/{NOBODY}/pushNotificationConfigs"
    for verb, where, body in (("POST", nobodys, good), ("GET", nobodys, None), ("DELETE", f"{nobodys}/c", None)):
        error_of(await served(verb, where, json=body), 404, "TASK_NOT_FOUND")
    for number in range(10):
        assert (await served("POST", path, json={**good, "id": f"c{number}"})).status_code == 200
    assert (await served("POST", path, json={**good, "id": "c1"})).status_code == 200
    error_of(await served("POST", path, json={**good, "id": "c10"}), 400, "INVALID_PARAMS")
    await served("POST", f"{REST}/tasks/{task_id}:cancel")
