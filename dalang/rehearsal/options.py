"""What a rehearsal assumes: the rehearsal file, and what the command line adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from dalang.canonical import pointer
from dalang.errors import ErrorType, InvalidDocument, Problem, SuggestedAction
from dalang.rehearsal.distributions import Distribution, parse_distribution

MAX_RUNS = 1_000_000
_NOT_RETRYABLE = frozenset({ErrorType.TOOL_ERROR, ErrorType.VALIDATION_ERROR, ErrorType.POLICY_VIOLATION})
"""What the node SDK's failures of these types say unless they are told otherwise."""

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Draws = Annotated[InstanceOf[Distribution], BeforeValidator(parse_distribution)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Fault(_Model):
    """A share of attempts that fails, and with which error."""

    rate: Share
    type: ErrorType = ErrorType.NETWORK_ERROR
    retryable: bool | None = None
    """Default: what the node SDK says of the type."""
    action: SuggestedAction | None = None
    """What the handler suggests when it fails for good."""

    @property
    def may_be_repeated(self) -> bool:
        """Whether the error is retryable; the node's ``retryOn`` has to name its type as well."""
        return self.type not in _NOT_RETRYABLE if self.retryable is None else self.retryable


class Outcome(_Model):
    """One of several ways a success can turn out."""

    weight: float = Field(1, gt=0, le=1e9, allow_inf_nan=False)
    outputs: dict[str, Any] = Field(default_factory=dict)


def _faults(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return ({"rate": value},)
    return (value,) if isinstance(value, (dict, Fault)) else value


class Assumed(_Model):
    """What is assumed of a node, or of all nodes of a type; what a node says goes before what its type says."""

    duration: Draws | None = None
    undo: Draws | None = None
    outputs: dict[str, Any] | None = None
    outcomes: tuple[Outcome, ...] | None = Field(None, min_length=1)
    failures: Annotated[tuple[Fault, ...], BeforeValidator(_faults)] | None = None
    crashes: Share | None = None
    needs: dict[str, Amount] | None = None
    approval: Share | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.outputs is not None and self.outcomes is not None:
            raise ValueError("outputs is one outcome; give outputs or outcomes")
        if self.failures is not None and sum(fault.rate for fault in self.failures) > 1 + 1e-9:
            raise ValueError("the rates of all failures together are at most 1")
        return self


class AgentGiven(_Model):
    """An agent: how many nodes it takes at once, and what it offers besides its own name."""

    capacity: int = Field(1, ge=0, le=1_000_000, strict=True)
    capabilities: tuple[str, ...] = ()


def _agent(value: Any) -> Any:
    return {"capacity": value} if isinstance(value, int) and not isinstance(value, bool) else value


class Options(_Model):
    """Everything a rehearsal can be told; ``docs/rehearsal.md`` explains each."""

    runs: int = Field(1_000, ge=1, le=MAX_RUNS, strict=True)
    seed: int = Field(1, ge=0, le=2**53, strict=True)
    inputs: dict[str, Any] = Field(default_factory=dict)
    default_duration: Draws = Field(default_factory=lambda: parse_distribution("1s"))
    max_in_flight: int = Field(50, ge=1, le=100_000, strict=True)
    crashes: Share = 0
    unknown_conditions: Literal["live", "dead"] = "live"
    agents: dict[str, Annotated[AgentGiven, BeforeValidator(_agent)]] = Field(default_factory=dict)
    pools: dict[str, Amount] = Field(default_factory=dict)
    types: dict[str, Assumed] = Field(default_factory=dict)
    nodes: dict[str, Assumed] = Field(default_factory=dict)
    edges: dict[str, Share] = Field(default_factory=dict)


def load_options(document: Mapping[str, Any]) -> Options:
    """Return the options in a document.

    Raises:
        InvalidDocument: with every problem, each with its place.
    """
    try:
        return Options.model_validate(document)
    except ValidationError as error:
        problems = [
            Problem(
                pointer=pointer(*(step for step in one["loc"] if step != "[key]")),
                code="BAD_OPTION",
                message=_sentence(one["msg"]),
            )
            for one in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise InvalidDocument(problems, "rehearsal file") from None


def _sentence(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text[:1].upper() + text[1:] + "."
