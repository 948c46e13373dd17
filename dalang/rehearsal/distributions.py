"""How long something takes, as people write it: ``90s``, ``uniform(1m, 3m)``, ``lognormal(2m, 10m)``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from random import Random

from dalang.durations import MAX_DURATION_MS, format_duration, parse_duration

_CALL = re.compile(r"\s*([a-zA-Z]+)\s*\(([^()]*)\)\s*")
_Z95 = 1.6448536269514722
"""The 95th percentile of the standard normal distribution."""

SHAPES = {
    "fixed": ("duration",),
    "uniform": ("min", "max"),
    "normal": ("mean", "sd"),
    "lognormal": ("median", "p95"),
    "triangular": ("min", "mode", "max"),
}
"""The distributions, with the names of their parameters; all are durations."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution of durations in milliseconds; draws are whole, never negative and never over ten years."""

    shape: str
    values: tuple[int, ...]

    def draw(self, rnd: Random) -> int:
        """Return one duration; a fixed one takes nothing from ``rnd``."""
        values = self.values
        if self.shape == "fixed":
            return values[0]
        if self.shape == "uniform":
            drawn = values[0] + (values[1] - values[0]) * rnd.random()
        elif self.shape == "normal":
            drawn = rnd.gauss(values[0], values[1])
        elif self.shape == "lognormal":
            drawn = values[0] * math.exp(rnd.gauss(0.0, math.log(values[1] / values[0]) / _Z95))
        else:
            drawn = rnd.triangular(values[0], values[2], values[1])
        return min(max(round(drawn), 0), MAX_DURATION_MS)

    def __str__(self) -> str:
        texts = [format_duration(value) for value in self.values]
        return texts[0] if self.shape == "fixed" else f"{self.shape}({', '.join(texts)})"


def fixed(ms: int) -> Distribution:
    """Return what always takes ``ms``."""
    return Distribution("fixed", (ms,))


def parse_distribution(value: object) -> Distribution:
    """Return the distribution that ``value`` is written as.

    Raises:
        ValueError: it is none; the text says what is wrong.
    """
    if isinstance(value, Distribution):
        return value
    if not isinstance(value, str):
        raise ValueError('a duration is a text such as "90s", "uniform(1m, 3m)" or "lognormal(2m, 10m)"')
    call = _CALL.fullmatch(value)
    if call is None:
        return fixed(parse_duration(value))
    shape = call[1].lower()
    if shape not in SHAPES:
        raise ValueError(f"there is no distribution {call[1]}; there are {', '.join(SHAPES)}")
    names = SHAPES[shape]
    texts = call[2].split(",")
    if len(texts) != len(names):
        raise ValueError(f"it is {shape}({', '.join(names)})")
    values = tuple(parse_duration(text.strip()) for text in texts)
    if shape in ("uniform", "triangular", "lognormal") and list(values) != sorted(values):
        raise ValueError(f"it takes {' <= '.join(names)}")
    if shape == "lognormal" and values[0] == 0:
        raise ValueError("the median of a lognormal distribution is more than 0")
    return Distribution(shape, values)
