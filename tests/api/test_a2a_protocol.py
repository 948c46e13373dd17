"""What A2A 1.0 requires of an agent on the wire, as the protocol's conformance kit checks it, in both bindings."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from typing import Any

import pytest

from dalang.api.a2a import routes
from tests.api import world
from tests.api.a2a_kit import Served, check_info, error_of, message

CARD = "/.well-known/agent-card.json"
REST = "/a2a/rest"
NOBODY = str(uuid.UUID(int=7))
VIEWER, APPROVER = ("acme", "viewer"), ("acme", "approver")


async def done(served: Served, **more: Any) -> dict[str, Any]:
    """Send a message by HTTP+JSON and return its task."""
    response = await served("POST", f"{REST}/message:send", json={"message": message(**more)})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()["task"]
    return found


async def test_the_card_is_for_everybody_and_for_caches(served: Served) -> None:
    """8.2, 8.6: at the well-known address, with max-age and ETag; 304 while it is the same."""
    response = await served("GET", CARD, as_=None)
    assert response.status_code == 200
    assert "max-age=" in response.headers["cache-control"]
    assert response.headers["last-modified"].endswith("GMT")
    tag = response.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        same = await served("GET", CARD, as_=None, headers={"If-None-Match": known})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert (await served("GET", CARD, as_=None, headers={"If-None-Match": '"other"'})).status_code == 200


async def test_the_card_says_what_there_is(served: Served) -> None:
    """4.4.1, 8.3: all required fields, each interface with binding, version and an address that answers."""
    card = (await served("GET", CARD, as_=None)).json()
    required = {"name", "description", "version", "supportedInterfaces", "capabilities", "skills"}
    assert required | {"defaultInputModes", "defaultOutputModes", "securitySchemes"} <= card.keys()
    assert card["capabilities"] == {"streaming": True, "pushNotifications": True, "extendedAgentCard": True}
    scheme = card["securitySchemes"]["bearer"]["httpAuthSecurityScheme"]
    assert scheme["scheme"].lower() == "bearer"
    assert {(one["protocolBinding"], one["protocolVersion"]) for one in card["supportedInterfaces"]} == {
        (binding, version) for binding in ("JSONRPC", "HTTP+JSON") for version in ("1.0", "0.3")
    }
    assert all(one["url"].startswith(served.url) for one in card["supportedInterfaces"])
    assert {"id", "name", "description", "tags"} <= card["skills"][0].keys()
    assert "a2a-agent" not in json.dumps(card), "whose plans there are is nobody's business"


@pytest.mark.parametrize("token", [None, "Bearer wrong"])
async def test_without_a_token_nothing_but_the_card_is_answered(served: Served, token: str | None) -> None:
    """7.4: 401 with a challenge, in the form of each binding."""
    headers = {"Authorization": token} if token else {}
    rest = await served("GET", f"{REST}/tasks", as_=None, headers=headers)
    error_of(rest, 401, "UNAUTHENTICATED")
    body = {"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {}}
    rpc = await served("POST", "/a2a", json=body, as_=None, headers=headers)
    assert rpc.status_code == 401
    assert rpc.json()["error"]["code"] == -32000
    for response in (rest, rpc):
        assert response.headers["www-authenticate"].startswith("Bearer")


async def test_roles_say_what_a_token_may(served: Served) -> None:
    """As over REST: who reads starts and cancels nothing, who approves decides, and starts nothing."""
    asking = await done(served, kind="input-required")
    start = {"message": message()}
    answer = {"message": message("nothing", taskId=asking["id"])}
    for who, body in ((VIEWER, start), (VIEWER, answer), (APPROVER, start)):
        error_of(await served("POST", f"{REST}/message:send", json=body, as_=who), 403, "PERMISSION_DENIED")
    error_of(await served("POST", f"{REST}/tasks/{asking['id']}:cancel", as_=APPROVER), 403, "PERMISSION_DENIED")
    refused = await served.rpc("CancelTask", {"id": asking["id"]}, as_=VIEWER)
    assert refused["error"]["code"] == -32000
    assert (await served("GET", f"{REST}/tasks/{asking['id']}", as_=VIEWER)).status_code == 200
    decided = await served("POST", f"{REST}/message:send", json=answer, as_=APPROVER)
    assert decided.json()["task"]["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_an_answer_is_as_protojson_wants_it(served: Served) -> None:
    """5.5, 11.1: camelCase, enums by name, times in UTC with Z, the media type of A2A; JSON-RPC is application/json."""
    response = await served("POST", f"{REST}/message:send", json={"message": message()})
    assert response.headers["content-type"].startswith("application/a2a+json")
    task = response.json()["task"]
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", task["status"]["timestamp"])
    assert task["history"][0]["role"] == "ROLE_USER"
    assert all(one["artifactId"] and one["parts"] for one in task["artifacts"])
    keys = set(re.findall(r'"(\w+)":', response.text))
    assert not [key for key in keys if re.fullmatch(r"[a-z]+(_[a-z]+)+", key)]
    body = {"jsonrpc": "2.0", "id": "x", "method": "SendMessage", "params": {"message": message()}}
    rpc = await served("POST", "/a2a/", json=body)
    assert rpc.headers["content-type"].startswith("application/json")
    assert rpc.json()["id"] == "x"
    assert rpc.json()["result"]["task"]["contextId"]


@pytest.mark.parametrize("accept", ["application/json", "application/a2a+json; charset=utf-8"])
async def test_fields_that_are_not_known_are_ignored(served: Served, accept: str) -> None:
    """For versions to come; extensions that are asked for and not there are, too."""
    body = json.dumps({"message": {**message(), "tckUnknownField": 1}, "more": 42})
    headers = {"Content-Type": accept, "A2A-Extensions": "https://example.com/ext/v1,https://example.com/ext/v2"}
    assert (await served("POST", f"{REST}/message:send", content=body, headers=headers)).status_code == 200
    params = {"message": {**message(), "tckUnknownField": 1}, "more": 42}
    assert "result" in await served.rpc("SendMessage", params)


NOT_THERE: list[tuple[str, dict[str, Any], str, str]] = [
    ("GetTask", {"id": NOBODY}, "GET", f"/tasks/{NOBODY}"),
    ("GetTask", {"id": "tck-nonexistent"}, "GET", "/tasks/tck-nonexistent"),
    ("CancelTask", {"id": NOBODY}, "POST", f"/tasks/{NOBODY}:cancel"),
    ("SubscribeToTask", {"id": NOBODY}, "POST", f"/tasks/{NOBODY}:subscribe"),
    ("SubscribeToTask", {"id": NOBODY}, "GET", f"/tasks/{NOBODY}:subscribe"),
    ("SendMessage", {"message": message(taskId=NOBODY)}, "POST", "/message:send"),
    ("SendStreamingMessage", {"message": message(taskId=NOBODY)}, "POST", "/message:stream"),
]


@pytest.mark.parametrize(("method", "params", "verb", "path"), NOT_THERE)
async def test_a_task_that_is_not_there(
    served: Served, method: str, params: dict[str, Any], verb: str, path: str
) -> None:
    """TaskNotFoundError: -32001 and 404, with ErrorInfo; before a stream begins."""
    error = (await served.rpc(method, params))["error"]
    assert error["code"] == -32001
    assert set(error) == {"code", "message", "data"}
    check_info(error["data"], "TASK_NOT_FOUND")
    body = params if "message" in params else None
    error_of(await served(verb, REST + path, json=body), 404, "TASK_NOT_FOUND")


async def test_a_task_of_another_tenant_is_not_there(served: Served) -> None:
    """Whatever tenant the request names: it has to be the token's."""
    task = await done(served)
    error_of(await served("GET", f"{REST}/tasks/{task['id']}", as_=("globex", "admin")), 404, "TASK_NOT_FOUND")
    error_of(await served("GET", f"{REST}/acme/tasks/{task['id']}", as_=("globex", "admin")), 403, "PERMISSION_DENIED")
    refused = await served.rpc("GetTask", {"id": task["id"], "tenant": "globex"})
    assert refused["error"]["code"] == -32000
    assert (await served.rpc("GetTask", {"id": task["id"], "tenant": "acme"}))["result"]["id"] == task["id"]
    assert (await served("GET", f"{REST}/acme/tasks/{task['id']}")).json()["id"] == task["id"]


async def test_what_a_task_that_has_ended_refuses(served: Served) -> None:
    """Messages and subscriptions are unsupported, a cancel is not possible."""
    task = await done(served)
    body = {"message": message("more", taskId=task["id"])}
    for path, sent_body, code, reason in (
        ("/message:send", body, -32004, "UNSUPPORTED_OPERATION"),
        (f"/tasks/{task['id']}:subscribe", None, -32004, "UNSUPPORTED_OPERATION"),
        (f"/tasks/{task['id']}:cancel", None, -32002, "TASK_NOT_CANCELABLE"),
    ):
        error_of(await served("POST", REST + path, json=sent_body), 400, reason)
        method = {"send": "SendMessage", "subscribe": "SubscribeToTask", "cancel": "CancelTask"}[path.split(":")[1]]
        error = (await served.rpc(method, sent_body or {"id": task["id"]}))["error"]
        assert error["code"] == code
        check_info(error["data"], reason)


async def test_versions(served: Served) -> None:
    """3.6.2: one that there is not is refused; none is 0.3, of which the method is none; patches do not matter."""
    body = {"message": message()}
    for wanted in ("99.0", "0.2", "nonsense"):
        response = await served("POST", f"{REST}/message:send", json=body, headers={"A2A-Version": wanted})
        error_of(response, 400, "VERSION_NOT_SUPPORTED")
        error = (await served.rpc("SendMessage", body, headers={"A2A-Version": wanted}))["error"]
        assert error["code"] == -32009
        check_info(error["data"], "VERSION_NOT_SUPPORTED")
    assert "result" in await served.rpc("SendMessage", body, headers={"A2A-Version": "1.0.3"})
    empty = await served.rpc("SendMessage", body, headers={"A2A-Version": ""})
    assert empty["error"]["code"] == -32009
    old = {"message": {"messageId": "old", "role": "user", "parts": [{"kind": "text", "text": "Hello"}]}}
    found = (await served.rpc("message/send", old, headers={"A2A-Version": ""}))["result"]
    assert (found["kind"], found["status"]["state"]) == ("task", "completed")


BAD: list[tuple[str, dict[str, Any], int, str]] = [
    ("empty", {}, -32602, "INVALID_PARAMS"),
    ("no id", {"message": {"role": "ROLE_USER", "parts": [{"text": "x"}]}}, -32602, "INVALID_PARAMS"),
    ("no parts", {"message": {**message(), "parts": []}}, -32602, "INVALID_PARAMS"),
    ("empty part", {"message": {**message(), "parts": [{}]}}, -32602, "INVALID_PARAMS"),
    ("agent's", {"message": {**message(), "role": "ROLE_AGENT"}}, -32602, "INVALID_PARAMS"),
    ("no such skill", {"message": message(metadata={"skill": "nobody"})}, -32602, "INVALID_PARAMS"),
    ("long id", {"message": message(id="x" * 300)}, -32602, "INVALID_PARAMS"),
    ("data is a list", {"message": message(parts=[{"data": [1]}])}, -32602, "INVALID_PARAMS"),
    ("wrong input", {"message": message(parts=[{"data": {"message": 7}}])}, -32602, "INVALID_PARAMS"),
    ("history", {"message": message(), "configuration": {"historyLength": -1}}, -32602, "INVALID_PARAMS"),
    (
        "media",
        {"message": message(parts=[{"raw": "dGNr", "mediaType": "application/x-unsupported"}])},
        -32005,
        "CONTENT_TYPE_NOT_SUPPORTED",
    ),
    ("file", {"message": message(parts=[{"url": "https://example.com"}])}, -32005, "CONTENT_TYPE_NOT_SUPPORTED"),
]


@pytest.mark.parametrize(("params", "code", "reason"), [one[1:] for one in BAD], ids=[one[0] for one in BAD])
async def test_messages_that_are_refused(served: Served, params: dict[str, Any], code: int, reason: str) -> None:
    """With what is wrong, and where."""
    error = (await served.rpc("SendMessage", params))["error"]
    assert error["code"] == code, error
    check_info(error["data"], reason)
    found = error_of(await served("POST", f"{REST}/message:send", json=params), 400, reason)
    assert found["message"]
    if reason == "INVALID_PARAMS":
        assert found["details"][1]["fieldViolations"]


async def test_requests_that_are_none(served: Served) -> None:
    """JSON-RPC: not JSON, no request, no such method, wrong media type; HTTP+JSON: the same, and no such address."""
    for content, code in (
        (b"{", -32700),
        (b'{"a": NaN}', -32700),
        (b"[" * 5000, -32700),
        (b"[]", -32600),
        (b"{}", -32600),
        (b'{"jsonrpc": "1.0", "method": "GetTask", "id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "method": "NoSuchMethod", "id": 1}', -32601),
        (b'{"jsonrpc": "2.0", "method": "GetTask", "params": [1], "id": 1}', -32602),
    ):
        response = await served("POST", "/a2a", content=content, headers={"Content-Type": "application/json"})
        assert (response.status_code, response.json()["error"]["code"]) == (200, code), (content[:40], response.text)
    plain = {"Content-Type": "text/plain"}
    response = await served("POST", "/a2a", content=b"{}", headers=plain)
    assert response.json()["error"]["code"] == -32005
    body = json.dumps({"message": message()})
    response = await served("POST", f"{REST}/message:send", content=body, headers=plain)
    error_of(response, 400, "CONTENT_TYPE_NOT_SUPPORTED")
    for content in (b"{", b"[]"):
        response = await served(
            "POST", f"{REST}/message:send", content=content, headers={"Content-Type": "application/json"}
        )
        assert response.status_code == 400, response.text
    error_of(await served("GET", f"{REST}/nowhere/at/all/x"), 404, "METHOD_NOT_FOUND")
    huge = await served("POST", f"{REST}/message:send", json={"message": message("x" * 3_000_000)})
    assert huge.status_code == 400


async def test_pages_and_states_that_are_none(served: Served) -> None:
    """ListTasks checks what it is given; its answer always has a next page token."""
    for query in ("pageSize=0", "pageSize=101", "pageToken=x", "status=TASK_STATE_NONE", "historyLength=-1"):
        error_of(await served("GET", f"{REST}/tasks?{query}"), 400, "INVALID_PARAMS")
    error = (await served.rpc("ListTasks", {"status": "TASK_STATE_NONE"}))["error"]
    assert error["code"] == -32602
    page = (await served("GET", f"{REST}/tasks?contextId=nobody-was-here")).json()
    assert page == {"tasks": [], "nextPageToken": "", "pageSize": 0, "totalSize": 0}
    task = await done(served, contextId="ctx-page")
    page = (await served.rpc("ListTasks", {"context_id": "ctx-page", "include_artifacts": False}))["result"]
    assert [one["id"] for one in page["tasks"]] == [task["id"]]
    assert "artifacts" not in page["tasks"][0]
    later = (await served("GET", f"{REST}/tasks?contextId=ctx-page&statusTimestampAfter=2999-01-01T00:00:00Z")).json()
    assert later["tasks"] == []


async def test_history_is_as_long_as_it_is_wanted(served: Served) -> None:
    """3.2.4: nothing for 0, the newest of it for more, in order; also in the answer to a message."""
    asking = await done(served, kind="input-required")
    body = {"message": message("nothing", taskId=asking["id"]), "configuration": {"historyLength": 0}}
    answered = (await served("POST", f"{REST}/message:send", json=body)).json()["task"]
    assert "history" not in answered
    for length, texts in ((0, []), (1, ["nothing"]), (10, ["Hello", "What else should I know?", "nothing"])):
        task = (await served.rpc("GetTask", {"id": asking["id"], "historyLength": length}))["result"]
        assert [one["parts"][0]["text"] for one in task.get("history", [])] == texts


async def test_contexts(served: Served) -> None:
    """3.4: the client's is kept, else one is made; a message to a task need not name it, but not another one."""
    named = await done(served, contextId="mine")
    assert named["contextId"] == "mine"
    asking = await done(served, kind="input-required")
    assert asking["contextId"]
    wrong = {"message": message("nothing", taskId=asking["id"], contextId="other")}
    error_of(await served("POST", f"{REST}/message:send", json=wrong), 400, "INVALID_PARAMS")
    assert (await done(served, text="nothing", taskId=asking["id"]))["contextId"] == asking["contextId"]


async def test_the_same_message_is_the_same_task(served: Served) -> None:
    """Also when it comes twice at once, and after the end; until its sender has answered, and by a key for ever."""
    same = {"message": message()}
    twice = await asyncio.gather(*(served("POST", f"{REST}/message:send", json=same) for _ in range(4)))
    ids = {one.json()["task"]["id"] for one in twice}
    ids.add((await served.rpc("SendMessage", same))["result"]["task"]["id"])
    assert len(ids) == 1
    other = (await served("POST", f"{REST}/message:send", json=same, as_=("acme", "admin"))).json()["task"]["id"]
    changed = {"message": {**same["message"], "parts": [{"text": "Other"}]}}
    assert len({*ids, other, (await served.rpc("SendMessage", changed))["result"]["task"]["id"]}) == 3

    asks = {"message": message(kind="input-required")}
    first = (await served.rpc("SendMessage", asks))["result"]["task"]
    reply = {"message": message("nothing", taskId=first["id"])}
    for _ in range(2):  # the reply, too, counts once
        after = (await served.rpc("SendMessage", reply))["result"]["task"]
        assert (after["id"], after["status"]["state"]) == (first["id"], "TASK_STATE_COMPLETED")
    again = (await served.rpc("SendMessage", asks))["result"]["task"]
    assert (again["id"] != first["id"], again["status"]["state"]) == (True, "TASK_STATE_INPUT_REQUIRED")

    key = {"Idempotency-Key": "once"}
    kept = {(await served.rpc("SendMessage", asks, headers=key))["result"]["task"]["id"] for _ in range(2)}
    await served.rpc("CancelTask", {"id": min(kept)})
    kept.add((await served.rpc("SendMessage", asks, headers=key))["result"]["task"]["id"])
    assert len(kept) == 1


@pytest.mark.parametrize(("method", "path"), [("SendStreamingMessage", "/a2a"), ("", f"{REST}/message:stream")])
async def test_streams_are_server_sent_events(served: Served, method: str, path: str) -> None:
    """9.4.2, 11.7: text/event-stream; in JSON-RPC each event is an answer to the request."""
    asked: dict[str, Any] = {"message": message()}
    body = {"jsonrpc": "2.0", "id": 9, "method": method, "params": asked} if method else asked
    response = await served("POST", path, json=body, headers={"Accept": "text/event-stream"})
    assert response.headers["content-type"].startswith("text/event-stream")
    found = [json.loads(line[5:]) for line in response.text.splitlines() if line.startswith("data:")]
    if method:
        assert {(one["jsonrpc"], one["id"]) for one in found} == {("2.0", 9)}
        found = [one["result"] for one in found]
    assert "task" in found[0]
    assert all(len({"statusUpdate", "artifactUpdate", "task"} & one.keys()) == 1 for one in found)
    last = found[-1].get("statusUpdate") or found[-1]["task"]
    assert last["status"]["state"] == "TASK_STATE_COMPLETED"


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("artifact-text", {"text": "You said: Hello"}),
        ("artifact-file", {"raw": "dGNr", "filename": "output.txt", "mediaType": "text/plain"}),
        (
            "artifact-file-url",
            {"url": "https://example.com/output.txt", "filename": "output.txt", "mediaType": "text/plain"},
        ),
        ("artifact-data", {"data": {"key": "value", "count": 42}}),
    ],
)
async def test_artifacts_of_every_kind(served: Served, kind: str, part: dict[str, Any]) -> None:
    """A plan may hand out what A2A knows."""
    task = await done(served, kind=kind)
    assert task["artifacts"][0]["parts"] == [part]


async def test_where_the_extra_is_missing_it_is_named(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """501, with what to install."""
    from httpx import ASGITransport, AsyncClient

    from dalang.api.app import create_app

    def missing(_: Any) -> Any:
        raise ModuleNotFoundError("No module named 'a2a'", name="a2a")

    monkeypatch.setattr(routes, "_load", missing)
    app = create_app(served.settings)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://api.test") as client:
        for method, path in (("GET", CARD), ("POST", "/a2a"), ("GET", f"{REST}/tasks")):
            response = await client.request(method, path)
            world.problem(response, 501)
            assert "pip install 'dalang[a2a]'" in response.json()["detail"]


async def test_a_malformed_request_is_answered_without_exceptions(served: Served) -> None:
    """Of version 0.3 too, where the SDK would tell what pydantic says, with the values and its version."""
    body = {"jsonrpc": "2.0", "id": 7, "method": "message/send", "params": {"message": {"parts": "secret-value"}}}
    answer = await served("POST", "/a2a", json=body, headers={"A2A-Version": "0.3"})
    error = answer.json()["error"]
    assert error["code"] == -32600
    assert "/params/message/parts" in answer.text
    assert "pydantic" not in answer.text
    assert "secret-value" not in answer.text
