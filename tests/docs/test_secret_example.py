"""The example of secrets, with its service on loopback."""

from __future__ import annotations

import runpy
import threading
from http.server import ThreadingHTTPServer

import pytest

from dalang.loading import load_plan
from dalang.settings import Settings
from dalang.validation import with_input_defaults
from tests.engine.kit import TENANT, body_of, engine
from tests.harness import ROOT


async def test_the_service_gets_the_token(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is recorded is its name."""
    monkeypatch.setenv("DALANG_SECRET_SHOP_TOKEN", "t0ken-of-the-shop")
    got: list[str] = []

    class Watched(runpy.run_path(str(ROOT / "examples/service.py"))["Shop"]):  # type: ignore[misc]
        def do_GET(self) -> None:
            got.append(self.headers["authorization"])
            super().do_GET()

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    plan = load_plan((ROOT / "examples/secret.yaml").read_bytes(), name="secret.yaml").require()
    allowed = settings.model_copy(update={"secrets_environment_tenants": (TENANT,)})
    with ThreadingHTTPServer(("127.0.0.1", 0), Watched) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        async with engine(allowed) as running:
            inputs = with_input_defaults(plan, {"service": f"http://127.0.0.1:{server.server_port}"})
            ended = await (await running.start_plan(plan, dict(inputs))).end()
        server.shutdown()
    assert ended["result"]["outputs"] == {"left": 3}
    assert set(got) == {"Bearer t0ken-of-the-shop"}
    recorded = body_of(ended, "NODE_STARTED", "stock")["inputs"]["headers"]
    assert recorded == {"Authorization": "Bearer {{secret://shop-token}}"}
