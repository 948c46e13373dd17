"""What a node says of the agent it calls, and the ids under which the agent knows the work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from uuid import NAMESPACE_OID, UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from dalang.durations import Duration
from dalang.nodes import InvalidInput, NodeContext

_CONFIG = ConfigDict(extra="ignore", alias_generator=to_camel, populate_by_name=True)
PART_KINDS = ("text", "data", "url", "raw")
_PART_KEYS = frozenset({*PART_KINDS, "filename", "mediaType", "metadata"})


class Person(BaseModel):
    """Whom the agent's questions go to; by default anybody who may decide human tasks."""

    model_config = _CONFIG

    assignee: str | None = Field(None, min_length=1, max_length=200)
    candidate_group: str | None = Field(None, min_length=1, max_length=200)
    due: Duration | None = Field(None, gt=0)


class Call(BaseModel):
    """The inputs of an ``a2a`` node."""

    model_config = _CONFIG

    url: str = Field(pattern=r"^https?://[^\s/]")
    protocol: Literal["a2a", "wayang"] = "a2a"
    message: Any = None
    skill: str | None = None
    mode: Literal["auto", "stream", "poll", "wait"] = "auto"
    poll_interval: Duration | None = Field(None, gt=0)
    patience: Duration = 60_000
    headers: dict[str, str] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)
    person: Person = Field(default_factory=Person)
    target: str | None = None
    source: str = "dalang"
    cancel: bool = False
    rest: dict[str, Any] = Field(default_factory=dict, exclude=True)
    """All other inputs: what is sent where there is no ``message``."""


OPTIONS = frozenset(to_camel(name) for name in Call.model_fields if name != "rest")
"""The inputs of an ``a2a`` node that are not sent themselves."""


def call_of(inputs: Mapping[str, Any]) -> Call:
    """Return the call that a node's inputs describe.

    Raises:
        InvalidInput: they do not.
    """
    given = {name: value for name, value in inputs.items() if name in OPTIONS}
    try:
        call = Call.model_validate(given)
    except ValidationError as error:
        problems = "; ".join(f"{'/'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InvalidInput(f"the inputs of an a2a node: {problems}", no_effect=True) from None
    return call.model_copy(update={"rest": {name: value for name, value in inputs.items() if name not in OPTIONS}})


def call_of_agent(endpoint: Mapping[str, Any], inputs: Mapping[str, Any]) -> Call:
    """Return the call of a node of type ``agent``: where is the registry's to say, what is the node's."""
    message = inputs["message"] if "message" in inputs else dict(inputs)
    return call_of({**endpoint, "message": message})


def parts_of(content: Any) -> list[dict[str, Any]]:
    """Return the parts of a message: a text, an object as data, or a list of these and of parts as they are."""
    items = content if isinstance(content, list) else [content]
    return [_part(item) for item in items] or [{"text": ""}]


def _part(item: Any) -> dict[str, Any]:
    if isinstance(item, str):
        return {"text": item}
    kinds = [kind for kind in PART_KINDS if isinstance(item, Mapping) and kind in item]
    is_part = len(kinds) == 1 and item.keys() <= _PART_KEYS
    return dict(item) if is_part and (kinds == ["data"] or isinstance(item[kinds[0]], str)) else {"data": item}


def context_id(ctx: NodeContext) -> str:
    """Return the conversation of a run with its agents: the same for all its nodes and for whoever redrives it."""
    root, found, _ = ctx.idempotency_key.rpartition(f":{ctx.node_id}:")
    return str(uuid5(NAMESPACE_OID, f"a2a:{root if found else ctx.idempotency_key}"))


def message_id(key: str, *more: object) -> str:
    """Return the id of a message about the work of an idempotency key: the same whenever it is sent again."""
    return str(uuid5(NAMESPACE_OID, ":".join(["a2a", key, *map(str, more)])))


def run_uuid(run_id: str) -> str:
    """Return a run's id as the UUID that Wayang's router asks for."""
    try:
        return str(UUID(run_id))
    except ValueError:
        return str(uuid5(NAMESPACE_OID, run_id))
