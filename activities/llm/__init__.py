"""Node type ``llm``: a language model is asked, perhaps with tools, and its answer becomes the node's outputs.

``docs/llm.md``. What is heavy - the library that speaks to models - is imported when the first such node begins, in a
thread: :mod:`dalang.activities.llm.conversation` and what only it imports. A worker without it fails these nodes with
what to install.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from dalang.activities.execution import Recorder
from dalang.activities.llm.tools import Toolbox
from dalang.activities.python import LocalFunctions
from dalang.activities.secrets import Vault, mask_also
from dalang.launch import check_plan
from dalang.llm_answers import (
    PLANNER_SYSTEM,
    REVISION_SCHEMA,
    VERDICT_SYSTEM,
    closed,
    planner_prompt,
    problem_text,
    uses_reserved,
    with_verdict,
)
from dalang.llm_inputs import RESERVED, LlmInputs
from dalang.llm_models import ANY, ENV, SECRET, Models, NamedModel, UnknownModel, read_models
from dalang.nodes import BUILT_IN_TYPES, InvalidInput, NodeContext, Registry
from dalang.revision import revise
from dalang.settings import Settings, environment_variable
from dalang.validation.input_schema import schema_problems
from dalang.watched_file import WatchedFile
from dalang.wire import PLANNER, PLANNER_INPUTS, NodeTask

INSTALL = "pip install 'dalang[llm]'"
WHOSE = "What the model answers"
CHANGES = ("patch", "plan")
"""What a planner answers with: one of them."""

Check = Callable[[dict[str, Any]], str | None]
"""What is wrong with an answer that fits the schema; None: nothing."""


@dataclass(frozen=True)
class Question:
    """What a model is asked: ``check`` says what is wrong with an answer beyond its schema.

    ``left_out`` are parts of an answer that are none if they are empty: models like to fill in whatever there is.
    """

    system: str | None
    prompt: str
    schema: dict[str, Any] | None
    check: Check | None
    inputs: LlmInputs
    left_out: tuple[str, ...] = ()


def operators_models(settings: Settings) -> Callable[[], Models]:
    """Return how to look up the operator's models; raises SettingsError when their file is of no use."""
    if not settings.models_file:
        return lambda: ANY
    return WatchedFile("DALANG_MODELS_FILE", Path(settings.models_file), read_models).current


class Llm:
    """Asks models. One per worker process; ``models`` returns those of the operator as they are now."""

    def __init__(self, models: Callable[[], Models]) -> None:
        self._models = models
        self._loading = asyncio.Lock()
        self._library: ModuleType | None = None

    async def close(self) -> None:
        """Close connections."""
        if self._library is not None:
            await self._library.close()

    async def work(self, ctx: NodeContext, task: NodeTask, local: LocalFunctions, recorder: Recorder) -> dict[str, Any]:
        """Ask the model of the node and return its answer: the outputs, and ``llm``, which tells how it came about.

        Raises:
            NodeFailure: LLM_ERROR with a ``reason`` in its details, NETWORK_ERROR, TIMEOUT; VALIDATION_ERROR where
                nothing was asked, since the inputs are wrong, the model is unknown, or the library is not there.
        """
        question = _question(ctx, task, local.registry)
        library = await self._loaded()
        model = self._model(question.inputs.model, ctx.tenant_id)
        key = await _key(model, ctx.tenant_id, recorder.vault)
        if key is not None:
            mask_also(ctx, [key])  # providers repeat a key that they do not like
        toolbox = Toolbox(ctx, task, local, recorder, question.inputs.tool_errors)
        outputs: dict[str, Any] = await library.converse(ctx, question, model, key, toolbox, task["startToCloseMs"])
        return {name: value for name, value in outputs.items() if value or name not in question.left_out}

    async def _loaded(self) -> ModuleType:
        async with self._loading:
            if self._library is None:
                try:
                    name = f"{__name__}.conversation"
                    self._library = await asyncio.to_thread(importlib.import_module, name)
                except ImportError as error:
                    message = f"nodes of type llm need a library that is not here ({error}): {INSTALL}"
                    raise InvalidInput(message, details={"reason": "NOT_INSTALLED"}, no_effect=True) from None
            return self._library

    def _model(self, name: str | None, tenant_id: str) -> NamedModel:
        try:
            return self._models().find(name, tenant_id)
        except UnknownModel as error:
            raise InvalidInput(str(error), details={"reason": "UNKNOWN_MODEL"}, no_effect=True) from None


async def _key(model: NamedModel, tenant_id: str, vault: Vault) -> str | None:
    """Return what opens a model: of the worker's environment, or a secret of the tenant.

    Raises:
        InvalidInput: it is not there.
    """
    told = model.api_key
    if told is None:
        return None
    try:
        if told.startswith(SECRET):
            found = await asyncio.to_thread(vault.value, tenant_id, told.removeprefix(SECRET))
        else:
            found = environment_variable(told.removeprefix(ENV))
    except ValueError as error:
        raise _no_key(f"the key of the model, {told}, {error}") from None
    if not found:
        raise _no_key(f"the key of the model is not there: {told} (DALANG_MODELS_FILE)")
    return found


def _no_key(message: str) -> InvalidInput:
    return InvalidInput(message, details={"reason": "NO_KEY"}, no_effect=True)


def _question(ctx: NodeContext, task: NodeTask, known: Registry) -> Question:
    """Return what a node asks.

    Raises:
        InvalidInput: its inputs are wrong.
    """
    try:
        inputs = LlmInputs.model_validate(ctx.inputs)
    except ValidationError as error:
        problems = "; ".join(f"{'/'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise _wrong(problems) from None
    if task["nodeId"] == PLANNER and all(name in ctx.inputs for name in PLANNER_INPUTS):
        return _planner_question(ctx, inputs, known)
    if not inputs.prompt:
        raise _wrong("`prompt` is missing, or empty")
    if task.get("evaluator"):
        system = "\n\n".join(part for part in (VERDICT_SYSTEM, inputs.system) if part)
        return Question(system, inputs.prompt, _checked(with_verdict(inputs.schema_)), None, inputs)
    schema = None if inputs.schema_ is None else _checked(inputs.schema_)
    return Question(inputs.system, inputs.prompt, schema, None, inputs)


def _planner_question(ctx: NodeContext, inputs: LlmInputs, known: Registry) -> Question:
    plan = ctx.inputs["plan"]
    types = [*BUILT_IN_TYPES, *known.node_types]

    def check(answer: dict[str, Any]) -> str | None:
        change = {name: answer[name] for name in CHANGES if answer.get(name)}
        if len(change) != 1:
            return "Answer with either a `patch` or a `plan`, and not an empty one."
        revision, problems = revise(plan, change, check_plan)
        return None if revision is not None else problem_text(problems)

    system = "\n\n".join(part for part in (PLANNER_SYSTEM, inputs.system) if part)
    prompt = planner_prompt(ctx.inputs, inputs.prompt, types)
    return Question(system, prompt, dict(REVISION_SCHEMA), check, inputs, CHANGES)


def _checked(schema: dict[str, Any]) -> dict[str, Any]:
    found = schema_problems(schema, WHOSE)
    if found:
        raise _wrong("; ".join(f"schema/{'/'.join(map(str, place))}: {text}" for place, text in found))
    if uses_reserved(schema):
        raise _wrong(f"the schema has a property `{RESERVED}`, which the outputs need for themselves")
    return closed(schema)


def _wrong(problems: str) -> InvalidInput:
    return InvalidInput(f"the inputs of an llm node: {problems}", no_effect=True)
