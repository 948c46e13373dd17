"""What every part of a plan is made of: the base model and the types that several parts share."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ModelWrapValidatorHandler, model_validator
from pydantic.alias_generators import to_camel

from dalang.durations import Milliseconds

PRIORITY_WORDS = {"low": -1, "medium": 0, "high": 1, "critical": 2}


def _priority(value: Any) -> Any:
    if isinstance(value, str) and value.lower() in PRIORITY_WORDS:
        return PRIORITY_WORDS[value.lower()]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a priority is an integer (larger is served first) or one of low, medium, high, critical")
    return value


Priority = Annotated[
    int,
    BeforeValidator(_priority, json_schema_input_type=int | str),
    Field(ge=-(2**31), le=2**31 - 1),
]


class Model(BaseModel):
    """The base of every part of a plan: frozen, camelCase, nothing unknown, nothing coerced.

    ``duration_fields`` are the wire names of fields that may also be given in milliseconds, as ``<name>Ms``.
    """

    duration_fields: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        strict=False,
        use_enum_values=False,
    )

    @model_validator(mode="wrap")
    @classmethod
    def _milliseconds(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Take ``initialDelayMs: 1000`` wherever ``initialDelay: 1s`` is meant, as the seeds write it."""
        if isinstance(data, dict) and any(isinstance(key, str) and key.endswith("Ms") for key in data):
            data = dict(data)
            for key in [key for key in data if isinstance(key, str) and key.endswith("Ms")]:
                value, name = data[key], key[:-2]
                if (
                    name in cls.duration_fields
                    and name not in data  # both spellings: the Ms one stays and is refused as unknown
                    and isinstance(value, int)
                    and not isinstance(value, bool)
                    and value >= 0
                ):
                    data[name] = Milliseconds(value)
                    del data[key]
        return handler(data)
