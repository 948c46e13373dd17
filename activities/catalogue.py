"""Every activity of a worker: one per node type, by its name, so that Temporal's Web UI reads like the plan."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from temporalio import activity

from dalang.activities.agent_spans import as_agent
from dalang.activities.agents import AgentWork
from dalang.activities.breakers import Gate, breaker_key, guarded
from dalang.activities.execution import Handler, HandlerLoop, Recorder, attempt
from dalang.activities.http import Http
from dalang.activities.llm import Llm
from dalang.activities.memory import Memories, tell
from dalang.activities.python import LocalFunctions
from dalang.activities.segments import segment_activity
from dalang.errors import DalangError
from dalang.llm_models import ANY
from dalang.nodes import NodeContext, Registry, registry
from dalang.wire import AGENT, PERMIT_NODE, PLANNER, NodeTask

ENTRY_POINT_GROUP = "dalang.nodes"


class NodeModuleError(DalangError):
    """A module that should register node types cannot be imported; the text says which and why."""


def load_node_modules(names: Iterable[str]) -> None:
    """Import the named modules and those of the entry-point group ``dalang.nodes``, which register node types.

    Modules of the current folder are found, whatever their names.

    Raises:
        NodeModuleError: one of them cannot be imported.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        # The commands are installed scripts, which do not see the folder they are started in. It comes first: a project
        # may have an `activities` of its own, and of ours nothing is outside of the package `dalang`.
        sys.path.insert(0, here)
    points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    for name in dict.fromkeys([*names, *(point.value for point in points)]):
        try:
            importlib.import_module(name.partition(":")[0])
        except Exception as error:
            raise NodeModuleError(
                f"the node module {name!r} (DALANG_NODE_MODULES) cannot be imported: {type(error).__name__}: {error}"
            ) from error


async def _noop(ctx: NodeContext) -> dict[str, Any]:
    return dict(ctx.inputs)


def node_activities(
    recorder: Recorder,
    loop: HandlerLoop,
    http: Http,
    gate: Gate | None = None,
    agents: AgentWork | None = None,
    memories: Memories | None = None,
    known: Registry = registry,
    adapters: Mapping[str, Handler] | None = None,
    llm: Llm | None = None,
) -> list[Callable[..., Awaitable[Any]]]:
    """Return the activities of the built-in node types and of everything registered with ``@node``.

    Without a ``gate`` there are no circuit breakers; without ``agents`` all agents are functions of this worker;
    without ``memories`` nothing is remembered. ``adapters`` are the handlers of further built-in types, by type.
    """
    local = LocalFunctions(known, loop)
    models = llm or Llm(lambda: ANY)

    def python(task: NodeTask) -> Handler:
        return lambda ctx: local.python(ctx, task.get("handler"))

    def agent(task: NodeTask) -> Handler:
        name = task.get("agent")
        if agents is None or name is None:
            return as_agent(task.get("handler"), lambda ctx: local.agent(ctx, task.get("handler")))
        return as_agent(name, lambda ctx: agents.work(ctx, task, name, local))

    def adapter(handler: Handler) -> Callable[[NodeTask], Handler]:
        return lambda task: handler

    def requests(task: NodeTask) -> Handler:
        if "of" in task.get("implementation", {}):
            return http.function
        if task["nodeId"] == PLANNER:
            return http.plan
        return http.verdict if task.get("evaluator") else http

    def registered(name: str) -> Callable[[NodeTask], Handler]:
        return lambda task: lambda ctx: local.registered(ctx, name)

    handlers: dict[str, Callable[[NodeTask], Handler]] = {
        "noop": lambda task: _noop,
        "http": requests,
        "python": python,
        AGENT: agent,
        PERMIT_NODE: lambda task: tell,
        **{name: adapter(handler) for name, handler in (adapters or {}).items()},
        "llm": lambda task: lambda ctx: models.work(ctx, task, local, recorder),
        **{name: registered(name) for name in known.node_types},
    }

    async def one(task: NodeTask, choose: Callable[[NodeTask], Handler]) -> Any:
        handler = choose(task) if memories is None else memories.around(task, choose(task))
        if gate is None:
            return await attempt(task, handler, recorder)
        return await guarded(gate, breaker_key(task, known), task, lambda: attempt(task, handler, recorder))

    return [*(_activity(name, choose, one) for name, choose in handlers.items()), segment_activity(handlers, one)]


def _activity(
    name: str,
    choose: Callable[[NodeTask], Handler],
    one: Callable[[NodeTask, Callable[[NodeTask], Handler]], Awaitable[Any]],
) -> Callable[..., Awaitable[Any]]:
    # The parameter is Any, so that the payload stays the JSON it is: checking it against a model costs as much as
    # a short node does, and it comes from our own workflow.
    @activity.defn(name=name)
    async def run(task: Any) -> Any:
        return await one(task, choose)

    return run
