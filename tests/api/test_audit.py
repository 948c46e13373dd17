"""Verifying all runs, anchors and keys by REST."""

from __future__ import annotations

from pathlib import Path

import pytest

from dalang.settings import Settings
from dalang.signing import new_key
from tests.api.world import Api, chain, problem

AUDIT = "/orchestrator/audit"


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """With a key, as `dalang up` makes one."""
    key = tmp_path / "key.pem"
    key.write_text(new_key())
    return settings.model_copy(update={"audit_key_file": str(key)})


@pytest.mark.usefixtures("working")
async def test_signed_runs_are_verified_and_anchored(api: Api) -> None:
    """One by one with what Temporal holds, all of them, and their anchors; by role, and by tenant."""
    runs = [await api.execute(chain("noop")) for _ in range(2)]
    for run_id in runs:
        await api.ended(run_id)
    found = await api.get(f"/orchestrator/runs/{runs[0]}/verify")
    assert (found["valid"], found["signature"], found["temporal"]) == (True, "VALID", "MATCHES")
    [key] = (await api.get(f"{AUDIT}/keys"))["items"]
    assert key["signs"]
    made = (await api("POST", f"{AUDIT}/anchors", as_=("acme", "admin"))).json()["items"]
    assert [(one["number"], one["heads"]) for one in made] == [(1, 2)]
    assert (await api("POST", f"{AUDIT}/anchors", as_=("acme", "admin"))).json()["items"] == []
    problem(await api("POST", f"{AUDIT}/anchors"), 403)
    viewer = ("acme", "viewer")
    assert (await api.get(f"{AUDIT}/anchors", as_=viewer))["items"] == made
    assert (await api.get(f"{AUDIT}/anchors/verify", as_=viewer))["valid"]
    first = await api.get(f"{AUDIT}/verify", params={"limit": 1}, as_=viewer)
    rest = await api.get(f"{AUDIT}/verify", params={"cursor": first["next"]}, as_=viewer)
    assert (first["checked"], rest["checked"], rest["next"], first["items"] + rest["items"]) == (1, 1, None, [])
    assert (await api.get(f"/orchestrator/runs/{runs[1]}/verify"))["anchored"] == 1
    theirs = ("globex", "admin")
    assert (await api.get(f"{AUDIT}/anchors", as_=theirs))["items"] == []
    assert (await api.get(f"{AUDIT}/verify", as_=theirs))["checked"] == 0


async def test_what_is_no_cursor_is_refused(api: Api) -> None:
    """As in every list."""
    for path in ("verify", "anchors", "anchors/verify"):
        problem(await api("GET", f"{AUDIT}/{path}", params={"cursor": "x"}), 422)
