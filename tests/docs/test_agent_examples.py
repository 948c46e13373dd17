"""The example plan for agents, done by the example program that asks for work, over the real API."""

from __future__ import annotations

from pathlib import Path

from dalang.loading import load_plan
from dalang.settings import Settings
from dalang.stack.ports import free_port
from dalang.store.engine import system_transaction
from dalang.store.pools import limited_names
from dalang.store.tokens import create_token
from tests.engine.agents import agents_of, program, served
from tests.engine.kit import TENANT, engine
from tests.harness import ROOT


async def test_the_agents_example_is_done_by_the_example_agent(settings: Settings, tmp_path: Path) -> None:
    """Two of them are there; the second node stays with whoever did the first."""
    settings = settings.model_copy(update={"api_port": free_port()})
    plan = load_plan((ROOT / "examples/agents.yaml").read_bytes()).require()
    async with engine(settings) as running, served(settings):
        async with system_transaction(running.db) as conn:
            plain, _ = await create_token(conn, TENANT, "agents", ["agent"])
        token = tmp_path / "token"
        token.write_text(plain)
        script = [ROOT / "examples/poll_agent.py", "--api", f"http://127.0.0.1:{settings.api_port}"]
        script += ["--token-file", token, "--capability", "research", "--capability", "summarizing"]
        async with program(*script, "--id", "ada"), program(*script, "--id", "bob"):
            async with system_transaction(running.db) as conn:
                limits = await limited_names(conn, TENANT)
            end = await (await running.start_plan(plan, {"text": "one two three"}, limits=limits)).end()
    assert end["result"]["outputs"] == {"words": 3, "by": agents_of(end, "research")[0]}
    assert agents_of(end, "research") == agents_of(end, "summarize")
