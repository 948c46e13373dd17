"""The codec server: Temporal's CLI reads an encrypted history through it, and nobody does without a token."""

from __future__ import annotations

import asyncio
import json
import sysconfig
from base64 import b64decode
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from google.protobuf.json_format import MessageToDict
from temporalio.api.common.v1 import Payload, Payloads

from dalang.encryption_keys import read_keys, with_new_key
from dalang.payload_codec import encrypted
from dalang.settings import Settings
from dalang.stack.ports import free_port
from dalang.stack.private_files import write_private
from tests.api.world import TOKENS, Api, problem

PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=b'"confided"')
SENT = {"payloads": [{"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "ImNvbmZpZGVkIg=="}]}


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """Settings with encryption on, and the codec server for one of two tenants."""
    path = tmp_path / "keys.json"
    write_private(path, with_new_key(path, "k1")[1])
    more = {"encryption_keys_file": str(path), "codec_tenants": ("acme",), "temporal_ui_url": "http://ui.test/temporal"}
    return settings.model_copy(update=more)


async def test_there_and_back(api: Api) -> None:
    """Also what is in the clear; a viewer reads, and does not write."""
    response = await api("POST", "/codec/encode", json=SENT, headers={"X-Namespace": "default"})
    assert response.status_code == 200, response.text
    sealed = response.json()
    assert "Y29uZmlkZWQ" not in response.text
    both = {"payloads": sealed["payloads"] + SENT["payloads"]}
    response = await api("POST", "/codec/decode", as_=("acme", "viewer"), json=both)
    assert response.json() == {"payloads": SENT["payloads"] * 2}
    assert (await api("POST", "/codec/decode", json={"payloads": []})).json() == {"payloads": []}
    problem(await api("POST", "/codec/encode", as_=("acme", "viewer"), json=SENT), 403)


async def test_who_and_what_is_refused(api: Api) -> None:
    """No token, another tenant's, another namespace, a missing key, and what is no payload."""
    problem(await api("POST", "/codec/decode", as_=None, json=SENT), 401)
    for role in ("viewer", "operator", "admin"):
        problem(await api("POST", "/codec/decode", as_=("globex", role), json=SENT), 403)
        problem(await api("POST", "/codec/encode", as_=("globex", role), json=SENT), 403)
    problem(await api("POST", "/codec/decode", json=SENT, headers={"X-Namespace": "other"}), 404)
    strange = encrypted(PLAIN, read_keys(with_new_key(Path("/nowhere/keys"), "k9")[1]).used)
    unknown = MessageToDict(Payloads(payloads=[strange]))
    told = problem(await api("POST", "/codec/decode", json=unknown), 422)
    assert "'k9'" in told["detail"]
    bad: list[Any] = [
        {},
        {"payloads": 1},
        {"payloads": [1]},
        {"payloads": [{"data": 5}]},
    ]
    for body in bad:
        problem(await api("POST", "/codec/decode", json=body), 422)


async def test_pages_of_the_web_ui_may_read_it_and_no_others(api: Api) -> None:
    """Its origin, without the path; other addresses of the API are for no page elsewhere."""
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-namespace"}
    response = await api("OPTIONS", "/codec/decode", as_=None, headers={"Origin": "http://ui.test", **asks})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "http://ui.test"
    assert "authorization" in response.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in response.headers
    response = await api("POST", "/codec/decode", json=SENT, headers={"Origin": "http://ui.test"})
    assert response.headers["access-control-allow-origin"] == "http://ui.test"
    for path, origin in (("/codec/decode", "http://evil.test"), ("/orchestrator/execute", "http://ui.test")):
        response = await api("OPTIONS", path, as_=None, headers={"Origin": origin, **asks})
        assert "access-control-allow-origin" not in response.headers


async def test_the_temporal_cli_shows_an_encrypted_history(
    app: FastAPI, api: Api, settings: Settings, working: None
) -> None:
    """Large payloads too, which are not in Temporal at all; without the codec server it shows ciphertext."""
    big = "much-" * 20_000
    plan = {"name": "told", "nodes": [{"nodeId": "a", "type": "api-test-echo", "inputs": {"x": "confided", "y": big}}]}
    run_id = await api.execute(plan)
    await api.ended(run_id)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    try:
        async with httpx.AsyncClient() as client:
            while not server.started:
                await asyncio.sleep(0.02)
            assert (await client.post(f"http://127.0.0.1:{port}/codec/decode", json=SENT)).status_code == 401
        codec = ["--codec-endpoint", f"http://127.0.0.1:{port}/codec"]
        token = TOKENS[("acme", "viewer")]
        shown = await temporal(settings, run_id, *codec, "--codec-auth", f"Bearer {token}")
        assert b"confided" in contents(shown)
        assert b"much-much-" in contents(shown)
    finally:
        server.should_exit = True
        await serving
    shown = await temporal(settings, run_id)
    assert b"confided" not in contents(shown)


def contents(shown: Any) -> bytes:
    """Return what the payloads of a history hold."""
    if isinstance(shown, list):
        return b" ".join(contents(one) for one in shown)
    if not isinstance(shown, dict):
        return b""
    own = b64decode(shown["data"]) if isinstance(shown.get("data"), str) else b""
    return own + b" " + b" ".join(contents(one) for one in shown.values())


async def temporal(settings: Settings, run_id: str, *options: str) -> Any:
    """Return what `temporal workflow show` prints."""
    program = Path(sysconfig.get_path("scripts")) / "temporal"
    show = ["workflow", "show", "--workflow-id", f"run-{run_id}", "--address", settings.temporal_address]
    process = await asyncio.create_subprocess_exec(
        program, *show, "--output", "json", *options, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err
    return json.loads(out)
