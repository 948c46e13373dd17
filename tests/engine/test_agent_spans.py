"""Spans of models and agents, as OpenTelemetry's conventions for generative AI have them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from dalang import tracing
from dalang.settings import Settings
from tests.e2e.collector import Outside, Seen, outside
from tests.engine.agents import Client, api, register, start, wants
from tests.engine.kit import Engine
from tests.model_peer import Peer


@pytest.fixture
def collector() -> Iterator[Outside]:
    """Where this process sends its traces, for the length of a test."""
    with outside() as it:
        tracing.start(Settings(otel_endpoint=it.address), "tests")
        yield it
        tracing.stop()


def _of(collector: Outside, operation: str) -> Seen:
    tracing.flush()
    (found,) = [one for one in collector.spans.values() if one.attributes.get("gen_ai.operation.name") == operation]
    return found


async def test_a_model_that_is_asked(shared_engine: Engine, model_peer: Peer, collector: Outside) -> None:
    """Which model, of whom, and how many tokens; not what was said. The request goes on with the trace."""
    inputs = {"model": "openai-compatible:echo", "prompt": "pssst"}
    end = await (await shared_engine.start({"nodes": [{"nodeId": "ask", "type": "llm", "inputs": inputs}]})).end()
    assert end["run"]["status"] == "COMPLETED"
    span = await asyncio.to_thread(_of, collector, "chat")
    assert (span.attributes["gen_ai.request.model"], span.attributes["gen_ai.response.model"]) == ("echo", "echo-2026")
    assert span.attributes["gen_ai.provider.name"]
    assert span.attributes["gen_ai.usage.input_tokens"] > 0
    assert span.attributes["gen_ai.usage.output_tokens"] > 0
    assert (span.attributes["dalang.node_id"], span.attributes["dalang.run_id"]) == ("ask", str(end["run"]["run_id"]))
    assert model_peer.traces[-1].split("-")[1:3] == [span.trace, span.id]
    assert "pssst" not in repr(collector.spans)


async def test_an_agent_that_asks_for_its_work(shared_engine: Engine, collector: Outside) -> None:
    """It is told the trace that its work belongs to."""
    await register(shared_engine, "spanned", capabilities={"p-span": 1})
    started = await start(shared_engine, wants("n", "p-span"))
    async with api(shared_engine) as http:
        one = await Client(http, "spanned").poll()
        await Client(http, "spanned").tell(one, "complete", usage={"tokens": 7})
    assert (await started.end())["run"]["status"] == "COMPLETED"
    span = await asyncio.to_thread(_of, collector, "invoke_agent")
    assert (span.name, span.attributes["gen_ai.agent.name"]) == ("invoke_agent spanned", "spanned")
    assert span.attributes["dalang.usage.tokens"] == 7
    assert one["nodeTask"]["traceparent"].split("-")[1:3] == [span.trace, span.id]
