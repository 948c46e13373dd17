"""The inputs of an ``llm`` node: which model is asked what, with which tools, and what its answer has to be like.

``docs/llm.md``. Validation reads them as far as they are literals, the activity as they are at run time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from dalang.durations import Duration

MAX_TOOLS = 64
MAX_REQUESTS = 10
"""So many requests one attempt makes at most, if the node does not say otherwise: tools ask for some."""
OUTPUT_RETRIES = 2
RESERVED = "llm"
"""The key of the outputs that tells of the model's work; no answer may use it."""
SECRET_NAMES = frozenset({"apiKey", "api_key", "key", "token", "baseUrl", "base_url", "provider"})
"""What people write who want to say how a model is reached: that is the operator's file's."""

Level = bool | Literal["minimal", "low", "medium", "high", "xhigh", "max"]


def as_text(value: Any) -> Any:
    """Return a prompt as text: what an expression brought that is no text as JSON, nothing (null) as it is."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, indent=1)


Prompt = Annotated[str, BeforeValidator(as_text)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True, frozen=True)


class LlmTool(_Part):
    """A function of the worker that the model may call: a node type (``node``) or a local agent (``agent``)."""

    node: str | None = Field(None, min_length=1, max_length=200)
    agent: str | None = Field(None, min_length=1, max_length=200)
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = Field(None, max_length=4000)

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"node": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_of_both(self) -> LlmTool:
        if (self.node is None) == (self.agent is None):
            raise ValueError("a tool is a node type (`node`, or only its name) or a local agent (`agent`)")
        return self


class LlmSettings(_Part):
    """How a model answers. What a model does not know of, its provider ignores or refuses."""

    temperature: float | None = Field(None, ge=0, le=10)
    max_tokens: int | None = Field(None, ge=1)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = None
    stop_sequences: list[str] | None = Field(None, max_length=16)
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    parallel_tool_calls: bool | None = None
    thinking: Level | None = None

    def given(self) -> dict[str, Any]:
        """Return what is set, by the names of the library."""
        return self.model_dump(exclude_none=True)


class LlmInputs(BaseModel):
    """The inputs of an ``llm`` node; others, which edges bring along, are ignored."""

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, populate_by_name=True, frozen=True)

    model: str | None = Field(None, min_length=1, max_length=200)
    prompt: Prompt | None = None
    system: Prompt | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    mode: Literal["tool", "native", "prompt"] | None = None
    tools: list[LlmTool] = Field(default_factory=list, max_length=MAX_TOOLS)
    tool_errors: Literal["tell", "fail"] = "tell"
    settings: LlmSettings = LlmSettings()
    max_requests: int = Field(MAX_REQUESTS, ge=1, le=100)
    output_retries: int = Field(OUTPUT_RETRIES, ge=0, le=10)
    timeout: Duration | None = Field(None, gt=0)


FIELDS: tuple[str, ...] = tuple(field.alias or name for name, field in LlmInputs.model_fields.items())
"""The names of the inputs, as a plan writes them."""


def problems_of(inputs: Mapping[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
    """Return what is wrong with inputs, each with its place."""
    try:
        LlmInputs.model_validate(inputs)
    except ValidationError as error:
        return [(_place(one["loc"]), one["msg"].removeprefix("Value error, ")) for one in error.errors()]
    return []


def _place(steps: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Return where an error is: without what only tells one alternative from another."""
    return tuple(step for step in steps if not (isinstance(step, str) and ("[" in step or step in ("bool", "str"))))
