"""A run whose handlers tell a secret on every way out of them: nothing of it is found outside of the worker."""

from __future__ import annotations

import base64
import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from temporalio.client import Client

from dalang.activities.secrets import Vault, in_logs, mask_output
from dalang.nodes import AskPerson, NodeContext, NodeFailure, node
from dalang.settings import Settings
from tests.api.world import Api
from tests.harness import Servers

VALUE = 'p@ss/w0rd+ "quoted" ü=&%'
NUMBER = "8472619305"
FORMS = [
    form
    for value in (VALUE, NUMBER)
    for form in (
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        quote(value),
        quote(value, safe=""),
        quote_plus(value),
        base64.b64encode(value.encode()).decode().rstrip("=")[:-1],
        base64.urlsafe_b64encode(value.encode()).decode().rstrip("=")[:-1],
        base64.b64encode(f"user:{value}".encode()).decode().rstrip("=")[8:-1],
    )
]
seen: list[str] = []
"""What the handlers got: it must be the value, or there was nothing to leak."""


@node("leak", endpoint="")
async def leak(ctx: NodeContext, how: str, secret: str, number: str = "") -> Any:
    """Tell the secret in the way that ``how`` names."""
    seen.append(secret)
    told = f"it is {secret}, in base64 {base64.b64encode(f'user:{secret}'.encode()).decode()}, url {quote(secret)}"
    logging.getLogger("somebody").error("told: %s", told)
    print(told)
    ctx.progress(told, 0.5)
    if how == "outputs":
        return {"text": told, secret: [{"deep": told}], "number": int(number), "inputs": dict(ctx.inputs)}
    if how == "large":
        return {"text": told * 2_000}
    if how == "checkpoint":
        if ctx.restored is None:
            ctx.checkpoint({"small": told})
            await ctx.checkpoint({"large": told * 100})
            raise NodeFailure(told, retryable=True)
        return {"restored": ctx.restored}
    if how == "failure":
        raise NodeFailure("x" * 3_990 + told, details={secret: told}, retryable=False)
    if how == "exception":
        try:
            raise ValueError(told)
        except ValueError as error:
            raise RuntimeError(f"because of {told}") from error
    if how == "question":
        if ctx.answer is None:
            raise AskPerson(told, context={secret: told})
        return {}
    raise AssertionError(how)


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was sent."""

    def do_GET(self) -> None:
        seen.append(self.headers["x-key"])
        body = json.dumps({"path": self.path, "headers": dict(self.headers.items())}).encode()
        self.send_response(500 if "fail" in self.path else 200)
        self.send_header("content-type", "application/json")
        self.send_header("x-you-sent", self.headers["authorization"])
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


@pytest.fixture
def echo() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    folder = tmp_path / "secrets" / "acme"
    folder.mkdir(parents=True)
    (folder / "shop-key").write_text(VALUE + "\n")
    (folder / "pin").write_text(NUMBER)
    return settings.model_copy(update={"secrets_dir": str(folder.parent)})


def plan(echo: str) -> dict[str, Any]:
    once = {"retryPolicy": {"maxAttempts": 1}}
    twice = {"retryPolicy": {"maxAttempts": 2, "initialDelayMs": 10, "retryOn": ["UNKNOWN_ERROR"]}}
    hows = ("outputs", "large", "checkpoint", "failure", "exception", "question")
    nodes = [
        {
            "nodeId": how,
            "type": "leak",
            "inputs": {"how": how, "secret": "secret://shop-key", "number": "secret://pin"},
            **(twice if how == "checkpoint" else once),
        }
        for how in hows
    ]
    headers = {"X-Key": "{{secret://pin}}", "Authorization": "Basic {{secret://pin}}"}
    for path in ("works", "fail"):
        inputs = {"url": echo + f"/{path}", "query": {"key": "secret://shop-key"}, "headers": headers}
        nodes.append({"nodeId": path, "type": "http", "inputs": inputs, **once})
    missing = {"how": "outputs", "secret": "secret://not-there"}
    nodes.append({"nodeId": "missing", "type": "leak", "inputs": missing, **once})
    undo = {"type": "leak", "inputs": {"how": "outputs", "secret": "secret://shop-key", "number": "1"}}
    nodes.append({"nodeId": "undone", "type": "noop", "inputs": {"k": "secret://pin"}, "compensation": undo})
    return {"name": "leaks", "nodes": nodes, "failurePolicy": "continue", "compensate": "onCancel"}


async def everything_stored(servers: Servers, database: str) -> str:
    """All rows of all tables, with what bytes spell."""
    admin = await servers.superuser(database)
    try:
        tables = await admin.fetch(
            "select quote_ident(table_schema) || '.' || quote_ident(table_name) from information_schema.tables"
            " where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')"
        )
        rows = [row for (table,) in tables for row in await admin.fetch(f"select * from {table}")]
    finally:
        await admin.close()
    return "\n".join(_text(value) for row in rows for value in row.values())


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


async def everything_answered(api: Api, run_id: str) -> str:
    base = f"/orchestrator/runs/{run_id}"
    paths = [base, f"{base}/nodes", f"{base}/events", f"{base}/plan", f"{base}/retries", f"{base}/checkpoints"]
    nodes = (await api.get(f"{base}/nodes"))["items"]
    paths += [f"{base}/nodes/{one['nodeId']}" for one in nodes]
    paths += ["/orchestrator/human-tasks", "/orchestrator/runs", "/orchestrator/episodes?query=leaks"]
    return "\n".join([(await api("GET", path)).text for path in paths])


async def test_a_secret_is_nowhere_but_in_the_worker(
    settings: Settings,
    api: Api,
    working: None,
    echo: str,
    servers: Servers,
    temporal_client: Client,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither in Temporal's history, nor in the database, nor in answers of the API, nor in logs."""
    caplog.set_level(logging.DEBUG)
    seen.clear()
    run_id = await api.execute(plan(echo))
    await api.reached(run_id, "question", "AWAITING_HITL")
    for name in ("outputs", "large", "checkpoint", "works"):
        await api.reached(run_id, name, "SUCCESS")
    for name in ("failure", "exception", "fail", "missing"):
        await api.reached(run_id, name, "FAILED")
    during = await everything_answered(api, run_id)
    response = await api("POST", f"/orchestrator/runs/{run_id}/cancel", json={})
    assert response.status_code in (200, 202), response.text
    await api.ended(run_id)
    assert (await api.get(f"/orchestrator/runs/{run_id}/nodes/undone"))["status"] == "COMPENSATED"

    assert seen.count(VALUE) >= 7, "the handlers had it"
    assert NUMBER in seen, "the service had it"
    handle = temporal_client.get_workflow_handle(f"run-{run_id}")
    history = await handle.fetch_history()
    places = {
        "history": "\n".join(event.SerializeToString().decode("utf-8", "replace") for event in history.events),
        "database": await everything_stored(servers, str(settings.database_url).rpartition("/")[2]),
        "answers": during + await everything_answered(api, run_id),
        "logs": caplog.text + "\n".join(_text(vars(record)) for record in caplog.records),
    }
    for name, text in places.items():
        assert "***" in text, name
        assert [form for form in FORMS if form in text] == [], name
    error = (await api.get(f"/orchestrator/runs/{run_id}/nodes/missing"))["error"]
    assert (error["type"], error["retryable"], error["attempt"]) == ("VALIDATION_ERROR", False, 1)
    assert "'not-there'" in error["message"]
    assert "secret://shop-key" in places["answers"], "the reference is what is recorded"


def test_a_vault_gives_a_tenant_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the tenant's folder first; of the environment only for those who may."""
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "key").write_text("of acme\n")
    (tmp_path / "acme" / "tiny").write_text("abc")
    (tmp_path / "acme" / "binary").write_bytes(b"\xff\xfe\xff\xfe")
    (tmp_path / "outside").write_text("nobody's")
    monkeypatch.setenv("DALANG_SECRET_SHOP_TOKEN", "of the environment")
    monkeypatch.setenv("DALANG_SECRET_KEY", "shadowed")
    vault = Vault(tmp_path, ["acme"])
    assert vault.value("acme", "key") == "of acme"
    assert vault.value("acme", "shop-token") == "of the environment"
    assert vault.value("globex", "key") is None
    assert vault.value("globex", "shop-token") is None
    assert Vault(None, ["*"]).value("globex", "shop.token") == "of the environment"
    for tenant, name in (("acme", "../outside"), ("..", "outside"), ("acme", "."), ("", "acme")):
        assert vault.value(tenant, name) is None
    for name in ("tiny", "binary"):
        with pytest.raises(ValueError, match=r"^is "):
            vault.value("acme", name)
    assert Settings.load(running_stack=False).secrets_dir == "", "a secret is no setting"


def test_what_a_worker_prints_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output is its log."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", out)
    mask_output()
    in_logs.add(["unlikely-value-2"])
    print("it is unlikely-value-2", file=sys.stderr, flush=True)
    sys.stdout.writelines(["and unlikely-value-2"])
    assert out.getvalue() == "it is ***\nand ***"


def test_a_wrong_log_call_is_masked_too(caplog: pytest.LogCaptureFixture) -> None:
    """Its arguments do not fit, so they are shown."""
    in_logs.add(["unlikely-value-1"])
    logging.getLogger("somebody").warning("%d and %s", "unlikely-value-1")
    logging.getLogger("somebody").warning({"a": "unlikely-value-1"})
    assert "unlikely-value-1" not in caplog.text
