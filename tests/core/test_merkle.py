"""Merkle trees: proofs lead to the root, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalang.merkle import leaf_hash, proof, root, root_by_proof


@given(st.integers(1, 70), st.data())
def test_each_entry_has_a_proof(size: int, data: st.DataObject) -> None:
    """For every place; not for another place, entry or path."""
    leaves = [leaf_hash(bytes([at])) for at in range(size)]
    index = data.draw(st.integers(0, size - 1))
    path, whole = proof(leaves, index), root(leaves)
    assert root_by_proof(leaves[index], index, size, path) == whole
    assert root_by_proof(leaf_hash(b"other"), index, size, path) != whole
    assert root_by_proof(leaves[index], index, size, [*path, whole]) != whole
    assert root_by_proof(leaves[index], size, size, path) is None
    if size > 1:
        assert root_by_proof(leaves[index], (index + 1) % size, size, path) != whole
        assert root_by_proof(leaves[index], index, size, path[1:]) != whole


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
    ],
)
def test_roots_are_those_of_the_standard(size: int, expected: str) -> None:
    """Those of Certificate Transparency: of nothing, and of one empty entry."""
    assert root([leaf_hash(b"")] * size).hex() == expected
