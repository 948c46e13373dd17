"""Asking a model, until it has answered what was asked for. Imports the library, so it is imported late."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

from pydantic_ai import Agent, ModelRetry, NativeOutput, PromptedOutput, StructuredDict, Tool, ToolFailed
from pydantic_ai.exceptions import AgentRunError, UserError
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models.instrumented import InstrumentationSettings
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RunUsage, UsageLimits

from dalang import tracing
from dalang.activities.llm.errors import cut_short, failure_of
from dalang.activities.llm.providers import Providers
from dalang.activities.llm.resuming import Memo
from dalang.activities.llm.tools import BadArguments, Offer, Told, Toolbox
from dalang.canonical import find_unsafe
from dalang.llm_answers import episodes_text
from dalang.llm_inputs import RESERVED
from dalang.llm_models import NamedModel
from dalang.nodes import NodeContext, NodeFailure
from dalang.validation.bounded_schema import Budget, TooCostly, schema_errors
from dalang.validation.schema_sentences import sentence

if TYPE_CHECKING:
    from dalang.activities.llm import Question

SPARE_SECONDS = 60
"""How much longer than the attempt the HTTP client would wait: the wrapper ends it first."""
MAX_STEPS = 200_000
MAX_SENTENCES = 20

_providers = Providers()


async def close() -> None:
    """Close connections."""
    await _providers.close()


async def converse(
    ctx: NodeContext, question: Question, named: NamedModel, key: str | None, toolbox: Toolbox, attempt_ms: int
) -> dict[str, Any]:
    """Ask, and return the answer with what is known of how it came about.

    Raises:
        NodeFailure: there is no answer that can be used.
    """
    inputs = question.inputs
    agent = Agent(
        _providers.model(named, key),
        output_type=_output_type(question),
        instructions="\n\n".join(part for part in (question.system, episodes_text(ctx.episodes)) if part) or None,
        tools=[_tool(offer, toolbox) for offer in toolbox.offers(inputs.tools)],
        retries={"tools": inputs.output_retries, "output": inputs.output_retries},
        model_settings=_settings(question, named, attempt_ms),
    )
    traces = tracing.provider()
    if traces is not None:
        agent.instrument = InstrumentationSettings(tracer_provider=traces, include_content=False)
    _check_answers(agent, question)
    memo = Memo(ctx, question.prompt, toolbox) if inputs.tools else None
    left = memo.restored() if memo is not None else None
    messages, usage = left or (None, RunUsage())
    meter = _Meter(ctx, named, usage)
    ctx._made["model"] = {"name": inputs.model or f"{named.provider}:{named.model}", "provider": named.provider}
    ctx.progress(f"asking {inputs.model or 'the default model'}")
    try:
        limits = UsageLimits(request_limit=inputs.max_requests)
        prompt = question.prompt if messages is None else None
        async with agent.iter(prompt, message_history=messages, usage=usage, usage_limits=limits) as run:
            async for step in run:
                if meter.tell(usage):
                    ctx.progress(f"{usage.requests} requests, {usage.total_tokens} tokens")
                if memo is not None:
                    asked = [step.request] if Agent.is_model_request_node(step) else []
                    memo.keep([*run.all_messages(), *asked], usage)
        assert run.result is not None
        last, output = run.result.response, run.result.output
        ctx._made["model"] |= _answered_by(last, named)
    except NodeFailure as failure:  # of a tool
        failure.no_effect = failure.no_effect and len(toolbox.calls) == 1
        raise
    except (AgentRunError, UserError) as error:
        failed = failure_of(error, named, key, acted=bool(toolbox.calls))
        if memo is not None:
            memo.forget_after(failed)
        raise failed from None
    finally:
        meter.tell(usage)
    if isinstance(output, str):
        unfinished = cut_short(last, named, acted=bool(toolbox.calls))
        if unfinished is not None:
            if memo is not None:
                memo.forget_after(unfinished)
            raise unfinished
        output = {"text": output}
    return {**output, RESERVED: _provenance(inputs.model, named, last, usage, toolbox, meter.cost)}


class _Meter:
    """Tells the node's budget what was used, as soon as it is known."""

    def __init__(self, ctx: NodeContext, named: NamedModel, told: RunUsage) -> None:
        """``told`` is what attempts before have told already."""
        self._ctx = ctx
        self._prices = named.prices
        self._tokens = told.total_tokens
        self.cost = self._cost(told)

    def tell(self, usage: RunUsage) -> bool:
        """Tell what is new; return whether anything is."""
        known = self._cost(usage)
        tokens, cost = usage.total_tokens - self._tokens, (known or 0.0) - (self.cost or 0.0)
        self._tokens, self.cost = usage.total_tokens, known
        if tokens <= 0 and cost <= 0:
            return False
        self._ctx.usage(tokens=max(tokens, 0), cost=max(cost, 0.0))
        return True

    def _cost(self, usage: RunUsage) -> float | None:
        if self._prices is not None:
            return self._prices.cost(usage.input_tokens, usage.output_tokens)
        cost: Decimal | None = usage.cost
        return None if cost is None else float(cost)


def _output_type(question: Question) -> Any:
    if question.schema is None:
        return str
    answer = StructuredDict(question.schema)
    if question.inputs.mode == "native":
        return NativeOutput(answer)
    if question.inputs.mode == "prompt":
        return PromptedOutput(answer)
    return answer


def _settings(question: Question, named: NamedModel, attempt_ms: int) -> ModelSettings:
    # Retries are the node's: those of the SDK would be seen by nobody, and keep nobody's policy.
    settings = ModelSettings(max_retries=0, timeout=attempt_ms / 1000 + SPARE_SECONDS)
    settings.update(cast(ModelSettings, named.settings.given() | question.inputs.settings.given()))
    if question.inputs.timeout is not None:
        settings["request_timeout"] = question.inputs.timeout / 1000
    return settings


def _tool(offer: Offer, toolbox: Toolbox) -> Tool[None]:
    async def call(**arguments: Any) -> Any:
        try:
            return await toolbox.call(offer, arguments)
        except BadArguments as wrong:
            raise ModelRetry(str(wrong)) from None
        except Told as told:
            raise ToolFailed(str(told)) from None

    return Tool.from_schema(call, offer.name, offer.description, offer.parameters)


def _check_answers(agent: Agent[None, Any], question: Question) -> None:
    """Have each answer checked by its schema, and by what else was asked of it; the model hears what is wrong."""
    schema, check = question.schema, question.check
    if schema is None:
        return

    @agent.output_validator
    async def checked(answer: Any) -> Any:
        # In a thread: a large answer to a large schema takes a while.
        wrong = await asyncio.to_thread(_wrong, schema, answer)
        if wrong is None and check is not None:
            wrong = await asyncio.to_thread(check, answer)
        if wrong is not None:
            raise ModelRetry(wrong)
        return answer


def _wrong(schema: Mapping[str, Any], answer: Any) -> str | None:
    """Return what is wrong with an answer, in sentences for a model."""
    unsafe = find_unsafe(answer)
    if unsafe is not None:
        return f"At {unsafe[0] or '/'}: the value {unsafe[1]}."
    found: list[str] = []
    try:
        for error in schema_errors(schema, answer, Budget(MAX_STEPS)):
            _, steps, text = sentence(error)
            found.append(f"At /{'/'.join(map(str, steps))}: {text.replace('no such input', 'no such property')}")
            if len(found) >= MAX_SENTENCES:
                break
    except (TooCostly, RecursionError):
        return "The answer is too large to be checked."
    return "\n".join(found) or None


def _answered_by(last: ModelResponse, named: NamedModel) -> dict[str, Any]:
    return {
        "provider": last.provider_name or named.provider,
        "version": last.model_name or named.model,
        "responseId": last.provider_response_id,
    }


def _provenance(
    asked: str | None,
    named: NamedModel,
    last: ModelResponse,
    usage: RunUsage,
    toolbox: Toolbox,
    cost: float | None,
) -> dict[str, Any]:
    """Return who answered, by which answer, after how much."""
    told: dict[str, Any] = {
        "model": asked or f"{named.provider}:{named.model}",
        "provider": last.provider_name or named.provider,
        "providerModel": last.model_name or named.model,
        "responseId": last.provider_response_id,
        "finishReason": last.finish_reason,
        "requests": usage.requests,
        "usage": {
            "inputTokens": usage.input_tokens,
            "outputTokens": usage.output_tokens,
            **({"cachedTokens": usage.cache_read_tokens} if usage.cache_read_tokens else {}),
            "totalTokens": usage.total_tokens,
        },
    }
    if cost is not None:
        told["usage"]["cost"] = round(cost, 9)
    if toolbox.calls:
        told["toolCalls"] = [dict(call) for call in toolbox.calls]
    return told
