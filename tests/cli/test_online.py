"""Commands on a real stack: exit codes, what people read, what programs read."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from mcp import Client, StdioServerParameters

from dalang.stack.supervisor import Stack
from tests.cli.conftest import Dalang
from tests.harness import PATIENCE, ROOT, Servers

pytestmark = pytest.mark.usefixtures("here")
Write = Callable[..., Path]

HELLO = """\
name: cli-hello
inputs: {type: object, properties: {who: {type: string}}, required: [who]}
nodes:
  - {nodeId: greet, type: noop, name: Greet them, inputs: {text: "Hello, ${inputs.who}"}}
  - {nodeId: wait, type: sleep, inputs: {duration: 10ms}}
edges: [{sourceNodeId: greet, targetNodeId: wait}]
outputs: {text: "${nodes.greet.outputs.text}"}
"""
FAILING = """\
name: cli-failing
nodes:
  - {nodeId: call, type: http, inputs: {url: "http://127.0.0.1:9/"}, retryPolicy: {maxAttempts: 1}}
  - {nodeId: after, type: noop}
edges: [{sourceNodeId: call, targetNodeId: after}]
"""


def sleeping(duration: str) -> str:
    """A plan that takes so long."""
    return f"name: cli-sleeping\nnodes: [{{nodeId: nap, type: sleep, inputs: {{duration: {duration}}}}}]\n"


async def spawn(*arguments: object, **environment: str) -> asyncio.subprocess.Process:
    """The program in a process of its own."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "dalang.cli",
        *map(str, arguments),
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def until(process: asyncio.subprocess.Process, text: str) -> None:
    """Read what it writes up to a line with ``text``."""
    assert process.stdout is not None
    while True:
        line = (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode()
        assert line, "it ended"
        if text in line:
            return


def test_a_run_that_completes_ends_with_0(dalang: Dalang, write: Write) -> None:
    """Without a terminal there is one line per event, then the outcome."""
    said = dalang("run", write(HELLO), "--input", "who=Ann")
    assert said.code == 0
    types = [line.split()[2] for line in said.out.splitlines() if line[2:3] == ":"]
    assert types[:3] == ["PLAN_VALIDATED", "PLAN_STARTED", "NODE_STARTED"]
    assert types[-1] == "PLAN_COMPLETED"
    assert "✓ COMPLETED" in said.out
    assert '"text": "Hello, Ann"' in said.out
    assert "\x1b" not in said.out


def test_a_run_as_json_is_one_document(dalang: Dalang, write: Write) -> None:
    """The run with everything; inputs come from files too."""
    inputs = write('{"who": "Bob"}', "inputs.json")
    found = dalang("run", write(HELLO), "--inputs", inputs, "--json")
    assert (found.code, found.err) == (0, "")
    run = found.json
    assert (run["status"], run["outputs"]) == ("COMPLETED", {"text": "Hello, Bob"})
    assert {"runId", "planId", "planName", "nodeStatusCounts", "startedAt", "completedAt", "totalNodes"} <= set(run)
    text = write("Eve", "who.txt")
    again = dalang("run", write(HELLO), "--input", f"who=@{text}", "--json").json
    assert again["inputs"] == {"who": "Eve"}


def test_a_run_that_fails_ends_with_1_and_says_which_node(dalang: Dalang, write: Write) -> None:
    """And which error, and where to look."""
    said = dalang("run", write(FAILING))
    assert said.code == 1
    assert "call  NETWORK_ERROR: ConnectError" in said.out
    assert "dalang nodes" in said.out
    assert dalang("watch", "latest").code == 1
    node = dalang("nodes", "latest", "call")
    assert "NETWORK_ERROR" in node.out
    assert dalang("nodes", "latest", "call", "--json").json["error"]["type"] == "NETWORK_ERROR"
    assert "upstreamFailed" in dalang("nodes", "latest").out
    assert "NETWORK_ERROR" in dalang("status", "latest").out


def test_a_cancelled_run_ends_with_3(dalang: Dalang, write: Write) -> None:
    """Its reason is shown."""
    run_id = dalang("start", write(sleeping("1h"))).out.strip()
    UUID(run_id)
    assert dalang("cancel", run_id, "--reason", "no need").code == 0
    said = dalang("watch", run_id)
    assert said.code == 3
    assert "CANCELLED (no need)" in said.out
    late = dalang("cancel", run_id)
    assert late.code == 1
    assert "CANCELLED" in late.err


def test_what_the_server_refuses_ends_with_2(dalang: Dalang, write: Write) -> None:
    """Pointers lead into the plan's file, not into the request."""
    said = dalang("run", write("name: x\nnodes: [{nodeId: a, type: htp}]\n"), "--json")
    assert said.code == 2
    error = json.loads(said.err)["error"]
    assert [(one["pointer"], one["code"]) for one in error["problems"]] == [("/nodes/0/type", "UNKNOWN_NODE_TYPE")]
    assert dalang("run", write(HELLO), "-i", "who=x", "--priority", "urgent").code == 2


def test_pause_and_resume(dalang: Dalang, write: Write) -> None:
    """Twice is refused with the status that is in the way."""
    run_id = dalang("start", write(sleeping("1h")), "--json").json["runId"]
    assert dalang("pause", run_id, "-r", "lunch", "--json").json["status"] == "PAUSED"
    refused = dalang("pause", run_id)
    assert refused.code == 1
    assert dalang("pause", run_id, "--interrupt").code == 0, "what drains may still be interrupted"
    assert "PAUSED" in refused.err
    assert dalang("list", "--active", "--json").json["items"][0]["status"] == "PAUSED"
    assert dalang("resume", run_id).code == 0
    assert dalang("cancel", run_id).code == 0


def test_one_idempotency_key_is_one_run(dalang: Dalang, write: Write) -> None:
    """With another plan it is refused."""
    path = write(HELLO)
    first, second = (
        dalang("start", path, "-i", "who=x", "--idempotency-key", "once", "--json").json["runId"] for _ in range(2)
    )
    assert first == second
    assert dalang("start", path, "-i", "who=y", "--idempotency-key", "once").code == 1


def test_runs_are_named_by_their_beginning(dalang: Dalang, write: Write) -> None:
    """Unless it is ambiguous, or nothing begins so."""
    run_id = dalang("run", write(HELLO), "-i", "who=x", "--json").json["runId"]
    assert dalang("status", run_id[:13], "--json").json["runId"] == run_id
    assert dalang("status", "latest", "--json").json["runId"] == run_id
    ambiguous = dalang("status", "")
    assert ambiguous.code == 2
    unknown = dalang("status", "00000000-0000-4000-8000-000000000000")
    assert unknown.code == 1
    assert "`dalang list`" in unknown.err


def test_lists_are_narrowed(dalang: Dalang, write: Write) -> None:
    """By status, plan and time; a table for people."""
    dalang("run", write(HELLO), "-i", "who=x")
    found = dalang("list", "--status", "completed", "--plan", "CLI-HEL", "--since", "1h", "--json").json["items"]
    assert found
    assert {one["status"] for one in found} == {"COMPLETED"}
    assert dalang("list", "--until", "2001-01-01", "--json").json == {"items": [], "next": None}
    table = dalang("list", "--limit", "1").out.splitlines()
    assert table[0].split() == ["RUN", "STATUS", "PLAN", "VERSION", "NODES", "TIME", "AGE"]
    assert len(table) == 2
    assert dalang("list", "--since", "yesterday").code == 2


def test_events_as_lines_and_as_json(dalang: Dalang, write: Write) -> None:
    """Both ways give the same events; `--after` goes on behind one."""
    run_id = dalang("run", write(HELLO), "-i", "who=x", "--json").json["runId"]
    found = dalang("events", run_id, "--bodies", "--json").json["items"]
    followed = [json.loads(line) for line in dalang("events", run_id, "--follow", "--json").out.splitlines()]
    assert [one["id"] for one in followed] == [one["id"] for one in found]
    assert any(one["body"] for one in found)
    rest = dalang("events", run_id, "--after", found[2]["id"]).out.splitlines()
    assert len(rest) == len(found) - 3
    narrowed = dalang("events", run_id, "--node", "greet", "--type", "node_started", "--json").json["items"]
    assert [(one["type"], one["nodeId"]) for one in narrowed] == [("NODE_STARTED", "greet")]
    same = dalang("events", run_id, "--follow", "--node", "greet", "--type", "NODE_STARTED", "--json").json
    assert same["id"] == narrowed[0]["id"]
    page = dalang("events", run_id, "--limit", "2", "--json").json
    assert len(page["items"]) == 2
    assert page["next"] == found[1]["id"]


def test_reasons_with_separators_of_unicode_arrive_whole(dalang: Dalang, write: Write) -> None:
    """They are text, in streams as elsewhere, and cannot break a line of the terminal."""
    run_id = dalang("start", write(sleeping("1h"))).out.strip()
    reason = "a\u2028b\u0085c\x0bd\re"
    assert dalang("cancel", run_id, "--reason", reason).code == 0
    followed = [json.loads(line) for line in dalang("events", run_id, "--follow", "--json").out.split("\n") if line]
    assert next(one["data"]["reason"] for one in followed if "reason" in one["data"]) == reason
    assert not set(dalang("watch", run_id).out) & set("\u2028\u0085\x0b\r")


async def test_the_chain_is_verified(dalang: Dalang, write: Write, here: Stack, servers: Servers) -> None:
    """A rewritten event is found, and ends with 1."""
    run_id = dalang("run", write(HELLO), "-i", "who=x", "--json").json["runId"]
    said = dalang("audit", "verify", run_id)
    assert said.code == 0
    assert "intact" in said.out
    assert "signature valid, Temporal matches" in said.out
    [key] = dalang("audit", "keys", "--json").json["items"]
    assert key["signs"]
    connection = await servers.superuser(here.settings.database_url.rpartition("/")[2])
    await connection.execute("ALTER TABLE run_events DISABLE TRIGGER USER")
    await connection.execute(
        "UPDATE run_events SET at = at + interval '1s' WHERE run_id = $1 AND seq = 3", UUID(run_id)
    )
    await connection.execute("ALTER TABLE run_events ENABLE TRIGGER USER")
    await connection.close()
    rewritten = dalang("audit", "verify", run_id)
    assert rewritten.code == 1
    assert "CHANGED" in rewritten.out
    everything = dalang("audit", "verify", "--all")
    assert everything.code == 1
    assert f"CHANGED  run {run_id}, event 0.3" in everything.out
    assert dalang("audit", "verify").code == 2


def test_runs_are_anchored_and_exported(dalang: Dalang, write: Write, tmp_path: Path) -> None:
    """An anchor holds what is new; what is exported is checked by the script of the examples."""
    run_id = dalang("run", write(HELLO), "-i", "who=x", "--json").json["runId"]
    made = dalang("audit", "anchor", "--json").json["items"]
    assert made[0]["heads"] > 0
    assert made[0] in dalang("audit", "anchors", "--json").json["items"]
    assert made[0]["digest"] in dalang("audit", "anchors").out
    assert "anchored 1 times" in dalang("audit", "verify", run_id).out
    kept = tmp_path / "anchors.json"
    kept.write_text(json.dumps({"items": made}))
    assert "REMOVED  anchor" not in dalang("audit", "verify", "--all", "--anchors", kept).out
    kept.write_text(json.dumps({"items": [made[0], {**made[0], "number": 10_000}]}))
    gone = dalang("audit", "verify", "--all", "--anchors", kept)
    assert (gone.code, "REMOVED  anchor 10000" in gone.out) == (1, True)
    file = tmp_path / "run.jsonl"
    assert dalang("audit", "export", run_id, "-o", file).code == 0
    script = [sys.executable, ROOT / "examples/verify_audit.py", file]
    checked = subprocess.run(script, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert f"in anchor {made[0]['number']}" in checked.stdout


def test_stored_plans(dalang: Dalang, write: Write) -> None:
    """Pushed, listed, shown, drawn and run by name."""
    path = write(HELLO.replace("cli-hello", "cli-stored"))
    first = dalang("plan", "push", path, "--json").json
    assert first["created"] is True
    assert dalang("plan", "push", path, "--json").json["created"] is False
    assert dalang("plan", "push", write(HELLO.replace("cli-hello", "cli-stored") + "timeout: 1h\n")).code == 1
    assert dalang("plan", "push", write(HELLO.replace("cli-hello", "cli-stored") + "version: 1.10.0\n")).code == 0
    versions = dalang("plan", "versions", "cli-stored", "--json").json["items"]
    assert [one["version"] for one in versions] == ["1.10.0", "1.0.0"]
    assert "cli-stored" in dalang("plan", "list").out
    assert "cli-stored  1.10.0" in dalang("plan", "show", "cli-stored").out
    assert dalang("plan", "graph", first["planId"], "--version", "1.0.0").out.startswith("flowchart")
    run = dalang("run", "cli-stored", "--version", "1.0.0", "-i", "who=x", "--json")
    assert (run.code, run.json["planVersion"]) == (0, "1.0.0")
    assert dalang("run", "cli-stored").code == 2
    unknown = dalang("run", "cli-store")
    assert unknown.code == 2
    assert "cli-stored" in unknown.err


def test_tokens(dalang: Dalang, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made once, listed without the plain text, refused when revoked; roles limit what they may do."""
    made = dalang("token", "create", "ann", "--role", "viewer", "--expires", "1h", "--json").json
    assert made["token"] not in dalang("token", "list").out
    assert made["tokenId"] in dalang("token", "list").out
    monkeypatch.setenv("DALANG_TOKEN", made["token"])
    assert dalang("list").code == 0
    forbidden = dalang("run", write(HELLO), "-i", "who=x")
    assert forbidden.code == 1
    assert "operator" in forbidden.err
    monkeypatch.setenv("DALANG_TOKEN", "dalang_" + "x" * 40)
    unknown = dalang("list")
    assert unknown.code == 1
    assert "DALANG_TOKEN" in unknown.err
    assert dalang("token", "revoke", made["tokenId"]).code == 0
    assert dalang("token", "revoke", made["tokenId"]).code == 1
    assert dalang("token", "create", "x", "--expires", "soon").code == 2
    assert dalang("db", "upgrade", "--json").json["revision"]


async def test_ctrl_c_ends_the_watching_and_not_the_run(dalang: Dalang, write: Write) -> None:
    """It says how to watch again."""
    process = await spawn("run", write(sleeping("1h")))
    await until(process, "NODE_STARTED")
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 130
    run = dalang("status", "latest", "--json").json
    assert run["status"] == "RUNNING"
    assert f"dalang watch {run['runId'][:8]}" in err.decode()
    assert dalang("cancel", run["runId"]).code == 0


async def test_watching_goes_on_after_a_restart_of_the_api(here: Stack, write: Write) -> None:
    """Every event is shown once."""
    process = await spawn("run", write(sleeping("4s")))
    await until(process, "NODE_STARTED")
    await here.kill("api")
    await here.start("api")
    assert process.stdout is not None
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 0, err
    types = [line.split()[2] for line in out.decode().splitlines() if line[2:3] == ":"]
    assert types == ["NODE_COMPLETED", "PLAN_COMPLETED"]
    assert "connecting again" in err.decode()


def test_the_demo_joins_a_stack_that_runs(dalang: Dalang) -> None:
    """And does not stop it."""
    said = dalang("demo", ROOT / "examples" / "feature-development.yaml")
    assert said.code == 0
    assert "Running on the stack of" in said.out
    assert "stack stops" not in said.out
    assert dalang("list").code == 0


def on_a_terminal(*arguments: object, **environment: str) -> str:
    """What the program writes to a terminal of 80 columns."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update({"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "30", **environment})
        os.execv(sys.executable, [sys.executable, "-m", "dalang.cli", *map(str, arguments)])
    written = b""
    while True:
        try:
            read = os.read(terminal, 65536)
        except OSError:
            break
        if not read:
            break
        written += read
    os.waitpid(pid, 0)
    return written.decode()


async def test_a_model_starts_a_run_and_watches_it(here: Stack) -> None:
    """By `dalang mcp`, with the token of the stack's folder; while the tool waits it tells how far the run is."""
    plan = {"name": "from-a-model", "nodes": [{"nodeId": "a", "type": "sleep", "inputs": {"duration": "3s"}}]}
    told: list[str] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = StdioServerParameters(command=sys.executable, args=["-m", "dalang.cli", "mcp"], env=environment)
    key: Any = {"dalang/idempotencyKey": "of-a-model"}
    async with Client(server, cache=None) as client:
        started = await client.call_tool("start_run", {"plan": plan}, meta=key)
        run = started.structured_content["runId"]
        again = await client.call_tool("start_run", {"plan": plan}, meta=key)
        assert again.structured_content["runId"] == run
        seen = await client.call_tool("get_run", {"runId": run, "waitSeconds": 40}, progress_callback=progress)
    assert seen.structured_content["run"]["status"] == "COMPLETED"
    assert any("RUNNING" in one for one in told), told


def test_without_the_library_for_models(dalang: Dalang, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "mcp.server.context", None)
    monkeypatch.delitem(sys.modules, "dalang.mcp_server.serving", raising=False)
    found = dalang("mcp")
    assert found.code == 1
    assert "pip install 'dalang[mcp]'" in found.err


def test_a_terminal_gets_a_live_picture(write: Write) -> None:
    """One line per node with its sign, in colour unless NO_COLOR is set."""
    path = write(HELLO)
    written = on_a_terminal("run", path, "-i", "who=x")
    assert "Greet them" in written
    assert "✓" in written
    assert "\x1b[32m" in written
    assert "\x1b[32m" not in on_a_terminal("run", path, "-i", "who=x", NO_COLOR="1")


def test_a_large_plan_is_shown_by_groups(write: Write, dalang: Dalang) -> None:
    """A line per level, with a bar; tables are cut to the width of the terminal."""
    nodes: list[dict[str, Any]] = [{"nodeId": f"node-{at:03d}-{'x' * 80}", "type": "noop"} for at in range(60)]
    written = on_a_terminal("run", write(json.dumps({"name": "wide", "nodes": nodes}), "wide.json"))
    assert "60/60" in written
    assert "level 1" in written
    lines = re.sub("\x1b[^m]*m", "", on_a_terminal("nodes", "latest")).splitlines()
    assert len(lines) >= 60
    assert max(map(len, lines)) <= 80
    assert max(map(len, dalang("nodes", "latest").out.splitlines())) > 80


def test_open_prints_a_link_that_signs_in_once(dalang: Dalang, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the token's owner, to the run's page if one is named; a browser is opened unless that is not wanted."""
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    run_id = dalang("run", write(HELLO), "--input", "who=ann", "--json").json["runId"]
    link = dalang("open", run_id[:13]).out.strip()
    assert opened == [link]
    assert link.endswith(f"&next=/ui/runs/{run_id}")
    first, again = (httpx.get(link, follow_redirects=False, trust_env=False) for _ in range(2))
    assert (first.status_code, first.headers["location"]) == (303, f"/ui/runs/{run_id}")
    assert "dalang_session" in first.cookies
    assert again.status_code == 401
    assert "/ui/sign-in?ticket=" in dalang("open", "--no-browser").out
    assert dalang("open", "--json").json["url"] != link
    assert opened == [link]
