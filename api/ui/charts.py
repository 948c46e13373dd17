"""Figures over time as a picture: stacked bars, drawn by the server, told in words to who does not see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from markupsafe import Markup

from dalang.api.ui.marks import RUN_MARKS
from dalang.api.ui.telling import number
from dalang.statuses import RunStatus

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 960, 200, 44, 22, 10
_ORDER = (RunStatus.COMPLETED, RunStatus.CANCELLED, RunStatus.FAILED)


def bars(found: Sequence[Counter[str]], since: datetime, step: timedelta, form: str) -> Markup:
    """Return a bar for each step, its statuses one on top of the other; ``form`` is that of times on the axis."""
    most = _round_up(max((sum(one.values()) for one in found), default=0))
    floor = _HEIGHT - _BOTTOM
    scale = (floor - _TOP) / most
    width = (_WIDTH - _LEFT) / len(found)
    parts = [_grid(value, floor - value * scale) for value in (0, most // 2, most) if value or most < 2]
    every = max(1, len(found) // 8)
    for at, counts in enumerate(found):
        x, y, begin = _LEFT + at * width, float(floor), since + at * step
        total = sum(counts.values())
        rects = []
        for status in _ORDER:
            if counts[status]:
                height = counts[status] * scale
                y -= height
                rects.append(_RECT.format(RUN_MARKS[status].tone, *_places(x + width * 0.12, y, width * 0.76, height)))
        words = ", ".join(f"{counts[one]} {RUN_MARKS[one].word.lower()}" for one in _ORDER if counts[one]) or "none"
        if total:
            parts.append(
                Markup("<g><title>{}: {}</title>{}</g>").format(f"{begin:{form}} UTC", words, Markup().join(rects))
            )
        if at % every == 0:
            parts.append(_TEXT.format(f"{x + width / 2:.1f}", _HEIGHT - 6, f"{begin:{form}}"))
    sums = sum(found, Counter())
    told = ", ".join(f"{sums[one]} {RUN_MARKS[one].word.lower()}" for one in _ORDER)
    return Markup(
        '<svg class="chart over-time" xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{}" '
        'viewBox="0 0 {} {}">{}</svg>'
    ).format(f"Runs that ended: {told}", _WIDTH, _HEIGHT, Markup().join(parts))


_RECT = Markup('<rect class="bar {}" x="{}" y="{}" width="{}" height="{}"/>')
_TEXT = Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>')


def _places(*values: float) -> tuple[str, ...]:
    return tuple(f"{value:.1f}" for value in values)


def _grid(value: int, y: float) -> Markup:
    line = Markup('<line x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="end">{}</text>')
    return line.format(_LEFT, _WIDTH, f"{y:.1f}", f"{y:.1f}", _LEFT - 8, f"{y + 4:.1f}", number(value))


def _round_up(value: int) -> int:
    """Return the next round figure, so that the axis is readable."""
    for size in (4, 10, 20, 40, 60, 100):
        if value <= size:
            return size
    power: int = 10 ** (len(str(value)) - 1)
    return next(power * one for one in (1, 2, 4, 6, 10, 20) if value <= power * one)
