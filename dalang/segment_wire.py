"""What goes to and comes from the worker of a segment (``wire.SEGMENT``)."""

from __future__ import annotations

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
    """Result of the activity of a segment: what was done, in that order, and which nodes have to go by themselves."""

    nodes: list[SegmentNode]
    alone: list[str]
