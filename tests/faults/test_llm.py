"""A conversation with a language model whose worker is killed in the middle."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from dalang.settings import Settings
from tests.engine.kit import Started, body_of
from tests.faults.site import RETRY, site, until
from tests.harness import PATIENCE
from tests.model_peer import models_file, provider


async def until_kept(started: Started, number: int) -> None:
    """Wait until Temporal has the checkpoint with this number."""
    async with asyncio.timeout(PATIENCE):
        while True:
            for one in (await started.handle.describe()).raw_description.pending_activities:
                details = await started.engine.client.data_converter.decode(one.heartbeat_details.payloads)
                if len(details) > 1 and details[1]["number"] >= number:
                    return
            await asyncio.sleep(0.05)


@pytest.mark.soak
async def test_another_worker_goes_on_with_the_conversation(settings: Settings, folder: Path, tmp_path: Path) -> None:
    """kill -9 while a tool works: the model is not asked again for what it has said, and the tool has the same key."""
    with provider() as peer:
        own = settings.model_copy(update={"models_file": str(models_file(tmp_path, peer))})
        async with site(own, folder) as workers:
            gate = folder / "gate"
            effect = {"folder": str(folder), "gate": str(gate)}
            node = {
                "nodeId": "ask",
                "type": "llm",
                "inputs": {
                    "model": "openai-compatible:calling",
                    "prompt": json.dumps([["t-key", {"x": 1}], ["f-effect", effect]]),
                    "tools": ["t-key", "f-effect"],
                },
                "retryPolicy": RETRY,
                "timeouts": {"heartbeat": "2s"},
            }
            started = await workers.start({"nodes": [node]})
            await until(lambda: "ask" in workers.effects.asked(started.run_id))
            await until_kept(started, 3)
            await workers.stack.kill("worker")
            gate.touch()
            await workers.stack.start("worker")
            end = await started.end()
            attempts = workers.effects.asked(started.run_id)["ask"]
            outputs = body_of(end, "NODE_COMPLETED", "ask")["outputs"]
    assert [attempt for attempt, _ in attempts] == [1, 2]
    assert len({pid for _, pid in attempts}) == 2
    assert peer.count("calling") == outputs["llm"]["requests"] == 3
    assert [one["tool"] for one in outputs["llm"]["toolCalls"]] == ["t-key", "f-effect"]
