"""The example of MCP tools with the servers of its file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dalang.loading import load_plan
from dalang.settings import Settings
from dalang.validation import with_input_defaults
from tests.engine.kit import engine
from tests.harness import ROOT

EXAMPLES = ROOT / "examples"


async def test_the_mcp_example_prints_a_programme(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker starts its server, twice."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    given = {**settings.model_dump(), "mcp_servers_file": str(EXAMPLES / "mcp-servers.yaml")}
    plan = load_plan((EXAMPLES / "mcp.yaml").read_bytes(), name="mcp.yaml").require()
    async with engine(Settings.of(given)) as running:
        ended = await (await running.start_plan(plan, dict(with_input_defaults(plan, {})))).end()
    assert ended["run"]["status"] == "COMPLETED", ended["run"]
    assert ended["result"]["outputs"] == {"words": 12, "file": "/programmes/rama-and-the-golden-deer.pdf"}
