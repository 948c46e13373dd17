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


async def tidy_for_ever() -> None:
    """While a large program is held, free now and then what executions left that have ended.

    Each is a circle of objects with its program's payload and its state; Python by itself may leave it there until it
    has made half a million others. The program itself is few objects to look at: nothing is set aside from the search
    (``gc.freeze``), as that keeps for ever whatever is there at that moment, such as the execution that brought it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    pause = TIDY_SECONDS
    while True:
        await asyncio.sleep(pause)
        if holds_large():
            began = time.monotonic()
            gc.collect()
            if trim is not None:
                trim(0)
            pause = max(TIDY_SECONDS, SHARE * (time.monotonic() - began))
