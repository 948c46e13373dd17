"""The example of a Runtime Hub, done by the real API of the same machine."""

from __future__ import annotations

from pathlib import Path

from dalang.loading import load_plan
from dalang.settings import Settings
from dalang.stack.ports import free_port
from dalang.store.engine import system_transaction
from dalang.store.tokens import create_token
from tests.engine.agents import served
from tests.engine.kit import TENANT, engine
from tests.harness import ROOT


async def test_the_runtime_hub_example_is_done_by_the_api(settings: Settings, tmp_path: Path) -> None:
    """Its token is a secret of the worker; the task is a run of the tenant that the token belongs to."""
    secrets = tmp_path / "secrets"
    settings = settings.model_copy(update={"api_port": free_port(), "secrets_dir": str(secrets)})
    plan = load_plan((ROOT / "examples/runtime-hub.yaml").read_bytes()).require()
    async with engine(settings) as running, served(settings):
        async with system_transaction(running.db) as conn:
            token, _ = await create_token(conn, "other", "hub", ["operator"])
        (secrets / TENANT).mkdir(parents=True)
        (secrets / TENANT / "hub-token").write_text(token)
        inputs = {"hub": f"http://127.0.0.1:{settings.api_port}", "text": "Selamat"}
        ended = await (await running.start_plan(plan, inputs)).end()
    assert ended["result"]["outputs"] == {"text": "Selamat"}
    assert token not in str(ended)
