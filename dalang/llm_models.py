"""The operator's language models: which there are, where, and what opens them (``docs/llm.md``).

``DALANG_MODELS_FILE`` is such a file:

.. code-block:: yaml

    default: fast
    models:
      fast: {provider: openai, model: gpt-5-mini, apiKey: "env:OPENAI_API_KEY"}
      local: {provider: openai-compatible, model: qwen3, baseUrl: "http://127.0.0.1:11434/v1"}
      team: {provider: openai, model: gpt-5, apiKey: secret://team-openai, tenants: [team]}
    providers:
      openai: {apiKey: "env:OPENAI_API_KEY"}

A plan names a model of ``models``, or ``provider:model`` of one of ``providers``. Keys stand in neither: they are names
of variables of the worker's environment, or of secrets. Without a file a plan may name ``provider:model`` of any
provider, and its key comes from that provider's own variable, such as ``OPENAI_API_KEY``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from dalang.canonical import pointer
from dalang.errors import InvalidDocument, Problem
from dalang.formats import load_document
from dalang.llm_inputs import LlmSettings

COMPATIBLE = "openai-compatible"
"""The provider that stands for any server with OpenAI's Chat Completions."""
ENV, SECRET = "env:", "secret://"
PER = 1_000_000
"""Prices are those of so many tokens, in USD."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$")]


class UnknownModel(Exception):
    """The operator has no such model for this tenant; the text says which there are."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True, frozen=True)


class Prices(_Part):
    """What a million tokens cost, in USD."""

    input: float = Field(0.0, ge=0, allow_inf_nan=False)
    output: float = Field(0.0, ge=0, allow_inf_nan=False)

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """Return what so many tokens cost."""
        return (self.input * input_tokens + self.output * output_tokens) / PER


class Access(_Part):
    """How the models of a provider are reached."""

    base_url: str | None = Field(None, pattern=r"^https?://[^\s/]+")
    api_key: str | None = Field(
        None,
        pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|secret://\S+)$",
        description="env:VARIABLE or secret://name",
    )
    tenants: tuple[str, ...] | None = None

    def is_for(self, tenant_id: str) -> bool:
        """Tell whether a tenant may use it."""
        return self.tenants is None or tenant_id in self.tenants


class NamedModel(Access):
    """A model by the operator's own name."""

    provider: Name
    model: str = Field(min_length=1, max_length=200)
    settings: LlmSettings = LlmSettings()
    prices: Prices | None = None

    @model_validator(mode="after")
    def _has_an_address(self) -> NamedModel:
        if self.provider == COMPATIBLE and self.base_url is None:
            raise ValueError(f"a model of the provider {COMPATIBLE} has a baseUrl")
        return self


class Models(_Part):
    """All models of an installation."""

    default: str | None = None
    models: dict[Name, NamedModel] = Field(default_factory=dict)
    providers: dict[Name, Access] | None = None
    """None: any, with what the environment says about it."""

    @model_validator(mode="after")
    def _default_is_one(self) -> Models:
        if self.default is not None and ":" not in self.default and self.default not in self.models:
            raise ValueError(f"there is no model {self.default!r} that could be the default")
        return self

    def find(self, name: str | None, tenant_id: str) -> NamedModel:
        """Return the model that a node of a tenant asks for; None asks for the default.

        Raises:
            UnknownModel: there is none.
        """
        wanted = name or self.default
        if wanted is None:
            raise UnknownModel("the node names no `model`, and the operator's file (DALANG_MODELS_FILE) has no default")
        named = self.models.get(wanted)
        if named is not None and named.is_for(tenant_id):
            return named
        provider, colon, model = wanted.partition(":")
        access = Access() if self.providers is None else self.providers.get(provider)
        if colon and provider and model and access is not None and access.is_for(tenant_id):
            return NamedModel(provider=provider, model=model, base_url=access.base_url, api_key=access.api_key)
        raise UnknownModel(f"there is no model {wanted!r}; {self._known(tenant_id)}")

    def _known(self, tenant_id: str) -> str:
        names = [name for name, one in self.models.items() if one.is_for(tenant_id)]
        if self.providers is None:
            names.append("<provider>:<model>, such as openai:gpt-5-mini")
        else:
            names += [f"{name}:<model>" for name, one in self.providers.items() if one.is_for(tenant_id)]
        return f"there are {', '.join(names)}" if names else "the operator has given none"


ANY = Models()
"""What holds without a file."""


def read_models(data: bytes | str) -> Models:
    """Return the models of a YAML or JSON document.

    Raises:
        InvalidDocument: with all its problems.
    """
    document = load_document(data)
    try:
        # With a file, providers that it does not list are none.
        return Models.model_validate({"providers": {}, **document})
    except ValidationError as error:
        raise InvalidDocument([_problem(one) for one in error.errors()], "models file") from None


def _problem(error: Mapping[str, Any]) -> Problem:
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["loc"] and error["loc"][-1] in ("apiKey", "api_key"):
        message = "a key does not stand in the file: write env:VARIABLE or secret://name"
    code = "UNKNOWN_FIELD" if error["type"] == "extra_forbidden" else "BAD_VALUE"
    return Problem(pointer=pointer(*error["loc"]), code=code, message=message)
