"""Shorthands for tests of the API: tokens, plans, node types, and waiting for a run's end by its event stream."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from dalang.nodes import NetworkError, NodeContext, ToolError, node
from tests.harness import PATIENCE

TOKENS = {
    (tenant, role): f"dalang_test_token_of_{role}_at_{tenant}"
    for tenant in ("acme", "globex")
    for role in ("viewer", "operator", "approver", "admin", "agent")
}
ENDED = ("COMPLETED", "FAILED", "CANCELLED")

gates: dict[str, asyncio.Event] = {}
"""Opened by tests; ``api-test-gate`` nodes wait for theirs."""
failing: set[str] = set()
"""Names on which ``api-test-flaky`` fails with an error that is worth another attempt."""


@node("api-test-echo")
async def echo(ctx: NodeContext, **inputs: Any) -> dict[str, Any]:
    """Answer the inputs."""
    return dict(ctx.inputs)


@node("api-test-gate")
def gate(ctx: NodeContext, name: str) -> dict[str, Any]:
    """Wait until the test opens the gate; ends when it is stopped."""
    while not gates[name].is_set():
        if ctx._stop.wait(0.02):
            break
    return {}


@node("api-test-flaky", endpoint="")  # no breaker: tests of retries want to see them all
def flaky(ctx: NodeContext, name: str) -> dict[str, Any]:
    """Fail as long as the test says so."""
    if name in failing:
        raise NetworkError("the service is away")
    return {"attempt": ctx.attempt}


@node("api-test-broken")
def broken(ctx: NodeContext) -> dict[str, Any]:
    """Fail for good."""
    raise ToolError("it is broken", retryable=False)


@node("api-test-picky")
def picky(ctx: NodeContext, card: str) -> dict[str, Any]:
    """Take one card only."""
    if card != "4242":
        raise ToolError(f"the card {card} is refused", retryable=False)
    return {"receipt": card}


def chain(*types: str, name: str = "chain", **more: Any) -> dict[str, Any]:
    """A plan of nodes n1, n2, ... of these types, one after the other."""
    nodes = [{"nodeId": f"n{at}", "type": kind} for at, kind in enumerate(types, 1)]
    edges = [{"sourceNodeId": f"n{at}", "targetNodeId": f"n{at + 1}"} for at in range(1, len(types))]
    return {"name": name, "nodes": nodes, "edges": edges, **more}


class Api:
    """A client that carries a token."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def __call__(
        self, method: str, path: str, *, as_: tuple[str, str] | None = ("acme", "operator"), **more: Any
    ) -> httpx.Response:
        headers = dict(more.pop("headers", {}))
        if as_ is not None:
            headers["Authorization"] = f"Bearer {TOKENS[as_]}"
        return await self.client.request(method, path, headers=headers, **more)

    async def get(self, path: str, **more: Any) -> Any:
        """GET something that must be there; return its JSON."""
        response = await self("GET", path, **more)
        assert response.status_code == 200, response.text
        return response.json()

    async def execute(self, plan: dict[str, Any] | None = None, **body: Any) -> str:
        """Start a run; return its id."""
        headers = body.pop("headers", {})
        if plan is not None:
            body["plan"] = plan
        response = await self("POST", "/orchestrator/execute", json=body, headers=headers)
        assert response.status_code == 202, response.text
        return str(response.json()["runId"])

    async def ended(self, run_id: str) -> dict[str, Any]:
        """Wait for the run's end by its event stream, which ends with it; return the run."""
        async with asyncio.timeout(PATIENCE):
            response = await self("GET", f"/orchestrator/runs/{run_id}/events/stream")
            assert response.status_code in (200, 204), response.text
        run: dict[str, Any] = await self.get(f"/orchestrator/runs/{run_id}")
        assert run["status"] in ENDED, run
        return run

    async def reached(self, run_id: str, node_id: str, status: str) -> dict[str, Any]:
        """Wait until a node has this status; return the node."""
        async with asyncio.timeout(PATIENCE):
            while True:
                response = await self("GET", f"/orchestrator/runs/{run_id}/nodes/{node_id}")
                assert response.status_code == 200, response.text
                if response.json()["status"] == status:
                    found: dict[str, Any] = response.json()
                    return found
                await asyncio.sleep(0.05)


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """Return the problem that a request was answered with."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    content: dict[str, Any] = response.json()
    assert {"type", "title", "status", "instance"} <= content.keys()
    assert content["status"] == status
    assert "Traceback" not in response.text
    return content
