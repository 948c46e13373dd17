"""Episodes over REST: what real runs did is found."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from tests.api.world import Api, chain, problem
from tests.engine.remembering import visible

EPISODES = "/orchestrator/episodes"
VIEWER = ("acme", "viewer")


@pytest.mark.usefixtures("working")
async def test_what_runs_did_is_found(api: Api, app: FastAPI) -> None:
    """By name, outcome and inputs, for the run's tenant only; a query that is none is refused."""
    plan = chain("api-test-echo", "api-test-broken", name="letters")
    plan["nodes"][0] |= {"name": "Write a letter", "inputs": {"to": "Aunt Agatha"}}
    run_id = await api.execute(plan)
    await api.ended(run_id)
    await visible(app.state.services.engine)
    items = (await api.get(f"{EPISODES}?q=write+agatha", as_=VIEWER))["items"]
    assert [(one["runId"], one["nodeId"], one["name"]) for one in items] == [(run_id, "n1", "Write a letter")]
    assert items[0]["inputs"] == items[0]["outputs"] == {"to": "Aunt Agatha"}
    assert items[0]["score"] > 0
    failed = (await api.get(f"{EPISODES}?outcome=FAILED"))["items"]
    assert [(one["nodeId"], one["error"]["type"]) for one in failed] == [("n2", "TOOL_ERROR")]
    assert len((await api.get(EPISODES))["items"]) == 2
    assert (await api.get(EPISODES, as_=("globex", "viewer")))["items"] == []
    problem(await api("GET", f"{EPISODES}?limit=0"), 422)
    problem(await api("GET", f"{EPISODES}?words=x"), 422)
