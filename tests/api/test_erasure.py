"""A tenant's admin has everything of his erased, and gets a certificate."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI

from dalang.signing import Keyring, SignatureState, new_key
from tests.api.world import Api, chain, problem
from tests.harness import PATIENCE

ADMIN = ("acme", "admin")
ERASURE = "/orchestrator/erasure"


@pytest.mark.usefixtures("working")
async def test_a_tenant_is_erased_on_request(api: Api, app: FastAPI) -> None:
    """Not while runs go on, unless they are to be cancelled; then everything goes, and asking again says so."""
    services = app.state.services
    body = {"tenantId": "acme"}
    problem(await api("GET", ERASURE, as_=ADMIN), 404)
    problem(await api("POST", ERASURE, as_=ADMIN, json={"tenantId": "globex"}), 422)
    problem(await api("POST", ERASURE, as_=ADMIN, json=body), 409)  # without a private key nobody could prove it
    services.audit_keys = keys = Keyring.read(new_key())
    run_id = await api.execute(
        {"name": "waits", "nodes": [{"nodeId": "n1", "type": "sleep", "inputs": {"duration": "1h"}}]}
    )
    theirs = (
        await api("POST", "/orchestrator/execute", as_=("globex", "operator"), json={"plan": chain("noop")})
    ).json()
    await api("POST", "/orchestrator/artifacts", as_=ADMIN, content=b"x", headers={"Content-Type": "text/plain"})
    await api.reached(run_id, "n1", "RUNNING")
    assert "1 runs go on" in problem(await api("POST", ERASURE, as_=ADMIN, json=body), 409)["detail"]
    answer = await api("POST", ERASURE, as_=ADMIN, json={**body, "cancel": True})
    async with asyncio.timeout(PATIENCE):
        while answer.status_code == 202:
            assert answer.json()["state"] == "CANCELLING"
            await asyncio.sleep(0.05)
            answer = await api("POST", ERASURE, as_=ADMIN, json={**body, "cancel": True})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["state"], told["again"]) == ("ERASED", False)
    assert keys.check(told["certificate"], told["signature"]) is SignatureState.VALID
    assert {"run_events", "execution_runs", "artifacts", "node_executions"} <= told["certificate"]["erased"].keys()
    again = (await api("POST", ERASURE, as_=ADMIN, json=body)).json()
    assert again == {**told, "again": True}
    assert await api.get(ERASURE, as_=ADMIN) == told
    services.tokens._seen.clear()
    problem(await api("GET", "/orchestrator/runs"), 401)
    assert (await api.get("/orchestrator/runs", as_=ADMIN))["items"] == []
    await api.get(f"/orchestrator/runs/{theirs['runId']}", as_=("globex", "admin"))
