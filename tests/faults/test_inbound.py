"""Callbacks of a real service and events for whoever waits, while workers, the API and Temporal are killed."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from dalang.settings import Settings
from dalang.stack import ports
from dalang.stack.supervisor import Stack, stack
from tests.faults.test_stack import chain_holds, client, ended
from tests.harness import PATIENCE

RETRY = {"maxAttempts": 20, "backoffStrategy": "FIXED", "initialDelayMs": 200, "maxDelayMs": 200}


class Studio(BaseHTTPRequestHandler):
    """A service that takes long: it does the work of a key once and calls back until somebody answers.

    ``/early`` calls back before it answers, ``/lost`` answers the first request by hanging up, ``/work`` is plain.
    """

    def do_POST(self) -> None:
        """Take work."""
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key, address = self.headers["Idempotency-Key"], body["whenDone"]
        assert address == self.headers["Dalang-Callback-Url"]
        with server.lock:
            server.asked[key] += 1
            first = server.asked[key] == 1
        if first:
            call = threading.Thread(target=call_back, args=(server, key, address, body["seconds"]), daemon=True)
            call.start()
            if self.path == "/early":
                call.join()
            if self.path == "/lost":
                self.connection.close()
                return
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


def call_back(server: Any, key: str, address: str, seconds: float) -> None:
    """Do the work and tell of it until somebody has heard."""
    time.sleep(seconds)
    data = json.dumps({"outputs": {"key": key}}).encode()
    while not server.closed.is_set():
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                server.answers.append((key, response.status))
                return
        except urllib.error.HTTPError as error:
            if error.code < 500:
                server.answers.append((key, error.code))
                return
        except OSError:
            pass
        server.closed.wait(0.1)


@pytest.fixture
def studio() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Studio) as server:
        made: Any = server
        made.lock, made.closed = threading.Lock(), threading.Event()
        made.asked, made.answers = Counter(), []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        made.closed.set()
        server.shutdown()


@pytest.fixture
async def site_with_api(own_settings: Settings) -> AsyncIterator[Stack]:
    """A worker and an API as processes, on servers that may be stopped."""
    port = ports.free_port()
    url = f"http://127.0.0.1:{port}"
    more = {"api_port": port, "api_url": url, "public_url": url}
    async with stack(own_settings.model_copy(update=more), {"worker", "api"}) as running:
        yield running


def asking(node_id: str, service: ThreadingHTTPServer, path: str, seconds: float) -> dict[str, Any]:
    return {
        "nodeId": node_id,
        "type": "http",
        "callback": {"timeout": "2m"},
        "inputs": {
            "method": "POST",
            "url": f"http://127.0.0.1:{service.server_port}/{path}",
            "body": {"whenDone": "{{callbackUrl}}", "seconds": seconds},
        },
        "retryPolicy": RETRY,
        "timeouts": {"startToClose": "20s", "heartbeat": "2s"},
    }


async def test_every_answer_counts_whatever_is_killed(site_with_api: Stack, studio: ThreadingHTTPServer) -> None:
    """Workers and the API die while a service is asked and calls back: each work is answered once, no run is stuck."""
    running: Any = studio
    nodes = [
        asking(f"n{at}", studio, ("work", "early", "lost")[at % 3], seconds=(0.0, 0.5, 2.0, 4.0)[at % 4])
        for at in range(24)
    ]
    plan = {
        "name": "films",
        "nodes": nodes,
        "outputs": {node["nodeId"]: f"${{nodes.{node['nodeId']}.outputs.key}}" for node in nodes},
    }
    async with client(site_with_api.settings) as api:
        run_id = (await api.post("/execute", json={"plan": plan})).raise_for_status().json()["runId"]
        async with asyncio.timeout(PATIENCE):
            while not running.asked:
                await asyncio.sleep(0.02)
        for name in ("worker", "api", "worker", "api"):
            await asyncio.sleep(0.5)
            await site_with_api.kill(name)
            await asyncio.sleep(0.3)
            await site_with_api.start(name)
        run = await ended(api, run_id, within=2 * PATIENCE)
    assert run["status"] == "COMPLETED", run["error"]
    assert run["outputs"] == {node["nodeId"]: f"{run_id}:{node['nodeId']}:0:0" for node in nodes}
    # An answer counts once; where its 202 was lost with the API, the repetition is told that the node has ended.
    accepted = Counter(key for key, status in running.answers if status == 202)
    assert accepted.keys() <= set(run["outputs"].values())
    assert set(accepted.values()) == {1}
    assert await chain_holds(site_with_api.settings, run_id)


async def test_an_event_that_was_accepted_arrives(site_with_api: Stack, servers_up: Stack) -> None:
    """Accepted while Temporal is away, with the API killed before it could deliver: the next one delivers it."""
    wait = {"nodeId": "e", "type": "event", "inputs": {"name": "paid", "correlationKey": "7"}}
    plan = {"name": "waits", "nodes": [wait], "outputs": {"n": "${nodes.e.outputs.n}"}}
    async with client(site_with_api.settings) as api:
        runs = [(await api.post("/execute", json={"plan": plan})).raise_for_status().json()["runId"] for _ in range(3)]
        for run_id in runs:
            async with asyncio.timeout(PATIENCE):
                while (await api.get(f"/runs/{run_id}")).json()["nodeStatusCounts"].get("RUNNING") != 1:
                    await asyncio.sleep(0.05)
        await servers_up.kill("temporal")
        event = {"name": "paid", "correlationKey": "7", "payload": {"n": 5}, "eventId": "pay"}
        assert (await api.post("/events", json=event)).status_code == 202
        await site_with_api.kill("api")
        await servers_up.start("temporal")
        await site_with_api.start("api")
        assert (await api.post("/events", json=event)).json()["repeated"]
        for run_id in runs:
            assert (await ended(api, run_id))["outputs"] == {"n": 5}
        found = (await api.get("/events/pay")).json()
    assert {one["runId"] for one in found["deliveries"] if one["deliveredAt"]} == set(runs)
