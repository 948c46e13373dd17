"""What a process keeps of what it read or made before: what was used last, as much as fits."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class RecentlyUsed(Generic[K, V]):
    """Values by key, of one event loop; the least recently used are dropped when all together exceed ``limit``.

    How much a value counts for, such as its nodes or bytes, ``size`` tells when it is kept. The newest stays, however
    large it is: somebody asks for it. None is never kept.
    """

    def __init__(self, limit: int, size: Callable[[V], int]) -> None:
        self._limit, self._size = limit, size
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._total = 0
        self._making: WeakValueDictionary[K, asyncio.Lock] = WeakValueDictionary()

    def __contains__(self, key: K) -> bool:
        return key in self._kept

    def get(self, key: K) -> V | None:
        """Return the value that is kept under ``key``, which is used by that."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def keep(self, key: K, value: V) -> V:
        """Keep a value in place of what was kept under ``key``, and return it."""
        self.drop(key)
        self._kept[key] = value, self._size(value)
        self._total += self._kept[key][1]
        while self._total > self._limit and len(self._kept) > 1:
            self.drop(next(iter(self._kept)))
        return value

    def drop(self, key: K) -> None:
        """Forget what is kept under ``key``."""
        _, size = self._kept.pop(key, (None, 0))
        self._total -= size

    async def made(self, key: K, make: Callable[[], Awaitable[V]]) -> V:
        """Return the value that is kept under ``key``, or what ``make`` makes, once for all who ask meanwhile."""
        found = self.get(key)
        if found is not None:
            return found
        async with self._making.setdefault(key, asyncio.Lock()):
            found = self.get(key)  # somebody else may have made it
            if found is not None:
                return found
            value = await make()
            return value if value is None else self.keep(key, value)
