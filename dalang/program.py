"""The program: a validated plan in the compact form that the engine runs.

A plan's pydantic models are for people; parsing 100,000 nodes takes seconds, far longer than a workflow task may.
:func:`~dalang.compilation.compile_plan` turns a *valid* plan into plain lists once, at the API; the workflow is given
that document and :class:`Program` only indexes it. Everything here is a pure function of the document: the same bytes
give the same program in every process, so a worker may keep programs by digest.

Nodes and edges are numbered in plan order (``finally`` nodes after the others); the engine works on these numbers.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from threading import Lock
from typing import Any

from dalang.expressions import Expression
from dalang.expressions import compile as compile_expression
from dalang.joins import JoinExpression, parse_join
from dalang.plan import (
    ERROR_PORT,
    REJECTED_PORT,
    SUCCESS_PORT,
)
from dalang.plan_containers import MAX_ELEMENTS
from dalang.program_columns import (
    CONDITION,
    MAPPING,
    PORT,
    TARGET_PORT,
    Column,
    EdgeColumns,
    EdgeIds,
    Grouped,
    Kinds,
    NodeColumns,
    named,
)
from dalang.templates import Template, compile_template

TASK_TEXTS = ("title", "description", "assignee", "candidateGroup")
"""Fields of a human node's task that are templates."""

WAITING_TYPES = frozenset({"sleep", "timer", "event", "human", "plan", "map", "loop"})
"""Node types without a handler: they wait, or are runs of their own."""
DRAINED_TYPES = WAITING_TYPES.union(
    ("noop", "http", "callback", "a2a", "mcp", "llm", "wasm", "container", "runtime-hub", "evaluator", "planner")
)
"""Node types that a pause lets end: their effect may be under way where nothing can stop it, they only wait, or they
are runs that are paused themselves. All others are functions in a worker, which are told."""

KEPT_NODES = 250_000
"""Of programs that no run may need any more; 100,000 nodes with two edges each take some 25 MB."""
JOIN_WORDS = ("allLive", "all", "any", "allDone")


class Program:
    """An indexed program document: everything the state machine asks about a plan, in constant time.

    ``ids`` and ``types`` go by node number; ``edges_out``, ``edges_in`` hold edge numbers in plan order. ``reads`` of a
    node are the nodes whose outputs its start may read, ``edge_reads`` the same for an edge's condition, ``kept`` the
    nodes whose outputs the end of the run or an undo reads: an output is held only as long as something may still read
    it. ``compensations`` go by the node that is undone.
    """

    def __init__(self, document: Mapping[str, Any], digest: str = "") -> None:
        nodes, edges = NodeColumns.of(document["nodes"]), EdgeColumns.of(document["edges"])
        self.document = document
        if nodes is document["nodes"]:  # who asks for the whole document has it elsewhere
            self.document = {key: value for key, value in document.items() if key not in ("nodes", "edges")}
        self.digest = digest
        self.repeat: int | None = document.get("repeat")
        """How many elements a map's run has: its one node stands for all, which are called "0", "1" and so on."""
        if self.repeat is not None:
            nodes = repeated(nodes, edges, self.repeat)
        self.nodes: Sequence[dict[str, Any]] = nodes.definitions
        self.retries: list[dict[str, Any]] = document["retries"]
        self.policy: str = document["policy"]
        self.priority: int = document["priority"]
        self.max_in_flight: int | None = document["maxInFlight"]
        self.timeout_ms: int | None = document["timeout"]
        self.planner: dict[str, Any] | None = document.get("planner")
        self.first_finally: int = document["finally"] if self.repeat is None else self.repeat
        self.ids, self.index = named(nodes.ids)
        kinds: Sequence[dict[str, Any]] = nodes.kinds.values
        self.types: Sequence[str] = Column([kind["type"] for kind in kinds], nodes.kinds.of)
        self._index_edges(edges)
        self.joins: Sequence[str] = Column([kind.get("join", "allLive") for kind in kinds], nodes.kinds.of)
        self.ranks = self._remaining_work()
        self.light: Sequence[int] = array("i", (number for number, node in enumerate(self.nodes) if "light" in node))
        """Nodes that are short and safe to run twice: several may be worked on in one activity."""
        self._templates: dict[tuple[str, int], Template | None] = {}
        self._join_expressions: dict[str, JoinExpression] = {}
        self._index_reads()

    def _index_edges(self, edges: EdgeColumns) -> None:
        self.edge_ids = EdgeIds(edges, self.ids)
        self.sources: Sequence[int] = edges.sources
        self.targets: Sequence[int] = edges.targets
        self.ports: Sequence[str] = edges.part(PORT)
        self.target_ports: Sequence[str | None] = edges.part(TARGET_PORT)
        self.mappings: Sequence[dict[str, str] | None] = edges.part(MAPPING)
        self.conditions: Sequence[str | None] = edges.part(CONDITION)
        self.edges_out = Grouped.places(self.sources, len(self.ids))
        self.edges_in = Grouped.places(self.targets, len(self.ids))

    def _remaining_work(self) -> list[int]:
        """Return, by node, the longest path of estimated work from it to an end: the order when slots are scarce."""
        waiting = self.edges_out.sizes()
        ranks = [max(node.get("estimate") or 0, 1) for node in self.nodes]
        longest = [0] * len(ranks)
        ready = [number for number, count in enumerate(waiting) if count == 0]
        while ready:
            node = ready.pop()
            ranks[node] += longest[node]
            for edge in self.edges_in[node]:
                source = self.sources[edge]
                longest[source] = max(longest[source], ranks[node])
                waiting[source] -= 1
                if waiting[source] == 0:
                    ready.append(source)
        return ranks

    def _index_reads(self) -> None:
        self.input_references: dict[int, tuple[str, ...]] = self._find_references()
        self.reads = Grouped(map(self._read_by, range(len(self.ids))))
        self.readers = array("i", [0]) * len(self.nodes)
        """How many starts may read each node's outputs, before anything has happened."""
        for sources in self.reads:
            for source in sources:
                self.readers[source] += 1
        self.edge_reads: dict[int, tuple[int, ...]] = {}
        for edge, condition in enumerate(self.conditions):
            if condition is not None:
                references = tuple(self.index[name] for name in compile_expression(condition).references)
                if references:
                    self.edge_reads[edge] = references
        self.compensations: dict[int, dict[str, Any]] = {
            number: node["compensation"] for number, node in enumerate(self.nodes) if "compensation" in node
        }
        self.pivots = tuple(number for number, node in enumerate(self.nodes) if node.get("pivot"))
        self.outputs_template = compile_template(self.document.get("outputs"))
        self.output_references = _references(self.outputs_template) if self.outputs_template else ()
        if self.repeat is not None:
            self.kept: tuple[int, ...] = tuple(range(self.repeat))
            return
        undo_templates = [compile_template(undo.get("inputs")) for undo in self.compensations.values()]
        undo_references = [name for template in undo_templates if template for name in _references(template)]
        self.kept = tuple(self.index[name] for name in dict.fromkeys((*self.output_references, *undo_references)))

    def _find_references(self) -> dict[int, tuple[str, ...]]:
        """Return by node the names of nodes that its own expressions read; equal nodes read the same."""
        found: dict[int, tuple[str, ...]] = {}
        for number, node in enumerate(self.nodes):
            if id(node) not in found:
                templates = (
                    self.inputs_template(number),
                    self.items_template(number),
                    self.task_template(number),
                    self.keys_template(number),
                )
                read = (name for one in templates if one is not None for name in _references(one))
                found[id(node)] = tuple(dict.fromkeys(read))
        return {number: names for number, node in enumerate(self.nodes) if (names := found[id(node)])}

    def _read_by(self, node: int) -> Iterable[int]:
        needed = dict.fromkeys(self.sources[edge] for edge in self.edges_in[node])
        needed.update(dict.fromkeys(self.index[name] for name in self.input_references.get(node, ())))
        return needed

    def inputs_template(self, node: int) -> Template | None:
        """Return the compiled ``inputs`` of a node, or None when they hold no expression."""
        return self._template("inputs", node, self.nodes[node].get("inputs"))

    def container(self, node: int) -> dict[str, Any] | None:
        """Return what a node of type plan, map or loop runs, or None for another node."""
        found: dict[str, Any] | None = self.nodes[node].get("container")
        return found

    def items_template(self, node: int) -> Template | None:
        """Return the compiled ``items`` of a map, or None when they hold no expression."""
        return self._template("items", node, (self.container(node) or {}).get("items"))

    def task_template(self, node: int) -> Template | None:
        """Return the compiled texts of a human node's task, or None when they hold no expression."""
        task = self.nodes[node].get("task") or {}
        return self._template("task", node, {key: task[key] for key in TASK_TEXTS if key in task} or None)

    def keys_template(self, node: int) -> Template | None:
        """Return the compiled keys of the pools that a node asks for, or None when they hold no expression."""
        pools = self.nodes[node].get("pools") or {}
        return self._template("keys", node, {name: key for name, (_, key) in pools.items() if key is not None} or None)

    def _template(self, what: str, node: int, written: Any) -> Template | None:
        """Return the compiled form of what is written in a node; one for all nodes that are equal."""
        if written is None:
            return None
        place = what, id(self.nodes[node])
        if place not in self._templates:
            self._templates[place] = compile_template(written)
        return self._templates[place]

    def condition(self, edge: int) -> Expression | None:
        """Return the compiled condition of an edge, or None."""
        source = self.conditions[edge]
        return None if source is None else compile_expression(source)

    def join_expression(self, node: int) -> JoinExpression | None:
        """Return the boolean join of a node, or None when its join is one of the words."""
        join = self.joins[node]
        if join in JOIN_WORDS:
            return None
        if join not in self._join_expressions:
            self._join_expressions[join] = parse_join(join)
        return self._join_expressions[join]

    def is_interruptible(self, node: int) -> bool:
        """Tell whether a pause that interrupts may stop the node: as it says, else by its type.

        The run below a container is told itself: stopped it would have ended. What asks for a callback is not asked
        twice: the answer to the first question may come at any time.
        """
        if self.container(node) is not None or "callback" in self.nodes[node]:
            return False
        said: bool | None = self.nodes[node].get("interruptible")
        return self.types[node] not in DRAINED_TYPES if said is None else said

    def node_priority(self, node: int) -> int:
        """Return the node's own priority, or the plan's."""
        own = self.nodes[node].get("priority")
        return self.priority if own is None else own

    def is_success_port(self, edge: int) -> bool:
        """Tell whether the edge leaves by ``success``, which carries all outputs."""
        return self.ports[edge] == SUCCESS_PORT

    def is_rejected_port(self, edge: int) -> bool:
        """Tell whether the edge leaves a human node by ``rejected``, which carries all outputs."""
        return self.ports[edge] == REJECTED_PORT and self.types[self.sources[edge]] == "human"

    def is_error_port(self, edge: int) -> bool:
        """Tell whether the edge leaves by ``error``."""
        return self.ports[edge] == ERROR_PORT


def repeated(nodes: NodeColumns, edges: EdgeColumns, count: Any) -> NodeColumns:
    """Return the nodes of a map's program: one and the same for every element.

    Raises:
        ValueError: the document is no such program.
    """
    if not isinstance(count, int) or not 0 <= count <= MAX_ELEMENTS or len(nodes.ids) != 1 or edges.ids:
        raise ValueError("a program is repeated when it has one node")
    return NodeColumns([str(number) for number in range(count)], Kinds(nodes.kinds.values, repeat(0, count)))


def _references(template: Template) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for _, expression in template.expressions for name in expression.references))


class ProgramCache:
    """Programs by plan digest, least recently used dropped: compiling again gives the same, so it is only memory."""

    def __init__(self, max_nodes: int = KEPT_NODES) -> None:
        self._programs: OrderedDict[str, Program] = OrderedDict()
        self._max_nodes = max_nodes
        self._nodes = 0
        self._lock = Lock()  # workflow tasks of several runs are worked on in several threads

    def find(self, digest: str) -> Program | None:
        """Return the program with this digest, if it is held: what is told of a digest only finds, it never puts in."""
        with self._lock:
            program = self._programs.get(digest)
            if program is not None:
                self._programs.move_to_end(digest)
            return program

    def largest(self) -> int:
        """Return how many nodes the largest program has that is held."""
        with self._lock:
            return max((len(program.ids) for program in self._programs.values()), default=0)

    def get(self, digest: str, make: Callable[[], Program]) -> Program:
        """Return the program with this digest, or the one that ``make`` makes when it is not held yet."""
        program = self.find(digest)
        if program is not None:
            return program
        program = make()
        with self._lock:
            if digest in self._programs:  # somebody else was faster
                return self._programs[digest]
            self._programs[digest] = program
            self._nodes += len(program.nodes)
            while self._nodes > self._max_nodes and len(self._programs) > 1:
                _, dropped = self._programs.popitem(last=False)
                self._nodes -= len(dropped.nodes)
            return program
