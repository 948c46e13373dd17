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
    thread runs, and a third of the time that making them takes. In the end they count as old at once, and old ones are
    looked through rarely.
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
                gc.freeze()  # set aside whatever there is, and taken back, it is of the oldest generation
                gc.unfreeze()
                gc.enable()
