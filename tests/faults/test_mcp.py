"""Tools of MCP servers when the worker that calls one is killed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dalang.settings import Settings
from tests.engine.mcp_kit import PEER, alive, heard
from tests.faults.site import site, until


@pytest.mark.soak
async def test_a_call_is_made_again_by_another_worker_and_no_program_survives(
    settings: Settings, folder: Path, tmp_path: Path
) -> None:
    """kill -9 in the middle of a call to a program that ignores everything, and of one that would answer."""
    peer = {"command": sys.executable, "args": [str(PEER), str(tmp_path)]}
    (tmp_path / "servers.json").write_text(json.dumps({"mcpServers": {"peer": peer}}))
    given = {**settings.model_dump(), "mcp_servers_file": str(tmp_path / "servers.json")}
    async with site(Settings.of(given), folder) as workers:
        nodes = [
            {
                "nodeId": tool,
                "type": "mcp",
                "inputs": {"server": "peer", "tool": tool},
                "timeouts": {"heartbeat": "3s", "startToClose": "60s"},
                "retryPolicy": {"maxAttempts": 3, "initialDelayMs": 10},
            }
            for tool in ("stubborn", "hang")
        ]
        started = await workers.start({"nodes": nodes})
        await until(lambda: (tmp_path / "heard.jsonl").exists() and len(heard(tmp_path, "tools/call")) == 2)
        await until((tmp_path / "stubborn").exists)
        victims = alive(tmp_path)
        assert len(victims) == 3
        await workers.stack.kill("worker")
        await until(lambda: not set(victims) & set(alive(tmp_path)), 10)
        await workers.stack.start("worker")
        await until(lambda: len(heard(tmp_path, "tools/call")) == 4)
        calls = [one["params"] for one in heard(tmp_path, "tools/call")]
        keys = {(one["name"], one["_meta"]["dalang/idempotencyKey"]) for one in calls}
        assert keys == {(tool, f"{started.run_id}:{tool}:0:0") for tool in ("stubborn", "hang")}
        await started.handle.execute_update("cancel", {"operator": "kim"})
        assert (await started.end())["run"]["status"] == "CANCELLED"
        await until(lambda: not alive(tmp_path))
