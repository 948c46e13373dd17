"""A rehearsal as a picture: when each node waited and worked, by the hours of the run that was rehearsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from dalang.api.ui.marks import NODE_MARKS
from dalang.api.ui.telling import duration
from dalang.statuses import NodeStatus

MAX_ROWS = 120
_ROW, _TOP, _LEFT, _WIDTH, _RIGHT = 24, 26, 190, 760, 70
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400)


def gantt(trace: Mapping[str, Any], names: Mapping[str, str]) -> Markup:
    """Return one rehearsal (``trace_wire``) as SVG; its critical path is marked, errors of attempts are red."""
    rows: Sequence[Mapping[str, Any]] = trace["nodes"][:MAX_ROWS]
    length = max([trace["makespanMs"], *(one["endMs"] or 0 for one in rows), 1])
    critical = set(trace["criticalPath"])
    height = _TOP + _ROW * len(rows) + 6
    parts = [
        Markup(
            '<line x1="{0}" x2="{0}" y1="{1}" y2="{2}"/><text x="{0}" y="14" text-anchor="middle">{3}</text>'
        ).format(_x(at, length), _TOP - 6, height, duration(at / 1000) if at else "0")
        for at in _ticks(length)
    ]
    for row, one in enumerate(rows):
        parts.append(_bar(row, one, length, one["nodeId"] in critical, names.get(one["nodeId"], one["nodeId"])))
    label = f"Rehearsal of {len(rows)} nodes in {duration(length / 1000)}"
    return Markup(
        '<svg class="chart rehearsed" xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{}" '
        'viewBox="0 0 {} {}" width="{}" height="{}">{}</svg>'
    ).format(label, _LEFT + _WIDTH + _RIGHT, height, _LEFT + _WIDTH + _RIGHT, height, Markup().join(parts))


def _bar(row: int, one: Mapping[str, Any], length: int, critical: bool, name: str) -> Markup:
    y = _TOP + row * _ROW
    start = one["endMs"] if one["startMs"] is None else one["startMs"]
    mark = NODE_MARKS[NodeStatus(one["status"])]
    waited = f", waited {duration((start - one['readyMs']) / 1000)}" if start > one["readyMs"] else ""
    worked = duration((one["endMs"] - start) / 1000)
    told = f"{name}: {mark.word}, {worked}{waited}{', critical path' if critical else ''}"
    bars = [_rect("wait", one["readyMs"], start, y + 9, 4, length)] if start > one["readyMs"] else []
    attempts = one["attempts"] or [{"startMs": start, "endMs": one["endMs"]}]
    for attempt in attempts:
        tone = "bad" if "error" in attempt else mark.tone
        bars.append(_rect(f"bar {tone}", attempt["startMs"], attempt["endMs"], y + 4, 14, length))
    return Markup(
        '<g{}><title>{}</title><text class="name" x="{}" y="{}" text-anchor="end">{}</text>{}'
        '<text x="{}" y="{}">{}</text></g>'
    ).format(
        Markup(' class="critical"') if critical else "",
        told,
        _LEFT - 10,
        y + 15,
        name if len(name) <= 26 else f"{name[:25]}…",
        Markup().join(bars),
        f"{_x(one['endMs'], length) + 6:.1f}",
        y + 15,
        worked,
    )


def _rect(kind: str, start: float, end: float, y: float, height: float, length: int) -> Markup:
    x = _x(start, length)
    width = max(_x(end, length) - x, 2)
    rect = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}" rx="2"/>')
    return rect.format(kind, f"{x:.1f}", y, f"{width:.1f}", height)


def _x(at: float, length: int) -> float:
    return round(_LEFT + _WIDTH * at / length, 1)


def _ticks(length: int) -> list[float]:
    """Return where the time is told: some six places at round figures, in milliseconds."""
    seconds = length / 1000
    if seconds < 1:
        step = length / 5
    else:
        whole = next((one for one in _STEPS if seconds / one <= 7), None)
        step = 1000 * (whole if whole is not None else 86_400 * max(1, round(seconds / 86_400 / 6)))
    return [at * step for at in range(int(length // step) + 1)]
