"""What tests of MCP tools share: the servers, what they heard, and which of their processes are left."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import psutil

from tests.harness import ROOT

PEER = ROOT / "tests" / "engine" / "mcp_peer.py"
EXAMPLE = ROOT / "examples" / "mcp_server.py"


def servers_file(folder: Path, **more: Any) -> dict[str, Any]:
    """The servers of these tests; what ``peer`` hears goes into the folder."""
    peer = {"command": sys.executable, "args": [str(PEER), str(folder)]}
    example = {"command": sys.executable, "args": [str(EXAMPLE)]}
    return {"mcpServers": {"peer": peer, "example": example, **more}}


def heard(folder: Path, method: str) -> list[dict[str, Any]]:
    """Return the messages with this method that the peer got."""
    lines = map(json.loads, (folder / "heard.jsonl").read_text().splitlines())
    return [one for one in lines if one.get("method") == method]


def alive(folder: Path) -> list[int]:
    """Return which processes of the peer are still there."""
    pids = map(int, (folder / "pids").read_text().split())
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
