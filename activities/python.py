"""Node types ``python`` and ``agent``, and every type registered with ``@node``: functions in this worker."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from functools import lru_cache
from pathlib import Path
from typing import Any

from dalang.activities.execution import HandlerLoop
from dalang.errors import ErrorType
from dalang.implementations import sha256_of
from dalang.nodes import InvalidInput, NodeContext, NodeFailure, PolicyViolation, Registration, Registry


@lru_cache(maxsize=1000)
def code_of(function: Any) -> dict[str, str]:
    """Return which code a function is: its name, and the SHA-256 of the source file as it is at the first call."""
    plain = inspect.unwrap(function)
    code = {"type": "python", "coordinate": f"{plain.__module__}:{plain.__qualname__}"}
    with contextlib.suppress(OSError, TypeError):  # it has no source: made while running, or of a compiled module
        source = inspect.getsourcefile(plain)
        if source is not None:
            code["digest"] = f"sha256:{hashlib.sha256(Path(source).read_bytes()).hexdigest()}"
    return code


class LocalFunctions:
    """Runs registered functions, coroutines on the handlers' loop and plain ones in threads."""

    def __init__(self, registry: Registry, loop: HandlerLoop) -> None:
        self.registry = registry
        self._loop = loop

    async def python(self, ctx: NodeContext, handler: str | None = None) -> Any:
        """Run the function that ``handler`` names (or the node's implementation's coordinate)."""
        name = handler or ctx.implementation.get("coordinate")
        if not name:
            raise InvalidInput("a python node names its function: handler: <name given to @node>")
        if handler is None and ctx.implementation.get("type") == "python":
            self._check_source(str(name), ctx.implementation.get("digest"))
        return await self.registered(ctx, str(name))

    def _check_source(self, name: str, digest: str | None) -> None:
        """Refuse a function whose source file is not the one that the plan names."""
        registration = self.registry.node(name)
        if registration is None or digest is None:
            return
        source = inspect.getsourcefile(inspect.unwrap(registration.function))
        found = "" if source is None else hashlib.sha256(Path(source).read_bytes()).hexdigest()
        if found != sha256_of(digest):
            text = f"the function {name} is not the one that the plan names: its source file has the SHA-256 {found}"
            raise PolicyViolation(text, details={"found": found, "expected": digest}, no_effect=True)

    async def registered(self, ctx: NodeContext, name: str) -> Any:
        """Run the function registered with ``@node`` as ``name``."""
        registration = self.registry.node(name)
        if registration is None:
            known = ", ".join(self.registry.node_types) or "none"
            raise InvalidInput(f"no function {name!r} is registered in this worker (there are: {known})")
        return await self._run(registration, ctx)

    async def agent(self, ctx: NodeContext, handler: str | None = None) -> Any:
        """Run the local agent that ``handler`` names, else one that has all required capabilities."""
        if handler is not None:
            registration = self.registry.agent(handler)
            problem = f"no agent {handler!r} is registered in this worker"
        else:
            registration = self.registry.find_agent(ctx.capabilities)
            problem = f"no agent in this worker has the capabilities {', '.join(ctx.capabilities) or '(none)'}"
        if registration is None:
            known = ", ".join(agent.name for agent in self.registry.agents) or "none"
            raise NodeFailure(f"{problem} (there are: {known})", type=ErrorType.RESOURCE_EXHAUSTED)
        return await self._run(registration, ctx)

    async def _run(self, registration: Registration, ctx: NodeContext) -> Any:
        ctx._made["implementation"] = code_of(registration.function)
        if inspect.iscoroutinefunction(registration.function):
            return await self._loop.run(lambda: registration.call(ctx))
        result = await self._loop.run_in_thread(lambda: registration.call(ctx))
        return await self._loop.run(lambda: result) if inspect.isawaitable(result) else result
