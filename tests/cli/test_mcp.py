"""``dalang mcp``: the tools on stdin and stdout, by the real client, on a real stack."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from dalang.stack.supervisor import Stack
from tests.cli.conftest import Dalang
from tests.harness import ROOT


def server(home: Path) -> StdioServerParameters:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DALANG_")}
    given = {**environment, "PYTHONPATH": str(ROOT), "DALANG_HOME": str(home)}
    return StdioServerParameters(command=sys.executable, args=["-m", "dalang.cli", "mcp"], env=given)


async def test_a_run_is_started_and_watched(running: Stack) -> None:
    """With the token of the stack's folder; while it waits, the tool tells how far the run is."""
    plan = {"name": "from-a-model", "nodes": [{"nodeId": "a", "type": "sleep", "inputs": {"duration": "1s"}}]}
    told: list[str] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    async with Client(server(running.settings.home), cache=None) as client:
        started = await client.call_tool("start_run", {"plan": plan}, meta={"dalang/idempotencyKey": "a-1"})
        again = await client.call_tool("start_run", {"plan": plan}, meta={"dalang/idempotencyKey": "a-1"})
        run = started.structured_content["runId"]
        assert again.structured_content["runId"] == run
        look = {"runId": run, "waitSeconds": 40}
        seen = await client.call_tool("get_run", look, progress_callback=progress)
    assert seen.structured_content["run"]["status"] == "COMPLETED"
    assert any("RUNNING" in one for one in told), told


def test_without_the_library(dalang: Dalang, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "mcp.server.context", None)
    monkeypatch.delitem(sys.modules, "dalang.mcp_server.serving", raising=False)
    found = dalang("mcp")
    assert found.code == 1
    assert "pip install 'dalang[mcp]'" in found.err
