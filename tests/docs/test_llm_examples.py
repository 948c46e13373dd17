"""The examples of language models, with the server that stands in for one."""

from __future__ import annotations

import runpy
import threading
from collections.abc import AsyncIterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

import dalang.demo  # noqa: F401 - registers the tool
from dalang.loading import load_plan
from dalang.settings import Settings
from dalang.validation import with_input_defaults
from tests.engine.kit import Engine, engine
from tests.harness import ROOT

EXAMPLES = ROOT / "examples"


@pytest.fixture
async def running(settings: Settings, tmp_path: Path) -> AsyncIterator[Engine]:
    """A worker with the models of the example's file, which are served on another port."""
    handler = runpy.run_path(str(EXAMPLES / "model_server.py"))["Model"]
    handler.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        models = (EXAMPLES / "llm-models.yaml").read_text()
        assert "127.0.0.1:8600" in models
        (tmp_path / "models.yaml").write_text(models.replace("8600", str(server.server_port)))
        async with engine(settings.model_copy(update={"models_file": str(tmp_path / "models.yaml")})) as ready:
            yield ready
        server.shutdown()


async def test_the_llm_examples(running: Engine) -> None:
    """A complaint is sorted and answered; a text is judged, and written once more."""
    expected = {
        "llm.yaml": {
            "answer": "We are sorry: your order is 1 days late. You get your money back.",
            "urgent": True,
        },
        "llm-review.yaml": {"verdict": "pass"},
    }
    for name, outputs in expected.items():
        plan = load_plan((EXAMPLES / name).read_bytes(), name=name).require()
        ended = await (await running.start_plan(plan, dict(with_input_defaults(plan, {})))).end()
        assert ended["run"]["status"] == "COMPLETED", ended["run"]
        assert outputs.items() <= ended["result"]["outputs"].items()
    assert ended["nodes"]["rewrite"]["status"] == "SUCCESS"
