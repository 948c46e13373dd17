"""Making what has a million parts, in a thread, so that whoever is asked something else meanwhile answers at once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_lock = Lock()
_makers = 0


@contextmanager
def undisturbed() -> Iterator[None]:
    """Look for no garbage while much is made that stays.

    With every million objects more Python looks through all of them for cycles, a tenth of a second in which no other
    thread runs, and a third of the time that making them takes. What is there in the end is never looked through
    again; as it has no cycles, it goes when nobody holds it any more.
    """
    global _makers
    with _lock:
        _makers += 1
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            _makers -= 1
            if not _makers:
                gc.freeze()
                gc.enable()
