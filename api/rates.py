"""How often somebody may ask: a bucket for each that fills steadily, in this process alone."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from dalang.errors import Unavailable

MAX_BUCKETS = 10_000


class TooManyRequests(Unavailable):
    """Somebody asks too often; ``seconds`` is when he may again."""

    def __init__(self, seconds: float, message: str) -> None:
        super().__init__(message)
        self.seconds = seconds


class Rates:
    """Lets ``per_second`` requests of each token pass, and at once what ten seconds allow; 0 lets everything pass."""

    def __init__(
        self,
        per_second: float,
        now: Callable[[], float] = time.monotonic,
        message: str = "This token asks too often; try again later.",
    ) -> None:
        self._per_second = per_second
        self._message = message
        self._size = max(1.0, per_second * 10)
        self._now = now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, count: float = 1) -> None:
        """Count a request; with a ``count`` of 0 only ask whether there may be one.

        Raises:
            TooManyRequests: the bucket is empty.
        """
        if not self._per_second:
            return
        now = self._now()
        left, at = self._buckets.pop(key, (self._size, now))
        left = min(self._size, left + (now - at) * self._per_second)
        self._buckets[key] = (left - count if left >= 1 else left, now)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        if left < 1:
            raise TooManyRequests((1 - left) / self._per_second, self._message)
