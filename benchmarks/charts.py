"""Bars as SVG that stands in the repository: readable by day and by night, by eye and by ear, the same every time.

A bar is a median, the thin line over it goes from the smallest to the largest value; its name and figure stand beside
it, so that no colour has to be told from another. Where values differ a hundredfold the axis is logarithmic and says
so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.results import Row, Spread, figure

WIDTH, LEFT, RIGHT, TOP = 860, 300, 150, 64
BAR, STEP, GROUP = 13, 21, 26
OWN = re.compile(r"dalang|planrun|local|light|segment|stored|\bplan\b", re.IGNORECASE)
"""Subjects of ours, which are drawn darker than what they are compared with, if they are."""
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-size:15px;font-weight:600}"
    ".small{font-size:11.5px;fill:#57606a}.case{font-weight:600}.ground{fill:#fff}.own{fill:#0969da}.other{fill:#a7b4c2}"
    ".spread{stroke:#24292f;stroke-width:1.4}.aim{stroke:#9a3412;stroke-width:1.4;stroke-dasharray:5 3}"
    ".axis{stroke:#8c959f}.aimed{font-size:11.5px;fill:#9a3412}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.ground{fill:#0d1117}.own{fill:#4493f8}"
    ".other{fill:#59636e}.spread{stroke:#e6edf3}.aim{stroke:#f0883e}.axis{stroke:#656c76}.aimed{fill:#f0883e}}"
)


@dataclass(frozen=True)
class Chart:
    """What a picture shows: the rows of one unit, and what is aimed at, if anything."""

    title: str
    unit: str
    rows: Sequence[Row]
    aim: float | None = None

    def svg(self) -> str:
        """Draw it."""
        scale = _Scale.of([*(value for row in self.rows for value in row["values"]), *([self.aim] if self.aim else [])])
        parts, y, first = list[str](), TOP, TOP - 6
        cases = dict.fromkeys(row["case"] for row in self.rows)
        groups = [(case, [row for row in self.rows if row["case"] == case]) for case in cases]
        alike = len({row["subject"] for row in self.rows}) == 1
        single = all(len(rows) == 1 for _, rows in groups)
        for case, rows in groups:
            if not single:
                parts.append(f'<text class="case" x="16" y="{y + 11}">{escape(_short(case, 100))}</text>')
                y += GROUP - 4
            for row in rows:
                name = row["subject"] if not single else case if alike else _name(row)
                parts += self._bar(name, row, y, scale)
                y += STEP
            y += 0 if single else 8
        axis = [f'<line class="axis" x1="{LEFT}" x2="{LEFT}" y1="{first}" y2="{y}"/>']
        if self.aim is not None:
            x = LEFT + scale.at(self.aim)
            axis.append(f'<line class="aim" x1="{x:.1f}" x2="{x:.1f}" y1="{first}" y2="{y}"/>')
            axis.append(
                f'<text class="aimed" x="{x:.1f}" y="{first - 3}" text-anchor="middle">aim {figure(self.aim)}</text>'
            )
        how = f"{self.unit}; bars are medians, thin lines the smallest and largest value"
        how += "; logarithmic" if scale.logarithmic else ""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 10}" width="{WIDTH}" role="img" '
            f'aria-labelledby="t d"><title id="t">{escape(self.title)}</title>'
            f'<desc id="d">{escape(self._told())}</desc>'
            f'<style>{STYLE}</style><rect class="ground" width="100%" height="100%"/>'
            f'<text class="title" x="16" y="22">{escape(self.title)}</text>'
            f'<text class="small" x="16" y="40">{escape(how)}</text>'
        )
        return "\n".join([head, *axis, *parts, "</svg>", ""])

    def _bar(self, name: str, row: Row, y: float, scale: _Scale) -> list[str]:
        spread = Spread.of(row["values"])
        middle, end = y + BAR / 2, scale.at(spread.median)
        compared = any(OWN.search(one["subject"]) for one in self.rows)
        kind = "other" if compared and not OWN.search(row["subject"]) else "own"
        parts = [
            f'<text x="{LEFT - 8}" y="{y + 11}" text-anchor="end">{escape(_short(name))}</text>',
            f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{max(end, 1):.1f}" height="{BAR}"/>',
        ]
        last = end
        if spread.high > spread.low:
            low, last = scale.at(spread.low), scale.at(spread.high)
            parts.append(
                f'<path class="spread" d="M{LEFT + low:.1f} {middle}H{LEFT + last:.1f}'
                f'M{LEFT + low:.1f} {middle - 3}v6M{LEFT + last:.1f} {middle - 3}v6"/>'
            )
        parts.append(f'<text class="small" x="{LEFT + last + 6:.1f}" y="{y + 11}">{figure(spread.median)}</text>')
        return parts

    def _told(self) -> str:
        told = [f"{_name(row)}: {Spread.of(row['values'])}" for row in self.rows]
        aim = f" The aim is {figure(self.aim)}." if self.aim is not None else ""
        return f"Medians in {self.unit}, with the smallest and the largest value. " + "; ".join(told) + "." + aim


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    logarithmic: bool

    @classmethod
    def of(cls, values: Sequence[float]) -> _Scale:
        above = [value for value in values if value > 0]
        if not above:
            return cls(0, 1, False)
        if max(above) > 100 * min(above):
            return cls(10 ** math.floor(math.log10(min(above))), max(above), True)
        return cls(0, max(above), False)

    def at(self, value: float) -> float:
        room = WIDTH - LEFT - RIGHT
        if self.logarithmic:
            return room * math.log10(max(value, self.low) / self.low) / math.log10(self.high / self.low)
        return room * max(value, 0) / self.high


def _name(row: Row) -> str:
    return f"{row['case']}, {row['subject']}"


def _short(name: str, most: int = 42) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
