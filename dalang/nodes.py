"""The SDK for node implementations: register functions with :func:`node` and :func:`agent`, fail with a typed error.

.. code-block:: python

    from dalang.nodes import NodeContext, ToolError, node

    @node("word-count")
    async def word_count(ctx: NodeContext, text: str) -> dict:
        ctx.progress("counting")
        return {"words": len(text.split())}

A function gets the context as ``ctx`` if it has such a parameter; its other parameters are filled from the node's
inputs by name. It may be ``async`` or plain (then it runs in a thread). It returns a JSON object, or any other JSON
value, which becomes the output ``result``. It may run more than once for one node - a retry, a worker that died - so an
effect on the outside world should carry ``ctx.idempotency_key``, which stays the same. Long work leaves its state with
``ctx.checkpoint(state)`` now and then; the run that follows finds it as ``ctx.restored``. Work that needs a person's
word raises :class:`AskPerson`, and finds it as ``ctx.answer`` when it is run again.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar, overload

from dalang.canonical import compact_json, find_unsafe
from dalang.errors import ErrorType, SuggestedAction
from dalang.masking import Mask
from dalang.node_artifacts import NodeArtifacts
from dalang.node_memory import Memory as Memory
from dalang.node_memory import Session as Session
from dalang.usage import added, usage_of

Handler = Callable[..., Any]
Endpoint = str | Callable[[Mapping[str, Any]], str | None] | None
"""Whom a function calls: a name, or a function from the node's inputs to one; an empty one is nobody."""
MAX_CHECKPOINT_BYTES = 16 * 1024 * 1024
F = TypeVar("F", bound=Handler)


class NodeFailure(Exception):
    """A failure that a handler reports: what went wrong, whether another attempt can help, what to do.

    ``retryable`` says that the same call may succeed later; it is repeated only if ``retryOn`` names the type, too.
    ``no_effect`` declares that this attempt has changed nothing outside: a node whose *first* attempt says so is not
    compensated. When in doubt leave it out; an undo of nothing does no harm, an effect that stays does.
    ``retry_after`` is for how many seconds a peer wants to be left alone: the next attempt waits so long at least.
    """

    type: ErrorType = ErrorType.UNKNOWN_ERROR
    retryable: bool = True

    def __init__(
        self,
        message: str,
        *,
        type: ErrorType | str | None = None,
        retryable: bool | None = None,
        details: Mapping[str, Any] | None = None,
        suggested_action: SuggestedAction | str | None = None,
        no_effect: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if type is not None:
            self.type = ErrorType(type)
        if retryable is not None:
            self.retryable = retryable
        self.details = dict(details or {})
        self.suggested_action = None if suggested_action is None else SuggestedAction(suggested_action)
        self.no_effect = no_effect
        self.retry_after = retry_after


class ToolError(NodeFailure):
    """A tool did its job wrongly or refused it; repeating the call will not help unless ``retryable`` says so."""

    type = ErrorType.TOOL_ERROR
    retryable = False


class LLMError(NodeFailure):
    """A model refused, was cut short or answered what cannot be used."""

    type = ErrorType.LLM_ERROR


class NetworkError(NodeFailure):
    """A peer could not be reached, or says that it is away."""

    type = ErrorType.NETWORK_ERROR


class InvalidInput(NodeFailure):
    """The inputs are wrong; the same inputs will be wrong again."""

    type = ErrorType.VALIDATION_ERROR
    retryable = False


class TimedOut(NodeFailure):
    """Something the handler waited for did not come in time."""

    type = ErrorType.TIMEOUT


class ResourceExhausted(NodeFailure):
    """A quota, a budget or space ran out."""

    type = ErrorType.RESOURCE_EXHAUSTED


class PolicyViolation(NodeFailure):
    """A rule forbids it."""

    type = ErrorType.POLICY_VIOLATION
    retryable = False


class AskPerson(Exception):
    """Ask a person, and run again with the answer: ``raise AskPerson("Which region?", form={...})``.

    Whoever raises it ends; the node is AWAITING_HITL with a human task of kind ``input``, holding no worker. With the
    answer the handler is called again as the same work - inputs, idempotency key, ``ctx.restored`` - and finds it as
    ``ctx.answer``. Who declines to answer fails the node (POLICY_VIOLATION).

    ``form`` is the JSON Schema of the answer's values, ``context`` is shown beside the question (Markdown). Asked is
    ``assignee``, else whoever is in ``group``, else anybody who may; after ``due`` seconds the node fails (TIMEOUT).
    """

    def __init__(
        self,
        question: str,
        *,
        form: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        title: str | None = None,
        assignee: str | None = None,
        group: str | None = None,
        due: float | None = None,
    ) -> None:
        super().__init__(question)
        self.question = question
        self.form = form
        self.context = context
        self.title = title
        self.assignee = assignee
        self.group = group
        self.due = due


class _KeptNowhere:
    """What a context outside of a worker answers to a checkpoint, in tests of handlers."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


def kept_nowhere(encoded: bytes) -> Awaitable[None]:
    """Take a checkpoint that nobody keeps."""
    return _KeptNowhere()


@dataclass(frozen=True, slots=True)
class Undoes:
    """What a compensation undoes: the work of a node, as far as it is known.

    ``idempotency_key`` is the one it was done under. ``outputs`` are ``{}`` unless it succeeded: of a node that failed,
    was stopped or was not heard of any more nobody knows what it did, so an undo looks before it acts.
    """

    idempotency_key: str
    status: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person answered: the ``values`` of the form, ``by`` whom, in which human ``task``."""

    values: Mapping[str, Any]
    by: str
    task: str
    notes: str | None = None


@dataclass(slots=True)
class NodeContext:
    """What a handler knows of the node it runs.

    ``attempt`` counts from 1; ``idempotency_key`` is the same for every attempt; ``run`` tells id, plan and requester.
    ``restored`` is the last state that :meth:`checkpoint` was given by an earlier attempt of the same work, or None.
    ``undoes`` is there when the handler runs as a compensation; ``idempotency_key`` is that of the undo then.
    """

    node_id: str
    name: str
    type: str
    run_id: str
    tenant_id: str
    inputs: Mapping[str, Any]
    idempotency_key: str
    attempt: int = 1
    max_attempts: int = 1
    capabilities: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    implementation: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    restored: Any = None
    _keep: Callable[[bytes], Awaitable[None]] = field(default=kept_nowhere, repr=False)
    undoes: Undoes | None = None
    callback_url: str | None = None
    """Of a node with ``callback``: the address at which somebody ends it; whoever has it may, so it is a secret."""
    answer: Answer | None = None
    """To the last question that the handler asked a person (:class:`AskPerson`)."""
    memory: Memory = field(default_factory=Memory)
    artifacts: NodeArtifacts = field(default_factory=NodeArtifacts, repr=False)
    """Files of the tenant, which inputs and outputs refer to: ``put``, ``open``."""
    _mask: Mask = field(default_factory=Mask, repr=False)
    """Takes secrets out of what leaves the handler."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _progress: dict[str, Any] = field(default_factory=dict)
    _used: dict[str, Any] = field(default_factory=dict)
    _made: dict[str, Any] = field(default_factory=dict)
    _counting: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def episodes(self) -> tuple[Mapping[str, Any], ...]:
        """What was done before under such a name, the most fitting first; see ``docs/memory.md``."""
        return self.memory.episodes

    @property
    def session(self) -> Session | None:
        """Where the node works apart from others, if its plan says so."""
        return self.memory.session

    def progress(self, message: str, fraction: float | None = None) -> None:
        """Tell how far the work is: a short text, and a part of 1 where that can be known."""
        self._progress.update(message=self._mask.text(str(message))[:500])
        if fraction is not None:
            self._progress["fraction"] = min(max(float(fraction), 0.0), 1.0)

    def checkpoint(self, state: Any) -> Awaitable[None]:
        """Leave a state (JSON) that another attempt goes on from: it finds it as ``ctx.restored``.

        The state is taken as it is at the call, replaces the one before, and never holds the handler up: small ones
        leave with the next heartbeat, within a second, larger ones are stored in Postgres meanwhile. A coroutine may
        ``await`` the answer, which waits until a large state is stored; nobody has to. None means: begin anew.

        Raises:
            InvalidInput: the state is no JSON, or too large.
        """
        unsafe = find_unsafe(state)
        if unsafe is not None:
            raise InvalidInput(f"what was given to ctx.checkpoint is not JSON: state{unsafe[0]} {unsafe[1]}")
        try:
            encoded = compact_json(self._mask(state))
        except TypeError as error:  # a mapping that is no dict
            raise InvalidInput(f"what was given to ctx.checkpoint is not JSON: {error}") from None
        if len(encoded) > MAX_CHECKPOINT_BYTES:
            raise InvalidInput(f"the checkpoint has {len(encoded):,} bytes; at most {MAX_CHECKPOINT_BYTES:,} are kept")
        return self._keep(encoded)

    def usage(self, *, tokens: int = 0, cost: float = 0.0) -> None:
        """Tell what the work has used since the last call; it counts for budgets, also when the attempt fails.

        Raises:
            InvalidInput: it is no amount.
        """
        given = {"tokens": tokens, "cost": cost}
        told = usage_of(given)
        if any(amount and name not in told for name, amount in given.items()):
            raise InvalidInput("ctx.usage takes a whole number of tokens and a cost, neither below 0")
        with self._counting:
            self._used = added(self._used, told)

    @property
    def stopping(self) -> bool:
        """Whether the work is no longer wanted: cancelled or out of time. A plain function should look and return."""
        return self._stop.is_set()


@dataclass(frozen=True)
class Registration:
    """A registered function: ``kind`` is ``node`` or ``agent``."""

    name: str
    function: Handler
    kind: str
    capabilities: tuple[str, ...] = ()
    takes_context: bool = False
    parameters: tuple[str, ...] = ()
    takes_any: bool = False
    endpoint: Endpoint = None
    light: bool = False

    def call(self, ctx: NodeContext) -> Any:
        """Call the function with what it asks for.

        Raises:
            InvalidInput: the node's inputs are not the function's parameters.
        """
        if self.takes_any:
            arguments = dict(ctx.inputs)
        else:
            arguments = {name: ctx.inputs[name] for name in self.parameters if name in ctx.inputs}
        if self.takes_context:
            arguments["ctx"] = ctx
        try:
            _signature(self.function).bind(**arguments)
        except TypeError as error:
            raise InvalidInput(f"the inputs do not fit {self.name}: {error}", no_effect=True) from None
        return self.function(**arguments)


class Registry:
    """Functions by name. Registering the same name again replaces it when it is the same function, else is refused."""

    def __init__(self) -> None:
        self._nodes: dict[str, Registration] = {}
        self._agents: dict[str, Registration] = {}

    def add(self, registration: Registration) -> None:
        """Take a function.

        Raises:
            ValueError: another function has this name.
        """
        table = self._agents if registration.kind == "agent" else self._nodes
        known = table.get(registration.name)
        if known is not None and known.function.__qualname__ != registration.function.__qualname__:
            raise ValueError(f"two functions are registered as {registration.kind} {registration.name!r}")
        if registration.kind == "node" and registration.name in BUILT_IN_TYPES:
            raise ValueError(f"{registration.name!r} is a built-in node type")
        table[registration.name] = registration

    def node(self, name: str) -> Registration | None:
        """Return the function registered as node type ``name``."""
        return self._nodes.get(name)

    def agent(self, name: str) -> Registration | None:
        """Return the local agent called ``name``."""
        return self._agents.get(name)

    def find_agent(self, capabilities: Iterable[str]) -> Registration | None:
        """Return the local agent that has all ``capabilities`` and the fewest others, the first of equals.

        Without capabilities it is the agent that claims none: the generalist.
        """
        wanted = set(capabilities)
        fitting = [agent for agent in self._agents.values() if wanted <= set(agent.capabilities)]
        return min(fitting, key=lambda agent: len(agent.capabilities), default=None)

    @property
    def node_types(self) -> tuple[str, ...]:
        """The names of all registered node types, in the order of registration."""
        return tuple(self._nodes)

    @property
    def light(self) -> frozenset[str]:
        """The names of the node types whose functions are registered as light."""
        return frozenset(name for name, registration in self._nodes.items() if registration.light)

    @property
    def agents(self) -> tuple[Registration, ...]:
        """All local agents, in the order of registration."""
        return tuple(self._agents.values())


BUILT_IN_TYPES = (
    *("noop", "sleep", "timer", "event", "human", "plan", "map", "loop"),
    *("python", "http", "agent"),
    *("mcp", "a2a", "llm"),
    *("wasm", "container", "runtime-hub"),
)
"""Node types that are always there."""

registry = Registry()
"""What :func:`node` and :func:`agent` fill and the worker reads."""


_signature = lru_cache(maxsize=1000)(inspect.signature)


def _register(
    function: F, name: str, kind: str, endpoint: Endpoint, capabilities: Iterable[str] = (), *, light: bool = False
) -> F:
    parameters = inspect.signature(function).parameters.values()
    named = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "ctx")
    registry.add(
        Registration(
            name=name,
            function=function,
            kind=kind,
            capabilities=tuple(capabilities),
            takes_context=any(p.name == "ctx" for p in parameters),
            parameters=named,
            takes_any=any(p.kind is p.VAR_KEYWORD for p in parameters),
            endpoint=endpoint,
            light=light,
        )
    )
    return function


@overload
def node(name: F, /) -> F: ...
@overload
def node(name: str | None = None, /, *, endpoint: Endpoint = None, light: bool = False) -> Callable[[F], F]: ...
def node(name: Any = None, /, *, endpoint: Endpoint = None, light: bool = False) -> Any:
    """Register a function as the node type ``name`` (default: its own name, with ``-`` for ``_``).

    A plan uses it as ``type: word-count``, or as ``type: python`` with ``handler: word-count``. ``endpoint`` says whom
    it calls, for its circuit breaker: by default the type has one, with an empty text it has none. ``light`` says that
    it is short and safe to run twice: several such nodes are run in one go, unless a plan says otherwise.
    """
    if callable(name):
        return node()(name)

    def decorate(function: F) -> F:
        return _register(function, name or function.__name__.replace("_", "-"), "node", endpoint, light=light)

    return decorate


def agent(name: str, *, capabilities: Iterable[str] = (), endpoint: Endpoint = None) -> Callable[[F], F]:
    """Register a function as the local agent ``name``, which offers ``capabilities``; ``endpoint`` as of a node type.

    A node of type ``agent`` goes to the agent its ``handler`` names, else to one with all its required capabilities.
    """

    def decorate(function: F) -> F:
        return _register(function, name, "agent", endpoint, capabilities)

    return decorate
