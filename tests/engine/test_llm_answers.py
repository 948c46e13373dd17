"""Models that answer in every way there is, each asked by the handler itself; the engine's part is in test_llm.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dalang.activities.execution import HandlerLoop, Recorder
from dalang.activities.llm import Llm
from dalang.activities.python import LocalFunctions
from dalang.activities.secrets import Vault
from dalang.llm_models import read_models
from dalang.nodes import NodeContext, NodeFailure, PolicyViolation, ToolError, agent, kept_nowhere, node, registry
from dalang.wire import NodeTask
from tests.engine import handlers  # noqa: F401 - registers t-key
from tests.model_peer import Peer, models_file

COLOUR = {"type": "object", "properties": {"colour": {"enum": ["green", "red"]}}, "required": ["colour"]}


@node("t-refuse")
def refuse(ctx: NodeContext, why: str = "closed") -> None:
    """Fail."""
    raise ToolError(why)


@agent("t-poet")
async def poet(ctx: NodeContext, subject: str) -> dict[str, str]:
    """Write a line."""
    return {"line": f"O {subject}!", "as": ctx.type}


class Guard(Recorder):
    """Lets nobody use one tool."""

    async def permit(self, task: NodeTask, attempt: int) -> dict[str, Any] | None:
        if task["type"] == "t-refuse":
            raise PolicyViolation("not this one")
        return None


class Asking:
    """Asks models of the provider."""

    def __init__(self, llm: Llm, loop: HandlerLoop) -> None:
        self._llm = llm
        self._local = LocalFunctions(registry, loop)
        self.ctx: Any = None
        self.left: Any = None
        """The last checkpoint."""

    async def __call__(
        self,
        model: str,
        recorder: Recorder | None = None,
        evaluator: bool = False,
        restored: Any = None,
        **inputs: Any,
    ) -> dict[str, Any]:
        named = model if ":" in model or model in ("priced", "theirs", "slow") else f"openai-compatible:{model}"
        inputs = {"model": named, "prompt": "hello", **inputs}
        task: Any = {"nodeId": "ask", "type": "llm", "startToCloseMs": 60_000, "inputs": inputs, "key": "k"}
        if evaluator:
            task["evaluator"] = True
        self.ctx = NodeContext("ask", "ask", "llm", "run", "us", inputs, "k", restored=restored, _keep=self._keep)
        return await self._llm.work(self.ctx, task, self._local, recorder or Recorder())

    def _keep(self, encoded: bytes) -> Any:
        self.left = json.loads(encoded)
        return kept_nowhere(encoded)

    async def failure(self, model: str, **inputs: Any) -> NodeFailure:
        with pytest.raises(NodeFailure) as failed:
            await self(model, **inputs)
        return failed.value


@pytest.fixture(scope="module")
async def ask(model_peer: Peer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asking]:
    models = read_models(models_file(tmp_path_factory.mktemp("models"), model_peer).read_bytes())
    llm, loop = Llm(lambda: models), HandlerLoop(4)
    yield Asking(llm, loop)
    await llm.close()
    loop.close()


async def test_a_text(ask: Asking, model_peer: Peer) -> None:
    """The answer, and who gave it; system and prompt arrive, with the key that the operator's file names."""
    outputs = await ask("echo", system="Be kind.", settings={"temperature": 0.5, "maxTokens": 9})
    assert outputs["text"] == "You said: hello"
    told = outputs["llm"]
    assert (told["model"], told["providerModel"], told["finishReason"]) == (
        "openai-compatible:echo",
        "echo-2026",
        "stop",
    )
    assert told["responseId"].startswith("chatcmpl-")
    assert told["requests"] == 1
    assert told["usage"]["totalTokens"] == ask.ctx._used["tokens"] > 0
    sent = model_peer.asked["echo"][-1]
    assert [one["content"] for one in sent["messages"]] == ["Be kind.", "hello"]
    assert (sent["temperature"], sent.get("max_completion_tokens", sent.get("max_tokens"))) == (0.5, 9)
    assert model_peer.keys[-1].startswith("/")  # the value of HOME


async def test_the_responses_api_of_openai(ask: Asking) -> None:
    """It is what the provider ``openai`` speaks; prices that are known become a cost."""
    outputs = await ask("openai:gpt-5-mini")
    assert outputs["text"] == "from the Responses API"
    assert outputs["llm"]["usage"] == {
        "inputTokens": 10,
        "outputTokens": 5,
        "cachedTokens": 4,
        "totalTokens": 15,
        "cost": ask.ctx._used["cost"],
    }


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("rate-limit", "RATE_LIMIT"),
        ("too-long", "CONTEXT_LENGTH"),
        ("error-500", "PROVIDER_ERROR"),
        ("refusal", "REFUSAL"),
        ("cut-short", "CUT_SHORT"),
        ("half-filtered", "CONTENT_FILTER"),
        ("failed", "PROVIDER_ERROR"),
    ],
)
async def test_what_goes_wrong_in_the_responses_api(ask: Asking, model: str, reason: str) -> None:
    """The reasons are the same."""
    failure = await ask.failure(f"openai:{model}")
    assert (failure.type, failure.details["reason"]) == ("LLM_ERROR", reason)


async def test_a_schema_in_the_responses_api(ask: Asking) -> None:
    """The answer is the arguments of a tool, too."""
    assert (await ask("openai:gpt-5-mini", schema=COLOUR))["colour"] == "green"


async def test_prices_of_the_operator(ask: Asking) -> None:
    """A million tokens cost what the file says."""
    usage = (await ask("priced"))["llm"]["usage"]
    cost = (usage["inputTokens"] * 1000 + usage["outputTokens"] * 2000) / 1_000_000
    assert usage["cost"] == ask.ctx._used["cost"] == pytest.approx(cost)


@pytest.mark.parametrize(
    ("model", "kind", "reason", "retryable"),
    [
        ("rate-limit", "LLM_ERROR", "RATE_LIMIT", True),
        ("quota", "LLM_ERROR", "QUOTA", False),
        ("too-long", "LLM_ERROR", "CONTEXT_LENGTH", False),
        ("filtered-prompt", "LLM_ERROR", "CONTENT_FILTER", False),
        ("bad-request", "LLM_ERROR", "REJECTED", False),
        ("no-such-model", "LLM_ERROR", "MODEL_NOT_FOUND", False),
        ("wrong-key", "LLM_ERROR", "AUTHENTICATION", False),
        ("error-500", "LLM_ERROR", "PROVIDER_ERROR", True),
        ("error-503", "LLM_ERROR", "UNAVAILABLE", True),
        ("overloaded", "LLM_ERROR", "UNAVAILABLE", True),
        ("refusal", "LLM_ERROR", "REFUSAL", False),
        ("filtered-answer", "LLM_ERROR", "CONTENT_FILTER", False),
        ("half-filtered", "LLM_ERROR", "CONTENT_FILTER", False),
        ("cut-short", "LLM_ERROR", "CUT_SHORT", False),
        ("truncated", "NETWORK_ERROR", "UNREACHABLE", True),
        ("dropped", "NETWORK_ERROR", "UNREACHABLE", True),
        ("rubbish", "LLM_ERROR", "BAD_RESPONSE", True),
        ("no-json", "LLM_ERROR", "BAD_RESPONSE", True),
    ],
)
async def test_what_goes_wrong_has_its_reason(
    ask: Asking, model_peer: Peer, model: str, kind: str, reason: str, retryable: bool
) -> None:
    """One request each: the retries are the node's, and none of the library's. Nothing has changed outside."""
    before = model_peer.count(model)
    failure = await ask.failure(model)
    assert (failure.type, failure.details["reason"], failure.retryable) == (kind, reason, retryable)
    assert failure.details["model"] == model
    assert (failure.suggested_action == "HUMAN_REVIEW") is (reason in ("REFUSAL", "CONTENT_FILTER"))
    assert failure.no_effect
    assert model_peer.count(model) == before + 1


async def test_what_a_provider_says(ask: Asking) -> None:
    """For how long it wants to be left alone, its status and code, its words; never the key, which it may repeat."""
    failure = await ask.failure("rate-limit")
    assert (failure.retry_after, failure.details["status"]) == (1.0, 429)
    assert failure.details["providerCode"] == "rate_limit_exceeded"
    assert failure.message == "429: Slow down."
    assert (await ask.failure("wrong-key")).message == "401: Incorrect API key provided: ***."
    assert "I will not do that" in (await ask.failure("refusal")).message


async def test_nobody_answers_in_time(ask: Asking) -> None:
    """The request's own timeout."""
    failure = await ask.failure("hanging", timeout="100ms")
    assert (failure.type, failure.retryable, failure.details["reason"]) == ("TIMEOUT", True, "TIMEOUT")


async def test_an_answer_by_a_schema(ask: Asking, model_peer: Peer) -> None:
    """What does not fit goes back with what is wrong, so often; then the node fails."""
    outputs = await ask("wrong-first", schema=COLOUR)
    assert (outputs["colour"], outputs["llm"]["requests"]) == ("green", 2)
    feedback = json.dumps(model_peer.asked["wrong-first"][-1]["messages"])
    assert "At /colour: This is one of 'green', 'red', not 'loud'." in feedback
    failure = await ask.failure("always-wrong", schema=COLOUR, outputRetries=1)
    assert (failure.type, failure.details["reason"], failure.retryable) == ("LLM_ERROR", "BAD_OUTPUT", True)
    assert "/colour" in failure.message
    assert model_peer.count("always-wrong") == 2
    assert ask.ctx._used["tokens"] > 0, "what was of no use was paid for all the same"


async def test_an_answer_has_nothing_beside_what_was_asked(ask: Asking) -> None:
    """Outputs become inputs: a model must not give the next node tools."""
    outputs = await ask("smuggling", schema=COLOUR)
    assert set(outputs) == {"colour", "llm"}
    assert outputs["llm"]["requests"] == 2


@pytest.mark.parametrize("mode", ["native", "prompt"])
async def test_other_ways_to_ask_for_a_schema(ask: Asking, model_peer: Peer, mode: str) -> None:
    """For models without tools: the provider's own, or in the prompt."""
    assert (await ask("in-words", schema=COLOUR, mode=mode))["colour"] == "green"
    wanted = model_peer.asked["in-words"][-1]["response_format"]["type"]
    assert wanted == ("json_schema" if mode == "native" else "json_object")


async def test_half_an_answer(ask: Asking) -> None:
    """What was cut off in the middle of its JSON is not repeated: it would be cut off again."""
    failure = await ask.failure("half-an-answer", schema=COLOUR)
    assert (failure.details["reason"], failure.retryable) == ("CUT_SHORT", False)


async def test_a_verdict(ask: Asking) -> None:
    """An evaluator needs no schema of its own."""
    outputs = await ask("good", evaluator=True, prompt="too short")
    assert (outputs["verdict"], outputs["reason"]) == ("replan", "2 words")


async def test_tools_are_called_under_keys_that_stay_the_same(ask: Asking) -> None:
    """A call has its key from the tool and its arguments; one that failed has the same when it is made again."""
    calls = [["t-key", {"x": 1}], ["t-key", {"x": 2}], ["t-key", {"x": 1}], ["poet", {"subject": "tea"}]]
    tools = ["t-key", {"agent": "t-poet", "name": "poet"}]
    first = await ask("calling", prompt=json.dumps(calls), tools=tools)
    keys = first["text"].split(" | ")
    assert keys[3] == '{"line":"O tea!","as":"agent"}'
    assert len(set(keys)) == 4
    assert all(key.startswith("k:tool:") for key in keys[:3])
    assert keys[0][:-1] == keys[2][:-1], "the same work for the second time"
    assert [one["tool"] for one in first["llm"]["toolCalls"]] == ["t-key", "t-key", "t-key", "poet"]
    assert ask.ctx._used["tokens"] == first["llm"]["usage"]["totalTokens"] + 30
    again = await ask("calling", prompt=json.dumps(calls[1:2] + calls[:1]), tools=tools)
    assert again["text"].split(" | ") == [keys[1], keys[0]], "another attempt, in another order"


async def test_the_same_call_twice_at_once(ask: Asking) -> None:
    """It is two."""
    calls = (await ask("twice", tools=["t-key"]))["llm"]["toolCalls"]
    assert sorted(one["key"][-1] for one in calls) == ["0", "1"]


async def test_a_tool_that_fails(ask: Asking) -> None:
    """The model is told, or the node fails with the tool's error; arguments that do not fit are the model's to mend."""
    calls = json.dumps([["t-refuse", {}], ["t-refuse", {"wy": 1}], ["t-refuse", {"why": "late"}]])
    outputs = await ask("calling", prompt=calls, tools=["t-refuse"])
    closed, unfit, late = outputs["text"].split(" | ")
    assert ("TOOL_ERROR: closed" in closed, "wy" in unfit, "TOOL_ERROR: late" in late) == (True, True, True)
    assert [one["failed"] for one in outputs["llm"]["toolCalls"]] == [True, True]
    failure = await ask.failure("calling", prompt=calls, tools=["t-refuse"], toolErrors="fail")
    assert (failure.type, failure.message, failure.no_effect) == ("TOOL_ERROR", "closed", False)


async def test_a_tool_that_the_operator_forbids(ask: Asking) -> None:
    """Policies are asked about a call as about a node of its type; the node fails, whatever else a model would do."""
    failure = await ask.failure("calling", prompt='[["t-refuse", {}]]', tools=["t-refuse"], recorder=Guard())
    assert failure.type == "POLICY_VIOLATION"


async def test_a_model_that_never_comes_to_an_end(ask: Asking) -> None:
    """So many requests, and no more."""
    calls = json.dumps([["t-key", {"x": 1}]] * 9)
    failure = await ask.failure("calling", prompt=calls, tools=["t-key"], maxRequests=3)
    assert (failure.details["reason"], failure.retryable) == ("TOO_MANY_REQUESTS", False)
    assert not failure.no_effect


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"prompt": ""}, "`prompt` is missing"),
        ({"model": "slow"}, "there is no model 'slow'; there are priced, theirs, openai-compatible:<model>"),
        ({"model": "theirs"}, "the key of the model is not there: secret://model-key"),
        ({"tools": ["nowhere"]}, "no node type 'nowhere'"),
        ({"schema": {"type": "array"}}, "schema/type"),
        ({"settings": {"temperature": "hot"}}, "settings/temperature"),
    ],
)
async def test_inputs_that_cannot_be(ask: Asking, inputs: dict[str, Any], words: str) -> None:
    """Nothing is asked."""
    failure = await ask.failure(**{"model": "echo", **inputs})
    assert (failure.type, failure.retryable, failure.no_effect) == ("VALIDATION_ERROR", False, True)
    assert words in failure.message


async def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    import importlib

    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    llm = Llm(lambda: read_models("default: openai:x"))
    monkeypatch.setattr(importlib, "import_module", missing)
    inputs = {"prompt": "x"}
    ctx = NodeContext("ask", "ask", "llm", "run", "us", inputs, "k")
    task: Any = {"nodeId": "ask", "type": "llm", "startToCloseMs": 1000, "inputs": inputs, "key": "k"}
    loop = HandlerLoop(1)
    with pytest.raises(NodeFailure, match=r"pip install 'dalang\[llm\]'"):
        await llm.work(ctx, task, LocalFunctions(registry, loop), Recorder())
    loop.close()


async def test_whoever_hangs_up_is_heard(ask: Asking, model_peer: Peer) -> None:
    """A cancelled node breaks its request off."""
    model_peer.waiting.clear()
    model_peer.gone.clear()
    asking = asyncio.create_task(ask("hanging"))
    assert await asyncio.to_thread(model_peer.waiting.wait, 10)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await asyncio.to_thread(model_peer.gone.wait, 10)


async def test_the_next_attempt_goes_on_with_the_conversation(ask: Asking, model_peer: Peer) -> None:
    """Interrupted by a provider that is away, it asks for what is left; answers and tools are not paid for twice."""
    calls = json.dumps([["t-key", {"x": 1}], ["t-key", {"x": 1}], ["t-key", {"x": 3}]])
    failure = await ask.failure("calling@away", prompt=calls, tools=["t-key"])
    assert failure.details["reason"] == "UNAVAILABLE"
    first, kept = dict(ask.ctx._used), ask.left
    outputs = await ask("calling@away", restored=kept, prompt=calls, tools=["t-key"])
    keys = outputs["text"].split(" | ")
    assert [key[-1] for key in keys] == ["0", "1", "0"]
    assert model_peer.count("calling@away") == 5, "four answers, and one 503"
    assert outputs["llm"]["requests"] == 4
    assert ask.ctx._used["tokens"] + first["tokens"] == outputs["llm"]["usage"]["totalTokens"] + 30
    assert calls not in json.dumps(kept), "the question may hold secrets"


async def test_a_conversation_about_something_else_is_not_gone_on_with(ask: Asking, model_peer: Peer) -> None:
    """Nor is one that led to a failure."""
    calls = json.dumps([["t-key", {"x": 1}]])
    await ask("calling", prompt=calls, tools=["t-key"])
    before = model_peer.count("calling")
    await ask("calling", restored=ask.left, prompt=calls, tools=["t-key"], system="Now be brief.")
    assert model_peer.count("calling") == before + 2
    await ask.failure("calling", prompt=json.dumps([["t-key", {"x": 1}]] * 5), tools=["t-key"], maxRequests=2)
    assert ask.left is None


async def test_the_key_is_a_secret_of_the_tenant(ask: Asking, model_peer: Peer, tmp_path: Path) -> None:
    """Each tenant opens the model with its own."""
    (tmp_path / "us").mkdir()
    (tmp_path / "us" / "model-key").write_text("sk-of-us\n")
    await ask("theirs", recorder=Recorder(vault=Vault(tmp_path)))
    assert model_peer.keys[-1] == "sk-of-us"
