"""While much is made nobody looks for garbage, and afterwards somebody does again."""

from __future__ import annotations

import gc
import weakref

import pytest

from dalang.large_objects import undisturbed


def test_garbage_is_looked_for_when_the_last_one_is_done() -> None:
    """One within another, or one that fails, leaves the collector as it was."""
    assert gc.isenabled()
    with undisturbed():
        with pytest.raises(KeyError), undisturbed():
            raise KeyError
        assert not gc.isenabled()
    assert gc.isenabled()


def test_garbage_of_that_time_goes_later() -> None:
    """It is old at once, and not there for ever."""

    class Circle:
        """Refers to itself."""

    with undisturbed():
        one = Circle()
        one.me = one  # type: ignore[attr-defined]
        seen = weakref.ref(one)
        del one
    assert seen() is not None
    gc.collect(1)
    assert seen() is not None, "it is of the oldest generation"
    gc.collect()
    assert seen() is None
