"""Language models without a model: inputs, the operator's file, schemas of answers, and what failures mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dalang.activities.breakers import breaker_key, outcome_of
from dalang.activities.failures import next_delay
from dalang.activities.llm.tools import Toolbox, arguments_of, offer_of
from dalang.breaker import Outcome
from dalang.compilation import compile_plan
from dalang.errors import InvalidDocument
from dalang.llm_answers import REVISION_SCHEMA, VERDICT_SCHEMA, closed, planner_prompt, with_verdict
from dalang.llm_inputs import LlmInputs, LlmTool, problems_of
from dalang.llm_models import ANY, UnknownModel, read_models
from dalang.llm_reasons import Reason
from dalang.nodes import InvalidInput, NodeContext, Registration, Registry
from dalang.plan import Plan
from dalang.validation import validate
from dalang.validation.input_schema import schema_problems

FILE = """
default: fast
models:
  fast: {provider: openai, model: gpt-5-mini, apiKey: "env:SOME_KEY", settings: {temperature: 0}}
  theirs: {provider: openai-compatible, model: q, baseUrl: "http://10.0.0.1/v1", tenants: [them]}
providers:
  openai: {apiKey: "secret://openai"}
"""


def llm(inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "x", "nodes": [{"nodeId": "a", "type": "llm", "inputs": inputs}], **more}


# -- plans -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "pointer", "code"),
    [
        ({}, "", "MISSING_INPUT"),
        ({"prompt": "x", "apiKey": "sk-1"}, "/apiKey", "BAD_INPUT"),
        ({"prompt": "x", "baseUrl": "http://x"}, "/baseUrl", "BAD_INPUT"),
        ({"prompt": "x", "settings": {"temperature": -1}}, "/settings/temperature", "BAD_INPUT"),
        ({"prompt": "x", "settings": {"heat": 1}}, "/settings/heat", "BAD_INPUT"),
        ({"prompt": "x", "maxRequests": 0}, "/maxRequests", "BAD_INPUT"),
        ({"prompt": "x", "mode": "guess"}, "/mode", "BAD_INPUT"),
        ({"prompt": "x", "timeout": "soon"}, "/timeout", "BAD_INPUT"),
        ({"prompt": "x", "schema": {"type": "array"}}, "/schema/type", "BAD_INPUT"),
        ({"prompt": "x", "schema": {"properties": {"a": {"type": "txt"}}}}, "/schema/properties/a/type", "BAD_INPUT"),
        ({"prompt": "x", "schema": {"properties": {"llm": {}}}}, "/schema/properties/llm", "BAD_INPUT"),
        ({"prompt": "x", "tools": ["wrod-count"]}, "/tools/0", "UNKNOWN_HANDLER"),
        ({"prompt": "x", "tools": [{"node": "word-count", "agent": "a"}]}, "/tools/0", "BAD_INPUT"),
        ({"prompt": "x", "tools": [{"node": "word-count", "name": "a b"}]}, "/tools/0/name", "BAD_INPUT"),
        ({"prompt": "x", "promt": "y"}, "/promt", "IGNORED_INPUT"),
    ],
)
def test_what_is_wrong_with_a_node_is_told_when_its_plan_is_loaded(
    inputs: dict[str, Any], pointer: str, code: str
) -> None:
    """With its place; a key or an address in a plan is refused."""
    (problem,) = validate(llm(inputs), node_types=["word-count"]).problems
    assert (problem.pointer, problem.code) == (f"/nodes/0/inputs{pointer}", code)


@pytest.mark.parametrize(
    "inputs",
    [
        {"prompt": "${inputs.x}", "schema": "${inputs.y}", "tools": "${inputs.z}", "settings": {"seed": "${inputs.s}"}},
        {"prompt": "x", "model": "openai:gpt-5", "tools": ["word-count", {"agent": "poet", "name": "write"}]},
        {"prompt": "x", "settings": {"thinking": "low", "maxTokens": 9, "stopSequences": ["."]}, "timeout": "30s"},
        {"prompt": "x", "schema": {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "integer"}}}},
    ],
)
def test_good_nodes_have_no_problem(inputs: dict[str, Any]) -> None:
    """Expressions are only known at run time."""
    assert validate(llm(inputs), node_types=["word-count"]).problems == ()


def test_a_planner_is_checked_as_well() -> None:
    """Its inputs are no templates; it needs no prompt."""
    plan = llm({"prompt": "x"}, planner={"type": "llm", "inputs": {"model": "m", "maxRequests": 1000}})
    (problem,) = validate(plan).problems
    assert problem.pointer == "/planner/inputs/maxRequests"
    assert validate(llm({"prompt": "x"}, planner={"type": "llm"})).problems == ()


def test_a_model_that_fails_is_asked_again_by_default() -> None:
    """Providers limit rates, so LLM_ERROR is in the default of this type, and of no other."""
    plan = Plan.model_validate(
        llm({"prompt": "x"}, planner={"type": "llm"})
        | {
            "nodes": [
                {"nodeId": "a", "type": "llm", "inputs": {"prompt": "x"}},
                {"nodeId": "b", "type": "noop"},
                {"nodeId": "c", "type": "llm", "retryPolicy": {"retryOn": ["TIMEOUT"]}},
                {"nodeId": "d", "type": "llm", "retryPolicy": {"maxAttempts": 7}},
            ]
        }
    )
    program = compile_plan(plan)
    policies = [program["retries"][node["retry"]] for node in program["nodes"]]
    assert ["LLM_ERROR" in one["retryOn"] for one in (*policies, program["planner"]["retry"])] == [
        True,
        False,
        False,
        True,
        True,
    ]
    assert policies[3]["attempts"] == 7


def test_a_prompt_that_is_no_text_is_asked_as_json() -> None:
    """An expression may bring anything."""
    assert LlmInputs.model_validate({"prompt": {"ä": [1]}}).prompt == json.dumps(
        {"ä": [1]}, indent=1, ensure_ascii=False
    )
    assert problems_of({"prompt": 5, "system": ["x"]}) == []


# -- the operator's file -----------------------------------------------------------------------------------------------


def test_the_file_says_what_a_name_means() -> None:
    """A name of the file, a model of a provider that it lists, or the default; tenants have their own."""
    models = read_models(FILE)
    assert models.find(None, "us").model == "gpt-5-mini"
    assert models.find("fast", "us").settings.given() == {"temperature": 0}
    direct = models.find("openai:gpt-5", "us")
    assert (direct.provider, direct.model, direct.api_key) == ("openai", "gpt-5", "secret://openai")
    assert models.find("theirs", "them").base_url == "http://10.0.0.1/v1"
    for name in ("theirs", "anthropic:claude", "slow", ":", "openai:"):
        with pytest.raises(UnknownModel, match=r"there are fast, openai:<model>$"):
            models.find(name, "us")


def test_without_a_file_any_provider_will_do() -> None:
    """Its key comes from the environment, as its own library reads it."""
    assert ANY.find("openai:gpt-5", "us").api_key is None
    with pytest.raises(UnknownModel, match="no default"):
        ANY.find(None, "us")


@pytest.mark.parametrize(
    ("text", "pointer", "words"),
    [
        ("models: {a: {provider: openai, model: x, apiKey: sk-123}}", "/models/a/apiKey", "a key does not stand"),
        ("models: {a: {provider: openai-compatible, model: x}}", "/models/a", "has a baseUrl"),
        ("models: {a: {model: x}}", "/models/a/provider", "required"),
        ("models: {a: {provider: openai, model: x, temperature: 1}}", "/models/a/temperature", ""),
        ("default: b", "", "no model 'b'"),
        ("models: {a: {provider: openai, model: x, baseUrl: 'file:///x'}}", "/models/a/baseUrl", ""),
    ],
)
def test_a_bad_file_is_refused(text: str, pointer: str, words: str) -> None:
    """With the place; keys are never in it, and the message does not repeat one."""
    with pytest.raises(InvalidDocument) as refused:
        read_models(text)
    (problem,) = refused.value.problems
    assert problem.pointer == pointer
    assert words in problem.message
    assert "sk-123" not in problem.message


# -- answers -----------------------------------------------------------------------------------------------------------


def test_an_evaluator_answers_with_a_verdict_whatever_its_schema_is() -> None:
    """Its own properties stay beside it."""
    schema = with_verdict({"type": "object", "properties": {"score": {"type": "number"}}, "required": ["score"]})
    assert list(schema["properties"]) == ["verdict", "reason", "score"]
    assert schema["required"] == ["verdict", "reason", "score"]
    assert with_verdict(None) == VERDICT_SCHEMA


def test_an_answer_has_no_more_than_it_was_asked_for() -> None:
    """What is beside it would become inputs of the next node; a schema that says so may have it."""
    assert closed({"properties": {"a": {}}})["additionalProperties"] is False
    for schema in (
        {"properties": {}, "additionalProperties": True},
        {"type": "object"},
        {"properties": {}, "anyOf": []},
    ):
        assert closed(schema) == schema


@pytest.mark.parametrize("schema", [VERDICT_SCHEMA, REVISION_SCHEMA])
def test_our_own_schemas_can_be_checked(schema: dict[str, Any]) -> None:
    """By the same code as those of users."""
    assert schema_problems(schema) == []


def test_a_planner_is_told_everything() -> None:
    """The plan, the causes, how far it is, and what was wrong with its last answer."""
    inputs = {
        "plan": {"nodes": [1]},
        "causes": [{"nodeId": "judge"}],
        "statuses": {"a": "SUCCESS"},
        "problems": ["bad"],
    }
    text = planner_prompt(inputs, "Be brief.", ["noop", "word-count"])
    assert text.startswith("Be brief.")
    for part in ('{"nodes":[1]}', '"judge"', "SUCCESS", "noop, word-count", '["bad"]'):
        assert part in text
    assert "inputs of the run" not in text


# -- tools -------------------------------------------------------------------------------------------------------------


def registry_with(function: Any, kind: str = "node", parameters: tuple[str, ...] = (), **more: Any) -> Registry:
    known = Registry()
    known.add(Registration("the tool/1", function, kind, parameters=parameters, **more))
    return known


def test_a_function_is_offered_with_the_schema_of_its_parameters() -> None:
    """Types, defaults and its docstring; the name is made one that providers take."""

    async def look(ctx: NodeContext, text: str, model_config: list[int], limit: int = 3) -> None:
        """Look it up."""

    known = registry_with(look, parameters=("text", "model_config", "limit"))
    offer = offer_of(LlmTool(node="the tool/1"), known)
    assert (offer.name, offer.description) == ("the_tool_1", "Look it up.")
    assert offer.parameters == {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "model_config": {"type": "array", "items": {"type": "integer"}},
            "limit": {"type": "integer", "default": 3},
        },
        "required": ["text", "model_config"],
        "additionalProperties": False,
    }
    named = offer_of(LlmTool(node="the tool/1", name="find", description="Find it."), known)
    assert (named.name, named.description) == ("find", "Find it.")


def test_a_function_without_types_takes_anything() -> None:
    """Also one whose annotations cannot be read, and one that takes whatever it is given."""

    def loose(a, b: Unknown = 1, **more):  # type: ignore[name-defined,no-untyped-def]  # noqa: F821
        ...

    known = registry_with(loose, "agent", ("a", "b"), takes_any=True)
    offer = offer_of(LlmTool(agent="the tool/1"), known)
    assert offer.parameters["required"] == ["a"]
    arguments_of(offer.registration).model_validate({"a": object(), "c": 1})


def test_a_tool_that_is_not_there() -> None:
    """The message says what is."""
    with pytest.raises(InvalidInput, match=r"no node type 'x' .*the tool/1"):
        offer_of(LlmTool(node="x"), registry_with(lambda: None))


def test_the_same_call_twice_is_two_calls_and_a_repeated_one_is_one() -> None:
    """Numbers are of calls that are the same and have not failed."""
    box = Toolbox(None, None, None, None, "tell")  # type: ignore[arg-type]
    assert [box._take("x"), box._take("x"), box._take("y")] == [0, 1, 0]
    box._places["x"].discard(0)  # it failed
    assert box._take("x") == 0


# -- failures ----------------------------------------------------------------------------------------------------------


def test_every_reason_has_a_consequence() -> None:
    """Refusals ask a person; what is retryable suggests nothing."""
    assert [one for one in Reason if one.suggested_action] == [Reason.REFUSAL, Reason.CONTENT_FILTER]
    assert not any(one.is_retryable and one.suggested_action for one in Reason)


def test_a_question_that_is_refused_says_nothing_against_the_provider() -> None:
    """Its breaker stays closed; a rate limit and an error of its own count."""

    def outcome(reason: str) -> Outcome:
        return outcome_of({"type": "LLM_ERROR", "details": {"reason": reason, "status": 400}})

    assert outcome("REFUSAL") is outcome("CONTEXT_LENGTH") is outcome("BAD_OUTPUT") is Outcome.ANSWERED
    assert outcome("RATE_LIMIT") is outcome("PROVIDER_ERROR") is Outcome.FAILED
    assert outcome_of({"type": "LLM_ERROR"}) is Outcome.FAILED
    task: Any = {"type": "llm", "inputs": {"model": "openai:gpt-5"}}
    assert breaker_key(task, Registry()) == "llm openai:gpt-5"


@pytest.mark.parametrize(
    ("strategy", "asked", "milliseconds"),
    [("EXPONENTIAL", 0, None), ("EXPONENTIAL", 1500, None), ("EXPONENTIAL", 5000, 5000), ("LINEAR", 5000, 5000),
     ("LINEAR", 10, 4000)],
)  # fmt: skip
def test_who_asks_to_be_left_alone_is(strategy: str, asked: int, milliseconds: int | None) -> None:
    """The policy's delay is the least; None: it is Temporal's to compute."""
    retry = {"strategy": strategy, "delay": 2000, "maxDelay": 60_000, "multiplier": 2.0, "jitter": False}
    delay = next_delay(retry, 2, asked)
    assert (None if delay is None else delay.total_seconds() * 1000) == milliseconds
