"""Decisions past the API: signals and updates as the ``temporal`` command line sends them, with and without a token."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError

from dalang.launch import require_keys
from dalang.settings import Settings, SettingsError
from dalang.signing import Keyring, new_key
from tests.api.test_human_decisions import asked, decision, review
from tests.api.test_human_tasks import APPROVER, TASKS, member
from tests.api.world import Api, problem


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """An installation with keys that lets only those decide who prove who they are."""
    path = tmp_path / "keys.pem"
    path.write_text(new_key())
    return settings.model_copy(update={"audit_key_file": str(path), "production": True})


async def facts(api: Api, run_id: str, kind: str) -> list[dict[str, Any]]:
    """Return the data of a run's events of one type."""
    page = await api.get(f"/orchestrator/runs/{run_id}/events", params={"type": kind})
    return [one["data"] for one in page["items"]]


async def sent(handle: WorkflowHandle[Any, Any], line: str, **more: Any) -> None:
    """Send what a command line of ``temporal`` would send, with more in its input."""
    words = shlex.split(line)
    assert words[:3] == ["temporal", "workflow", "signal"]
    assert words[words.index("--workflow-id") + 1] == handle.id
    await handle.signal(words[words.index("--name") + 1], {**json.loads(words[-1]), **more})


@pytest.mark.usefixtures("working")
async def test_a_token_decides_and_a_name_does_not(app: FastAPI, api: Api, temporal_client: Client) -> None:
    """The run records every try; with the token it is the approver who decided, and nobody takes his name."""
    run_id, task = await asked(api, review(candidateGroup="managers", fourEyes=True))
    address, handle = f"{TASKS}/{task['taskId']}", temporal_client.get_workflow_handle(f"run-{run_id}")
    ann = await member(app, api, "ann", "managers")
    zoe = await member(app, api, "zoe", "lawyers")
    claim = {"taskId": task["taskId"], "action": "approve", "operator": "ann", "groups": ["managers"]}
    await handle.signal("complete_human_task", claim)
    for name, payload in (
        ("complete_human_task", claim),
        ("skip_node", {"nodeId": "ask", "outputs": {}, "operator": "ann"}),
        ("replan", {"patch": {"removeNodes": ["ask"]}}),
    ):
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await handle.execute_update(name, payload)
        assert "nobody knows who asks" in str(refused.value.cause)
    await handle.execute_update("pause", {"operator": "ann"})
    await handle.execute_update("resume", {})

    problem(await zoe("POST", f"{address}/approval-token", json={}), 403)
    starter = await member(app, api, "operator@acme", "managers", role="operator")
    problem(await starter("POST", f"{address}/approval-token", json={}), 403)
    problem(await api("POST", f"{address}/approval-token", json={"validFor": "25h"}, as_=APPROVER), 422)
    stale = problem(await ann("POST", f"{address}/approval-token", json={"digest": "0" * 64}), 409)
    assert "changed" in stale["detail"]
    made = (await ann("POST", f"{address}/approval-token", json={"validFor": "1m"})).json()
    assert (made["subject"], made["digest"]) == ("ann", task["digest"])
    await sent(handle, made["commands"]["approve"], operator="zoe")
    await sent(handle, made["commands"]["approve"], notes="from my terminal")
    run = await api.ended(run_id)
    assert run["outputs"]["said"]["decidedBy"] == "ann"
    rejected = [one["reason"] for one in await facts(api, run_id, "REQUEST_REJECTED")]
    assert ["nobody knows" in rejected[0], "another operator" in rejected[1]] == [True, True]
    assert [one["operator"] for one in await facts(api, run_id, "PLAN_PAUSED")] == ["unauthenticated:ann"]
    assert (await facts(api, run_id, "PLAN_RESUMED"))[0]["operator"] == "unauthenticated"
    done = await api.get(address)
    assert (done["completedBy"], done["notes"]) == ("ann", "from my terminal")
    page = await api.get(f"/orchestrator/runs/{run_id}/events")
    actors = {one["type"]: one["actor"] | {"tags": one["tags"], "before": one["context"]} for one in page["items"]}
    told = {"tags": ["human-task"], "before": {"runStatus": "AWAITING_HITL"}}
    assert actors["HITL_TASK_COMPLETED"] == {"type": "human", "id": "ann", "role": "approver", **told}
    assert actors["PLAN_PAUSED"]["role"] == "unauthenticated"
    assert (actors["PLAN_VALIDATED"]["id"], actors["NODE_STARTED"]["type"]) == ("operator@acme", "system")
    late = problem(await ann("POST", f"{address}/approval-token", json={}), 409)
    assert "ann decided approve" in late["detail"]


@pytest.mark.usefixtures("working")
async def test_what_the_api_does_is_signed(api: Api) -> None:
    """Every control and decision of the API goes through where a signature is needed."""
    run_id, task = await asked(api, review())
    address = f"/orchestrator/runs/{run_id}"
    for path, body in (("pause", {}), ("resume", {}), ("nodes/shelve/skip", {"reason": "no need"})):
        done = await api("POST", f"{address}/{path}", json=body)
        assert done.status_code == 200, done.text
    done = await api("PATCH", f"{address}/budget", json={"tokens": 5, "reason": "more"})
    assert done.status_code == 200, done.text
    patch = {"updateNodes": [{"nodeId": "publish", "description": "for all"}]}
    done = await api("POST", f"{address}/replan", json={"patch": patch})
    assert done.status_code in (200, 422), done.text
    assert "nobody knows" not in done.text
    done = await api("POST", f"{TASKS}/{task['taskId']}/claim", json={}, as_=APPROVER)
    assert done.status_code == 200, done.text
    done = await api("POST", f"{TASKS}/{task['taskId']}/approve", json=decision(task), as_=APPROVER)
    assert done.status_code == 200, done.text
    assert (await api.ended(run_id))["outputs"]["said"]["decidedBy"] == "approver@acme"


def test_nobody_begins_runs_that_nobody_could_decide(settings: Settings) -> None:
    """In production an API without a private key ends before it listens, and so does a worker without any."""
    private = Keyring.read(new_key())
    public = Keyring.of_public(private.public_keys)
    require_keys(settings, private, signs=True)
    require_keys(settings, public, signs=False)
    for keys, signs in ((public, True), (Keyring(), False)):
        with pytest.raises(SettingsError, match="DALANG_AUDIT_KEY_FILE"):
            require_keys(settings, keys, signs=signs)
    require_keys(settings.model_copy(update={"require_authenticated": False}), Keyring(), signs=True)
