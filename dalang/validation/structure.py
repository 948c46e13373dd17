"""The graph of a plan: ids, ends of edges, cycles, roots, orphans; and the numbered graph the other checks work on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dalang.graph import find_cycle
from dalang.plan import Edge, Node, Plan, PlanHead, with_derived_ids
from dalang.validation.report import Problems, Steps
from dalang.validation.shape import Item, Shape

_MAX_CYCLES = 10
_MAX_PATH = 20


@dataclass(slots=True)
class NodeAt:
    """A node of the graph; ``model`` is None if it is malformed."""

    id: str
    steps: Steps
    model: Node | None
    is_finally: bool
    incoming: list[EdgeAt] = field(default_factory=list)
    outgoing: list[EdgeAt] = field(default_factory=list)
    dangling: list[str | None] = field(default_factory=list)
    """The ids of edges whose other end is no node: an error already, which is not to be counted twice."""


@dataclass(slots=True, eq=False)
class EdgeAt:
    """An edge between two nodes that exist; ``model`` is None if it is malformed."""

    id: str | None
    steps: Steps
    model: Edge | None
    source: int
    target: int


@dataclass(slots=True)
class Draft:
    """A plan under validation. Nodes and edges are numbered; what repeats an id is not among them."""

    head: PlanHead
    nodes: list[NodeAt]
    index: Mapping[str, int]
    edges: list[EdgeAt]
    is_complete: bool
    """Whether every node and every edge is known, so that what is not there can be held against the plan."""
    edge_ids: dict[str, Steps] = field(default_factory=dict)
    """The ids of all edges, those outside of the graph too, and where they stand."""
    order: list[int] = field(default_factory=list)
    """The nodes, each after all it depends on; without those on a cycle or behind one."""

    @property
    def is_acyclic(self) -> bool:
        """Whether all nodes could be ordered."""
        return len(self.order) == len(self.nodes)

    def path(self, numbers: Iterable[int]) -> str:
        """Return ``a -> b -> c``, shortened in the middle."""
        names = [self.nodes[number].id for number in numbers]
        if len(names) > _MAX_PATH:
            half = _MAX_PATH // 2
            names = [*names[:half], f"({len(names) - 2 * half} more)", *names[-half:]]
        return " -> ".join(names)


def build_draft(shape: Shape, problems: Problems) -> Draft:
    """Return the numbered graph of ``shape``; what is wrong with ids and ends becomes a problem."""
    nodes, index, all_named = _number_nodes(shape, problems)
    draft = Draft(shape.head, nodes, index, [], all_named)
    _number_edges(draft, shape.edges, problems)
    draft.order = _ordered(draft)
    return draft


def check_structure(draft: Draft, has_nodes: bool, problems: Problems) -> None:
    """Report cycles, the lack of a root or of any node, and orphans."""
    if not has_nodes:
        problems.error("NO_NODES", ("nodes",), "The plan has no node; give it at least one in `nodes`.")
        return
    if not draft.is_acyclic:
        _report_cycles(draft, problems)
    main = [node for node in draft.nodes if not node.is_finally]
    if main and draft.is_complete and all(node.incoming or node.dangling for node in main):
        problems.error("NO_ROOT", ("nodes",), "Every node has an incoming edge, so none could start.")
    if not draft.is_complete or not any(node.incoming for node in main):
        return
    for node in main:
        if not node.incoming and not node.outgoing and not node.dangling:
            message = f"No edge leads to or from `{node.id}`: it starts at once, and nothing waits for it."
            problems.warning("ORPHAN", node.steps, message, node.id)


def _number_nodes(shape: Shape, problems: Problems) -> tuple[list[NodeAt], dict[str, int], bool]:
    nodes: list[NodeAt] = []
    index: dict[str, int] = {}
    all_named = True
    for items, is_finally in ((shape.nodes, False), (shape.finally_, True)):
        for item in items:
            node_id = item.model.node_id if item.model is not None else item.text("nodeId", "node_id")
            if node_id is None:
                all_named = False
                continue
            first = index.setdefault(node_id, len(nodes))
            if first < len(nodes):
                message = f"The nodeId `{node_id}` is taken by {problems.pointer(nodes[first].steps)}; ids are unique."
                problems.error("DUPLICATE_NODE_ID", (*item.steps, "nodeId"), message, node_id)
                continue
            nodes.append(NodeAt(node_id, item.steps, item.model, is_finally))
    return nodes, index, all_named


def _derive_ids(items: list[Item[Edge]]) -> None:
    """Give every edge its id, as the plan will have it; done once, because it copies."""
    edges = tuple(item.model for item in items if item.model is not None)
    derived = iter(with_derived_ids(Plan(name="plan").model_copy(update={"edges": edges})).edges)
    for item in items:
        if item.model is not None:
            item.model = next(derived)


def _number_edges(draft: Draft, items: list[Item[Edge]], problems: Problems) -> None:
    _derive_ids(items)
    taken = draft.edge_ids
    for item in items:
        edge_id = item.model.edge_id if item.model is not None else item.text("edgeId", "edge_id")
        if edge_id is not None:
            first = taken.setdefault(edge_id, item.steps)
            if first is not item.steps:
                message = f"The edgeId `{edge_id}` is taken by {problems.pointer(first)}; ids are unique in a plan."
                problems.error("DUPLICATE_EDGE_ID", (*item.steps, "edgeId"), message, edge=edge_id)
        ends = _ends(draft, item, edge_id, problems)
        if ends is None:
            continue
        source, target = ends
        edge = EdgeAt(edge_id, item.steps, item.model, source, target)
        draft.edges.append(edge)
        draft.nodes[source].outgoing.append(edge)
        draft.nodes[target].incoming.append(edge)


def _ends(draft: Draft, item: Item[Edge], edge_id: str | None, problems: Problems) -> tuple[int, int] | None:
    """Return the numbers of the nodes that an edge connects, or None if it cannot be part of the graph."""
    numbers: list[int] = []
    for alias, name in (("sourceNodeId", "source_node_id"), ("targetNodeId", "target_node_id")):
        node_id = item.text(alias, name) if item.model is None else getattr(item.model, name)
        if node_id is None and item.model is None:
            draft.is_complete = False
            return None
        number = draft.index.get(node_id or "")
        if number is None:
            message = f"There is no node `{node_id}`{problems.hint(node_id or '', draft.index) or '.'}"
            key = alias if alias in item.raw else name
            problems.error("UNKNOWN_NODE", (*item.steps, key), message, edge=edge_id)
        else:
            numbers.append(number)
    if len(numbers) < 2:
        for number in numbers:
            draft.nodes[number].dangling.append(edge_id)
        return None
    source, target = numbers
    if source == target:
        node_id = draft.nodes[source].id
        message = f"The edge leads from `{node_id}` to itself; a plan has no cycles."
        problems.error("SELF_LOOP", item.steps, message, node_id, edge_id)
        return None
    ends = draft.nodes[source], draft.nodes[target]
    if ends[0].is_finally != ends[1].is_finally:
        message = (
            f"The edge connects `{ends[0].id}` and `{ends[1].id}`, of which one is a `finally` node: these run when all"
            " others have ended, so edges connect them with each other only."
        )
        problems.error("FINALLY_EDGE", item.steps, message, edge=edge_id)
        return None
    return source, target


def _ordered(draft: Draft) -> list[int]:
    missing = [len(node.incoming) for node in draft.nodes]
    queue = deque(number for number, count in enumerate(missing) if not count)
    order: list[int] = []
    while queue:
        number = queue.popleft()
        order.append(number)
        for edge in draft.nodes[number].outgoing:
            missing[edge.target] -= 1
            if not missing[edge.target]:
                queue.append(edge.target)
    return order


def _report_cycles(draft: Draft, problems: Problems) -> None:
    """Report cycles that have no node in common, up to some number of them."""
    left = set(range(len(draft.nodes))).difference(draft.order)
    for _ in range(_MAX_CYCLES):
        numbers = [number for number in range(len(draft.nodes)) if number in left]
        pairs = [(edge.source, edge.target) for edge in draft.edges if edge.source in left and edge.target in left]
        cycle = find_cycle(numbers, pairs)
        if cycle is None:
            return
        first = draft.nodes[cycle[0]]
        message = f"These nodes wait for each other: {draft.path(cycle)}. Remove one of these edges."
        problems.error("CYCLE", first.steps, message, first.id)
        left.difference_update(cycle)
