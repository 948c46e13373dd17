"""What goes to and comes from the worker of a segment (``wire.SEGMENT``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NotRequired, TypedDict


class SegmentInput(TypedDict):
    """Input of the activity of a segment; ``part`` is as ``segmenting.py`` cuts it."""

    runId: str
    tenantId: str
    keyRoot: str
    part: dict[str, Any]


class SegmentNode(TypedDict):
    """What became of one node of a segment, which was at work from ``began`` to ``ended`` (milliseconds, epoch).

    ``result`` is the NodeResult of one that succeeded, ``error`` the ErrorPayload of an attempt that failed, ``usage``
    what that used; with neither it was stopped.
    """

    node: str
    began: int
    ended: int
    result: NotRequired[dict[str, Any]]
    error: NotRequired[dict[str, Any]]
    usage: NotRequired[dict[str, Any]]


class SegmentResult(TypedDict):
    """Result of the activity of a segment: what was done, in that order, and which nodes have to go by themselves.

    Of a node that succeeded there is [node, began, milliseconds, kind, outputs]; the rest of its result is that of its
    ``kind``, which many share.
    """

    nodes: list[SegmentNode | list[Any]]
    alone: list[str]
    kinds: NotRequired[list[dict[str, Any]]]


def add(result: SegmentResult, node: SegmentNode) -> None:
    """Put what became of a node into the result of its segment."""
    if "result" not in node:
        result["nodes"].append(node)
        return
    kinds = result.setdefault("kinds", [])
    kind = {key: value for key, value in node["result"].items() if key != "outputs"}
    if not kinds or kinds[-1] != kind:
        kinds.append(kind)
    took = node["ended"] - node["began"]
    result["nodes"].append([node["node"], node["began"], took, len(kinds) - 1, node["result"]["outputs"]])


def unfolded(result: Mapping[str, Any]) -> Iterator[Any]:
    """Go through what became of the nodes of a segment, each as a :class:`SegmentNode`, if it makes sense."""
    for one in result["nodes"]:
        if isinstance(one, list):
            node, began, took, kind, outputs = one
            rest = result["kinds"][kind]
            yield {"node": node, "began": began, "ended": began + took, "result": {**rest, "outputs": outputs}}
        else:
            yield one
