"""Functions of the worker as tools of a model: node types and local agents, each with the schema of its parameters.

A call is a part of the node's attempt: it has its time and its cancellation, what it uses counts for the node, and the
policies are asked about it as about a node of its type. Its idempotency key is the node's with a suffix that the tool
and its arguments make: the next attempt of the node, in which the model may ask for other things in another order, does
the same work under the same key, and other work under another one.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from dalang.activities.execution import Recorder
from dalang.activities.failures import classify
from dalang.activities.python import LocalFunctions
from dalang.canonical import canonical_bytes, find_unsafe, safe_text
from dalang.llm_inputs import LlmTool
from dalang.nodes import (
    AskPerson,
    InvalidInput,
    NodeContext,
    PolicyViolation,
    Registration,
    Registry,
    ToolError,
    kept_nowhere,
)
from dalang.usage import usage_of
from dalang.wire import NodeTask

MAX_ERROR = 2_000
logger = logging.getLogger("dalang.activities.llm")
_NO_NAME = re.compile(r"[^A-Za-z0-9_-]+")


class BadArguments(Exception):
    """The model called a tool with what it does not take; the text says what is wrong."""


class Told(Exception):
    """A tool failed, and the model is told so; the text says how."""


@dataclass(frozen=True)
class Offer:
    """A tool as a model sees it."""

    name: str
    description: str
    parameters: dict[str, Any]
    registration: Registration
    arguments: type[BaseModel]


class Toolbox:
    """The tools of one attempt."""

    def __init__(
        self, ctx: NodeContext, task: NodeTask, local: LocalFunctions, recorder: Recorder, on_error: str
    ) -> None:
        self.calls: list[dict[str, Any]] = []
        """What was called so far: the tool, and whether it failed; the key tells it from others."""
        self._ctx = ctx
        self._task = task
        self._local = local
        self._recorder = recorder
        self._on_error = on_error
        self._places: dict[str, set[int]] = defaultdict(set)

    def go_on_from(self, calls: list[dict[str, Any]]) -> None:
        """Take the calls of the attempt before, whose conversation this one goes on with."""
        taken: dict[str, set[int]] = defaultdict(set)
        for call in calls:
            digest, _, place = str(call["key"]).partition(":")
            if not call["failed"]:
                taken[digest].add(int(place))
        self.calls, self._places = [dict(call) for call in calls], taken

    @property
    def about(self) -> str:
        """What the conversation is about: a digest of the node's inputs as they travel, without secrets."""
        return sha256(canonical_bytes(self._task["inputs"])).hexdigest()

    def offers(self, tools: list[LlmTool]) -> list[Offer]:
        """Return the tools by the names that a plan gives.

        Raises:
            InvalidInput: one of them is not in this worker, or two have one name.
        """
        found = [offer_of(tool, self._local.registry) for tool in tools]
        names = [one.name for one in found]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InvalidInput(f"two tools are called {twice!r}; give one of them another `name`", no_effect=True)
        return found

    async def call(self, offer: Offer, arguments: dict[str, Any]) -> Any:
        """Call a tool and return what it answers.

        Raises:
            BadArguments: the model shall call it otherwise.
            Told: it failed, and the model is told.
            NodeFailure: it failed, and with it the node.
        """
        try:
            offer.arguments.model_validate(arguments)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:20])
            raise BadArguments(wrong) from None
        digest = sha256(canonical_bytes([offer.registration.kind, offer.registration.name, arguments])).hexdigest()[:16]
        place = self._take(digest)
        told = {"tool": offer.name, "key": f"{digest}:{place}", "failed": True}
        self.calls.append(told)
        self._ctx.progress(f"tool {offer.name}")
        try:
            result = await self._work(offer, arguments, f"{self._ctx.idempotency_key}:tool:{digest}:{place}")
            told["failed"] = False
        except (PolicyViolation, AskPerson):
            raise
        except Exception as error:
            # Asked for once more, it is the same work again.
            self._places[digest].discard(place)
            if self._on_error == "fail":
                raise
            payload = classify(error)
            logger.info("tool %s of node %s failed", offer.name, self._ctx.node_id, exc_info=error)
            raise Told(safe_text(f"{payload.type}: {payload.message}", MAX_ERROR)) from None
        return result

    def _take(self, digest: str) -> int:
        """Return the number of a call among those that are the same and have not failed: the smallest that is free."""
        taken = self._places[digest]
        place = next(number for number in range(len(taken) + 1) if number not in taken)
        taken.add(place)
        return place

    async def _work(self, offer: Offer, arguments: dict[str, Any], key: str) -> Any:
        name, is_agent = offer.registration.name, offer.registration.kind == "agent"
        ctx = replace(
            self._ctx,
            type="agent" if is_agent else name,
            inputs=arguments,
            idempotency_key=key,
            restored=None,
            undoes=None,
            callback_url=None,
            _keep=kept_nowhere,
            _used={},
        )
        task: NodeTask = {**self._task, "type": ctx.type, "inputs": ctx._mask(arguments), "key": key}
        task.pop("handler", None)
        if is_agent:
            task["handler"] = name
        await self._recorder.permit(task, ctx.attempt)
        try:
            result = await (self._local.agent(ctx, name) if is_agent else self._local.registered(ctx, name))
        finally:
            used = usage_of(ctx._used)
            if used:
                self._ctx.usage(**used)
        unsafe = find_unsafe(result)
        if unsafe is not None:
            raise ToolError(f"it returned what is not JSON: {unsafe[0] or 'its result'} {unsafe[1]}")
        return result


def offer_of(tool: LlmTool, known: Registry) -> Offer:
    """Return a tool as a model sees it.

    Raises:
        InvalidInput: it is not registered in this worker.
    """
    registration = known.node(tool.node) if tool.node is not None else known.agent(tool.agent or "")
    if registration is None:
        kind, wanted = ("node type", tool.node) if tool.node is not None else ("agent", tool.agent)
        there = known.node_types if tool.node is not None else [agent.name for agent in known.agents]
        raise InvalidInput(
            f"no {kind} {wanted!r} is registered in this worker (there are: {', '.join(there) or 'none'})",
            no_effect=True,
        )
    arguments = arguments_of(registration)
    description = tool.description or inspect.getdoc(registration.function) or registration.name
    name = tool.name or _NO_NAME.sub("_", registration.name)[:64]
    return Offer(name, description, _parameters(arguments), registration, arguments)


def arguments_of(registration: Registration) -> type[BaseModel]:
    """Return a model of a function's parameters; what has no type takes anything."""
    function = registration.function
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception:  # names that only a type checker knows
        hints = {}
    fields: dict[str, Any] = {}
    for number, name in enumerate(registration.parameters):
        parameter = inspect.signature(function).parameters[name]
        required = parameter.default is inspect.Parameter.empty
        # By alias, since a parameter may be called what a model's own attributes are called.
        fields[f"p{number}"] = (hints.get(name, Any), Field(... if required else parameter.default, alias=name))
    config = ConfigDict(extra="allow" if registration.takes_any else "forbid", arbitrary_types_allowed=True)
    return create_model("Arguments", __config__=config, **fields)


def _parameters(arguments: type[BaseModel]) -> dict[str, Any]:
    try:
        schema = arguments.model_json_schema(by_alias=True)
    except Exception:  # a parameter of a type that has no JSON
        logger.info("a tool's parameters have no JSON Schema", exc_info=True)
        names = [field.alias or name for name, field in arguments.model_fields.items()]
        return {"type": "object", "properties": {name: {} for name in names}}
    return {key: _untitled(value) for key, value in schema.items() if key != "title"}


def _untitled(value: Any) -> Any:
    """Return a part of a schema without the titles that only repeat names."""
    if not isinstance(value, Mapping):
        return value
    plain = {key: _untitled(item) for key, item in value.items()}
    return {key: item for key, item in plain.items() if not (key == "title" and isinstance(item, str))}
