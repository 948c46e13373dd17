"""While much is made nobody looks for garbage, and afterwards somebody does again."""

from __future__ import annotations

import gc

import pytest

from dalang.large_objects import undisturbed


def test_garbage_is_looked_for_when_the_last_one_is_done() -> None:
    """One within another, or one that fails, leaves the collector as it was."""
    assert gc.isenabled()
    try:
        with undisturbed():
            with pytest.raises(KeyError), undisturbed():
                raise KeyError
            assert not gc.isenabled()
        assert gc.isenabled()
    finally:
        gc.unfreeze()
