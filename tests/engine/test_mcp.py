"""The node type ``mcp`` against real server processes: the example's, and one that misbehaves."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from dalang import watched_file
from dalang.activities.egress import EgressRefused, enforcing
from dalang.activities.failures import classify
from dalang.activities.mcp import child
from dalang.activities.mcp.node import Mcp
from dalang.activities.mcp.servers import NamedServers
from dalang.activities.secrets import Vault
from dalang.egress import Egress
from dalang.nodes import NodeContext, NodeFailure
from dalang.stack.ports import free_port
from tests.engine.kit import Engine, body_of
from tests.engine.mcp_kit import EXAMPLE, PEER, alive, heard, servers_file
from tests.harness import PATIENCE

FAST = {"initialDelayMs": 10, "maxDelayMs": 10, "maxAttempts": 3}
Configured = Callable[..., None]


@pytest.fixture
def node(tmp_path: Path) -> Callable[..., Any]:
    """``await node(tool, arguments)`` calls a tool as a node does; its context is ``node.ctx``."""
    path = tmp_path / "servers.yaml"
    shy = {"command": sys.executable, "args": [str(PEER), str(tmp_path), "shy"], "protocol": "legacy"}
    more = {"gone": {"command": "no-such-program"}, "mute": {"command": "sleep", "args": ["99"]}, "shy": shy}
    path.write_text(json.dumps(servers_file(tmp_path, **more)))
    handler = Mcp(NamedServers(path))

    async def call(tool: str, arguments: dict[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
        given = {"server": "peer", "tool": tool, "arguments": arguments or {}, **inputs}
        call.ctx = NodeContext("n", "n", "mcp", "r", "acme", given, "r:n:0:0")  # type: ignore[attr-defined]
        return await handler(call.ctx)  # type: ignore[attr-defined]

    return call


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_tool_is_called_with_the_key_and_its_process_ends(node: Any, tmp_path: Path) -> None:
    """Structured content and text are outputs; the tool stands on the second page of the list."""
    assert await node("measure", {"count": 2, "unit": "ft"}) == {"count": 2, "unit": "ft", "text": "2 ft"}
    (call,) = heard(tmp_path, "tools/call")
    assert call["params"]["_meta"]["dalang/idempotencyKey"] == "r:n:0:0"
    assert alive(tmp_path) == []
    assert await node("twice") == {"text": "first"}


@pytest.mark.parametrize(
    ("tool", "arguments", "kind", "retryable", "no_effect", "words"),
    [
        ("measure", {"count": 0, "x": 1}, "VALIDATION_ERROR", False, True, "/inputs/arguments/count: This number"),
        ("nope", {}, "VALIDATION_ERROR", False, True, "it has: measure, promise"),
        ("promise", {}, "TOOL_ERROR", False, False, "outputSchema"),
        ("die", {}, "NETWORK_ERROR", True, False, "exit code 3"),
        ("not-a-result", {}, "TOOL_ERROR", False, False, "content"),
        ("rubbish", {}, "TIMEOUT", True, False, "oops"),
        ("hang", {}, "TIMEOUT", True, False, "said nothing for 0.3 s"),
        ("log", {}, "TOOL_ERROR", False, False, "did not say why"),
    ],
)
async def test_what_goes_wrong_has_its_type(
    node: Any, tmp_path: Path, tool: str, arguments: Any, kind: str, retryable: bool, no_effect: bool, words: str
) -> None:
    """And no process is left; the tool is not called with arguments that its schema refuses."""
    with pytest.raises(NodeFailure, match=words) as caught:
        await node(tool, arguments, timeout="300ms")
    failure = caught.value
    assert (failure.type, failure.retryable, failure.no_effect) == (kind, retryable, no_effect)
    assert len(heard(tmp_path, "tools/call")) == (0 if no_effect else 1)
    assert alive(tmp_path) == []
    if tool == "die":
        assert failure.details["stderr"].startswith("out of cheese")


async def test_a_program_that_is_not_there(node: Any) -> None:
    """Another worker may have it."""
    with pytest.raises(NodeFailure, match="there is no no-such-program") as caught:
        await node("x", server="gone")
    assert (caught.value.type, caught.value.retryable) == ("NETWORK_ERROR", True)


async def test_a_server_of_old(node: Any, tmp_path: Path) -> None:
    """It is not asked for more than it knows."""
    assert (await node("measure", {"count": 2}, server="shy"))["text"] == "2 m"
    assert heard(tmp_path, "server/discover") == []


async def test_a_program_that_never_says_a_word(node: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for longer than for any that starts, and ended."""
    monkeypatch.setattr("dalang.activities.mcp.session.CONNECT_SECONDS", 0.3)
    monkeypatch.setattr("mcp.client.stdio.PROCESS_TERMINATION_TIMEOUT", 0.1)
    with pytest.raises(NodeFailure, match=r"said nothing for 0.3 s \(connecting\)") as caught:
        await node("x", server="mute")
    assert (caught.value.type, caught.value.no_effect) == ("TIMEOUT", True)


async def test_without_the_library(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node fails, and says what to install."""
    monkeypatch.setitem(sys.modules, "mcp.client.stdio", None)
    monkeypatch.delitem(sys.modules, "dalang.activities.mcp.session", raising=False)
    with pytest.raises(NodeFailure, match=r"pip install 'dalang\[mcp\]'") as caught:
        await node("measure", {"count": 2})
    assert (caught.value.type, caught.value.retryable, caught.value.no_effect) == ("TOOL_ERROR", False, True)


async def test_progress_is_told_and_keeps_the_patience(node: Any) -> None:
    """A server that goes on is waited for however long it takes altogether."""
    assert await node("progress", timeout="1s") == {"text": "done"}
    assert node.ctx._progress == {"message": "step 3", "fraction": 0.75}
    with pytest.raises(NodeFailure, match="said nothing"):
        await node("progress", {"then": "hang"}, timeout="300ms")


async def test_a_cancel_reaches_the_server(node: Any, tmp_path: Path) -> None:
    """It is told which request nobody wants any more, and ends."""
    work = asyncio.create_task(node("hang"))
    await until(lambda: (tmp_path / "heard.jsonl").exists() and heard(tmp_path, "tools/call"))
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    (call,) = heard(tmp_path, "tools/call")
    (told,) = heard(tmp_path, "notifications/cancelled")
    assert told["params"]["requestId"] == call["id"]
    assert alive(tmp_path) == []


async def test_a_server_that_ignores_everything_is_ended_with_what_it_started(
    node: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the end of its input nor SIGTERM ends it."""
    monkeypatch.setattr("mcp.client.stdio.PROCESS_TERMINATION_TIMEOUT", 0.3)
    monkeypatch.setattr("mcp.client.stdio.FORCE_KILL_TIMEOUT", 0.3)
    work = asyncio.create_task(node("stubborn"))
    await until((tmp_path / "stubborn").exists)
    assert len(alive(tmp_path)) == 2
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await until(lambda: not alive(tmp_path))


async def test_servers_end_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    """Nothing of the worker's own runs then."""
    program = (
        "import os, subprocess, sys; command = [sys.executable, *sys.argv[1:3], str(os.getpid()), *sys.argv[3:]];"
        "subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True).wait()"
    )
    stubborn = "import signal, time; signal.signal(15, 1); print('up', flush=True); time.sleep(99)"
    server = [sys.executable, "-c", stubborn]
    command = [sys.executable, "-c", program, "-I", str(child.__file__), *server]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"up\n"
    below = psutil.Process(worker.pid).children(recursive=True)
    assert len(below) == 2
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    await until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in below))


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The example's server by streamable HTTP."""
    port = free_port()
    with subprocess.Popen([sys.executable, str(EXAMPLE), "--port", str(port)]) as server:
        address = f"http://127.0.0.1:{port}/mcp"
        for _ in range(600):
            try:
                httpx.get(address, trust_env=False)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield address
        server.terminate()


@pytest.fixture
async def configured(shared_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Configured]:
    """Give the worker of the shared engine servers."""
    monkeypatch.setattr(watched_file, "LOOK_SECONDS", 0)
    path = Path(shared_engine.settings.mcp_servers_file)

    def configure(folder: Path, **more: Any) -> None:
        path.write_text(json.dumps(servers_file(folder, **more)))

    yield configure
    path.write_text("mcpServers: {}")


async def run(engine: Engine, **inputs: Any) -> dict[str, Any]:
    nodes = [{"nodeId": "call", "type": "mcp", "inputs": inputs, "retryPolicy": FAST}]
    return await (await engine.start({"nodes": nodes})).end()


async def test_a_real_server_by_both_transports(
    shared_engine: Engine, configured: Configured, service: str, tmp_path: Path
) -> None:
    """The same tools, the same outputs; what the schema refuses and what the tool refuses are told apart."""
    configured(tmp_path, web={"url": service})
    wanted = [
        ("example", "statistics", {"text": "a deer of gold"}, {"words": 4, "longest": "deer"}),
        ({"url": service}, "statistics", {"text": "a deer of gold"}, {"words": 4, "longest": "deer"}),
        ("web", "print_programme", {"title": "Rama", "pages": 2}, {"text": "/programmes/rama.pdf"}),
        ("web", "print_programme", {"title": "Rama", "pages": 99}, "VALIDATION_ERROR"),
        ({"url": service}, "print_programme", {"title": "Forbidden", "pages": 2}, "TOOL_ERROR"),
        ({"url": service + "/none"}, "print_programme", {}, "TOOL_ERROR"),
        ({"url": f"http://127.0.0.1:{free_port()}/mcp"}, "print_programme", {}, "NETWORK_ERROR"),
    ]
    ends = await asyncio.gather(
        *(run(shared_engine, server=server, tool=tool, arguments=given) for server, tool, given, _ in wanted)
    )
    for end, (server, tool, _, expected) in zip(ends, wanted, strict=True):
        if isinstance(expected, str):
            error = body_of(end, "NODE_FAILED", "call")["error"]
            assert error["type"] == expected, (server, tool, error)
            assert error["attempt"] == (3 if expected == "NETWORK_ERROR" else 1)
        else:
            assert end["run"]["status"] == "COMPLETED", end["run"]
            got = body_of(end, "NODE_COMPLETED", "call")["outputs"]
            assert {**got, **expected} == got


async def test_addresses_of_plans_are_under_the_rules_of_the_operator() -> None:
    """Only those that he has given names to are not."""
    inputs = {"server": {"url": "http://169.254.169.254/mcp"}, "tool": "t"}
    with enforcing(Egress()), pytest.raises(EgressRefused, match="metadata"):
        await Mcp(NamedServers(None))(NodeContext("n", "n", "mcp", "r", "acme", inputs, "key"))


async def test_a_server_that_dies_is_asked_again_with_the_same_key(
    shared_engine: Engine, configured: Configured, tmp_path: Path
) -> None:
    """Each attempt has a process of its own; the third one lives."""
    configured(tmp_path)
    end = await run(shared_engine, server="peer", tool="flaky")
    assert body_of(end, "NODE_COMPLETED", "call")["outputs"] == {"text": "at last"}
    keys = [one["params"]["_meta"]["dalang/idempotencyKey"] for one in heard(tmp_path, "tools/call")]
    assert keys == [f"{end['run']['run_id']}:call:0:0"] * 3


async def test_secrets_of_the_servers_file_reach_the_server_only(tmp_path: Path) -> None:
    """Those of the node's tenant, in the program's environment; what the server tells of them is masked."""
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "key").write_text("hunter22")
    peer = {**servers_file(tmp_path)["mcpServers"]["peer"], "env": {"KEY": "key={{secret://key}}"}}
    (tmp_path / "servers.yaml").write_text(json.dumps({"mcpServers": {"peer": peer}}))
    handler = Mcp(NamedServers(tmp_path / "servers.yaml"), Vault(tmp_path))
    inputs = {"server": "peer", "tool": "environment"}
    ctx = NodeContext("n", "n", "mcp", "r", "acme", inputs, "key")
    outputs = await handler(ctx)
    assert outputs == {"text": "the key is key=hunter22"}
    assert ctx._mask(outputs) == {"text": "the key is key=***"}
    ctx.inputs = {**inputs, "arguments": {"die": True}}
    with pytest.raises(NodeFailure) as caught:
        await handler(ctx)
    assert "hunter22" in caught.value.details["stderr"]
    assert "hunter22" not in str(classify(caught.value, ctx._mask))
    with pytest.raises(NodeFailure, match="no secret 'key' for this tenant"):
        await handler(NodeContext("n", "n", "mcp", "r", "globex", inputs, "key"))


async def test_what_a_tool_asks_a_person_is_declined(node: Any) -> None:
    """Unless the node says that people are to be asked."""
    with pytest.raises(NodeFailure, match="decline") as caught:
        await node("ask")
    assert caught.value.details["declined"] == "Which region?"


async def test_what_a_tool_asks_a_person_becomes_a_human_task(
    shared_engine: Engine, configured: Configured, tmp_path: Path
) -> None:
    """One question after the other; the tool is called again with the answers, under the same key."""
    configured(tmp_path)
    inputs = {"server": "peer", "tool": "ask", "questions": "ask"}
    started = await shared_engine.start({"nodes": [{"nodeId": "call", "type": "mcp", "inputs": inputs}]})
    for question, values in (("Which region?", {"region": "eu"}), ("Which size?", {"size": "xl"})):
        async with asyncio.timeout(PATIENCE):
            while not (tasks := (await started.handle.query("tasks"))["tasks"]) or tasks[0]["title"] != question:
                await asyncio.sleep(0.05)
        answer = {"taskId": tasks[0]["taskId"], "action": "answer", "operator": "kim", "values": values}
        await started.handle.execute_update("complete_human_task", answer)
    end = await started.end()
    (region, size) = json.loads(body_of(end, "NODE_COMPLETED", "call")["outputs"]["text"])
    assert (region["content"], size["content"]) == ({"region": "eu"}, {"size": "xl"})
    calls = heard(tmp_path, "tools/call")
    assert len(calls) == 3
    assert len({one["params"]["_meta"]["dalang/idempotencyKey"] for one in calls}) == 1
    assert alive(tmp_path) == []


async def test_a_run_that_is_cancelled_cancels_the_call(
    shared_engine: Engine, configured: Configured, tmp_path: Path
) -> None:
    """The server hears it, and its process ends with the node."""
    configured(tmp_path)
    inputs = {"server": "peer", "tool": "hang"}
    started = await shared_engine.start({"nodes": [{"nodeId": "call", "type": "mcp", "inputs": inputs}]})
    await until(lambda: (tmp_path / "heard.jsonl").exists() and heard(tmp_path, "tools/call"))
    await started.handle.execute_update("cancel", {"operator": "kim"})
    assert (await started.end())["run"]["status"] == "CANCELLED"
    assert len(heard(tmp_path, "notifications/cancelled")) == 1
    assert alive(tmp_path) == []
