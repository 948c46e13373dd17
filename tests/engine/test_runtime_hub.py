"""The node type ``runtime-hub`` against hubs that keep the contract in their own way, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dalang import runtime_hub as hub
from dalang.activities.egress import enforcing
from dalang.activities.runtime_hub import RuntimeHub
from dalang.egress import Egress
from dalang.errors import ErrorType, SuggestedAction
from dalang.nodes import NodeContext, NodeFailure
from dalang.stack.ports import free_port
from tests.harness import PATIENCE

KEY = "run-1:n:0:0"
FIRST, SECOND = (str(hub.task_id(KEY, number)) for number in (0, 1))
DONE = {"success": True, "outputs": {"n": 1}}


class FakeHub:
    """A hub whose answers are told: one for each ``execute``, and then statuses by task, the last one for ever.

    An answer is a status of HTTP and a body; ``drop`` closes the connection after the task was taken.
    """

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.statuses: dict[str, list[Any]] = {}
        self.executed: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.cancelled: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""
        self.app = Starlette(
            routes=[
                Route("/runtime-hub/execute", self.execute, methods=["POST"]),
                Route("/runtime-hub/tasks/{task}/status", self.status),
                Route("/runtime-hub/tasks/{task}/cancel", self.cancel, methods=["POST"]),
            ]
        )

    async def execute(self, request: Request) -> Response:
        """Take a task."""
        body = await request.json()
        self.executed.append(body)
        self.headers.append(dict(request.headers))
        answer = self.answers.pop(0)
        if answer == "drop":
            return StreamingResponse(_broken_off())
        return _response(answer if isinstance(answer, tuple) else (200, {"taskId": body["taskId"], **answer}))

    async def status(self, request: Request) -> Response:
        """Tell how a task stands."""
        task = request.path_params["task"]
        self.asked.append(task)
        told = self.statuses.get(task, [])
        answer = told.pop(0) if len(told) > 1 else told[0] if told else (404, {"title": "unknown"})
        if answer == "drop":
            return StreamingResponse(_broken_off())
        if isinstance(answer, str):
            answer = {"status": answer}
        return _response(answer if isinstance(answer, tuple) else (200, {"taskId": task, **answer}))

    async def cancel(self, request: Request) -> Response:
        """Take a cancel."""
        self.cancelled.append(request.path_params["task"])
        return Response(status_code=204)


async def _broken_off() -> AsyncIterator[bytes]:
    yield b"{"
    raise ConnectionResetError


def _response(answer: tuple[int, Any]) -> Response:
    status, body = answer
    return Response(body, status) if isinstance(body, str) else JSONResponse(body, status)


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Serve an app on a port of its own."""
    port = free_port()
    config = uvicorn.Config(app, port=port, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def fake() -> AsyncIterator[FakeHub]:
    made = FakeHub()
    async with serving(made.app) as made.url:
        yield made


@pytest.fixture
async def client() -> AsyncIterator[RuntimeHub]:
    with enforcing(Egress.of(["127.0.0.1"])):
        made = RuntimeHub()
    yield made
    await made.close()


def context(url: str, **more: Any) -> NodeContext:
    inputs = {"url": url, "nodeType": "count", "input": {"a": 1}, "pollInterval": "20ms", **more.pop("inputs", {})}
    return NodeContext("n", "Node", "runtime-hub", "run-1", "t", inputs, KEY, **more)


async def failure(client: RuntimeHub, ctx: NodeContext) -> NodeFailure:
    """Run a task that must fail, and return how it did."""
    with pytest.raises(NodeFailure) as caught:
        await client(ctx)
    return caught.value


async def test_what_is_sent_is_the_contract(client: RuntimeHub, fake: FakeHub) -> None:
    """The fields of the seeds' ExecuteNodeRequest, under an id that derives from the idempotency key."""
    fake.answers = [DONE]
    implementation = {"type": "maven", "coordinate": "tech.kayys:count:1.0"}
    inputs = {"headers": {"Authorization": "Bearer x"}, "metadata": {"timeoutMs": 5000}}
    more = {"capabilities": ("counting",), "implementation": implementation, "metadata": {"team": "a"}}
    assert await client(context(fake.url + "/runtime-hub/", inputs=inputs, **more)) == {"n": 1}
    assert fake.executed == [
        {
            "taskId": FIRST,
            "runId": "run-1",
            "nodeId": "n",
            "nodeDescriptor": {
                "id": "count",
                "name": "Node",
                "capabilities": ["counting"],
                "implementation": implementation,
            },
            "input": {"a": 1},
            "metadata": {"team": "a", "timeoutMs": 5000, "runId": "run-1", "nodeId": "n", "nodeType": "count"},
        }
    ]
    assert fake.headers[0]["authorization"] == "Bearer x"
    assert fake.headers[0]["prefer"] == "wait=20"


async def test_a_task_that_takes_long_is_asked_for(client: RuntimeHub, fake: FakeHub) -> None:
    """Through statuses that nobody knows and moments in which the hub is away, to the result in the status."""
    fake.answers = [(202, {"taskId": FIRST, "success": False})]
    ended = {"status": "SUCCESS", "metadata": {"result": {"outputs": {"n": 2}}}}
    fake.statuses[FIRST] = [(404, {}), "RUNNING", (503, "busy"), "THINKING", "drop", ended]
    assert await client(context(fake.url)) == {"n": 2}
    assert len(fake.executed) == 1


async def test_a_hub_without_results_in_its_statuses_is_asked_once_more(client: RuntimeHub, fake: FakeHub) -> None:
    """The same id answers the same task."""
    fake.statuses[FIRST] = ["COMPLETED"]
    fake.answers = [DONE]
    assert await client(context(fake.url, attempt=2)) == {"n": 1}
    assert [one["taskId"] for one in fake.executed] == [FIRST]


async def test_an_answer_that_is_lost_is_no_second_task(client: RuntimeHub, fake: FakeHub) -> None:
    """The hub took the task and the connection broke: it is asked how it stands."""
    fake.answers = ["drop"]
    fake.statuses[FIRST] = [(404, {}), "RUNNING", {"status": "DONE", "outputs": {"n": 3}}]
    assert await client(context(fake.url)) == {"n": 3}
    assert len(fake.executed) == 1


async def test_a_task_that_never_arrived_is_sent_again(client: RuntimeHub, fake: FakeHub) -> None:
    """Under the same id; a hub that never knows it is given up."""
    fake.answers = ["drop", DONE]
    assert await client(context(fake.url)) == {"n": 1}
    assert [one["taskId"] for one in fake.executed] == [FIRST, FIRST]
    fake.answers = [(202, {})] * 3
    error = await failure(client, context(fake.url))
    assert (error.type, error.retryable) == (ErrorType.NETWORK_ERROR, True)


async def test_another_attempt_goes_on_with_the_task(client: RuntimeHub, fake: FakeHub) -> None:
    """Only after one that failed there is another one."""
    fake.statuses = {FIRST: ["FAILED"], SECOND: ["RUNNING", {"status": "SUCCESS", "outputs": {"n": 4}}]}
    assert await client(context(fake.url, attempt=3)) == {"n": 4}
    assert fake.executed == []
    fake.statuses, fake.answers = {FIRST: ["CANCELLED"]}, [DONE]
    assert await client(context(fake.url)) == {"n": 1}
    assert fake.executed[0]["taskId"] == SECOND


@pytest.mark.parametrize(
    ("told", "type", "retryable", "action"),
    [
        (
            {"type": "LLM_ERROR", "message": "no", "retryable": True, "suggestedAction": "HUMAN_REVIEW"},
            ErrorType.LLM_ERROR,
            True,
            SuggestedAction.HUMAN_REVIEW,
        ),
        ({"type": "STRANGE", "message": "no"}, ErrorType.UNKNOWN_ERROR, False, None),
        ("no", ErrorType.UNKNOWN_ERROR, False, None),
        (None, ErrorType.UNKNOWN_ERROR, False, None),
    ],
)
async def test_errors_of_tasks_are_errors_of_nodes(
    client: RuntimeHub, fake: FakeHub, told: Any, type: ErrorType, retryable: bool, action: SuggestedAction | None
) -> None:
    """With their type, and what the hub suggests; whether in the answer or in the status."""
    fake.answers = [{"success": False, "error": told}]
    error = await failure(client, context(fake.url))
    assert (error.type, error.retryable, error.suggested_action) == (type, retryable, action)
    assert error.details["taskId"] == FIRST
    fake.answers = [(202, {})]
    fake.statuses[FIRST] = [(404, {}), {"status": "FAILED", "metadata": {"result": {"error": told}}}]
    error = await failure(client, context(fake.url))
    assert (error.type, error.retryable, error.suggested_action) == (type, retryable, action)


@pytest.mark.parametrize(
    ("answer", "type", "retryable"),
    [
        ((503, "busy"), ErrorType.NETWORK_ERROR, True),
        ((500, "oops"), ErrorType.TOOL_ERROR, True),
        ((429, "slow down"), ErrorType.RESOURCE_EXHAUSTED, True),
        ((403, {"title": "no"}), ErrorType.POLICY_VIOLATION, False),
        ((422, {"title": "no such type"}), ErrorType.VALIDATION_ERROR, False),
        ((409, {"title": "another task"}), ErrorType.TOOL_ERROR, False),
        ((200, "{rubbish"), ErrorType.TOOL_ERROR, False),
        ((200, {"success": "yes"}), ErrorType.TOOL_ERROR, False),
        ((200, "[1]"), ErrorType.TOOL_ERROR, False),
    ],
)
async def test_hubs_that_refuse_or_answer_rubbish(
    client: RuntimeHub, fake: FakeHub, answer: Any, type: ErrorType, retryable: bool
) -> None:
    """Each has its type, and what was answered is in the details."""
    fake.answers = [answer]
    error = await failure(client, context(fake.url))
    assert (error.type, error.retryable) == (type, retryable)
    assert error.details["body"]


async def test_a_status_that_is_none(client: RuntimeHub, fake: FakeHub) -> None:
    """Rubbish is not taken for a task under way, for ever."""
    fake.statuses[FIRST] = [{"state": "RUNNING"}]
    assert "did not answer with a status" in str(await failure(client, context(fake.url)))


async def test_a_hub_that_is_away_or_forbidden(client: RuntimeHub) -> None:
    """Nothing was sent, so nothing can have happened; the operator's rules hold."""
    error = await failure(client, context(f"http://127.0.0.1:{free_port()}"))
    assert (error.type, error.no_effect) == (ErrorType.NETWORK_ERROR, True)
    error = await failure(client, context("http://10.0.0.1:80"))
    assert (error.type, error.no_effect) == (ErrorType.POLICY_VIOLATION, True)
    assert (await failure(client, context("nowhere"))).type == ErrorType.VALIDATION_ERROR


async def test_a_cancel_reaches_the_hub(client: RuntimeHub, fake: FakeHub) -> None:
    """While it waits for the task."""
    fake.statuses[FIRST] = ["RUNNING"]
    running = asyncio.create_task(client(context(fake.url)))
    async with asyncio.timeout(PATIENCE):
        while len(fake.asked) < 2:  # the first answer has been heard by then
            await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert fake.cancelled == [FIRST]
