"""How a worker keeps its memory small: less searching for garbage, and what is free goes back to the system."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import time

from dalang.workflows.programs import holds_large

COLLECT_AFTER = 5_000
"""Objects more than before until the next search for garbage; Python's default is 700."""
_M_MMAP_THRESHOLD, _LARGE_BUFFER = -3, 256 * 1024
"""An option of GNU's mallopt(3), and its value in bytes: half a column of a large program."""
TIDY_SECONDS = 3.0
SHARE = 100
"""Tidying takes at most so small a part of the time."""
SHARE_OF_LARGE = 20
"""The same, before a large payload is read: that of an execution's program, whose one before has just ended."""


def spare_the_collector() -> None:
    """Keep what is loaded by now out of Python's search for garbage, and search less often.

    Workflow tasks and batches of events are many small objects that soon go; looking through all modules for each few
    hundred of them took a fifth of a worker's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def give_buffers_back() -> None:
    """Let the C library return large buffers to the system as soon as they are free, where it is that of GNU.

    It learns from the first large one that is freed to keep the next ones, in each thread: with a program of 20 MB,
    which is copied a few times at each continue-as-new, it kept 70 MB more.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BUFFER)


class Tidying:
    """Frees what executions left that have ended, while a large program is held, in a small part of the time.

    Each is a circle of objects with its program's payload and its state; Python by itself may leave it there until it
    has made half a million others. The program itself is few objects to look at: nothing is set aside from the search
    (``gc.freeze``), as that keeps for ever whatever is there at that moment, such as the execution that brought it.
    """

    def __init__(self, share: int = SHARE) -> None:
        self._share = share
        self._not_before = 0.0
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def step(self) -> None:
        """Do it, if it is time."""
        began = time.monotonic()
        if began < self._not_before or not holds_large():
            return
        gc.collect()
        if self._trim is not None:
            self._trim(0)
        now = time.monotonic()
        self._not_before = now + self._share * (now - began)


async def tidy_for_ever() -> None:
    """Tidy now and then, until cancelled."""
    tidying = Tidying()
    while True:
        await asyncio.sleep(TIDY_SECONDS)
        tidying.step()
