"""Merkle trees as RFC 9162 has them (section 2.1): one hash for a list, and short proofs that something is in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def leaf_hash(content: bytes) -> bytes:
    """Return the hash of one entry; no entry has the hash of a pair."""
    return hashlib.sha256(b"\x00" + content).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over hashes of entries."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    half = _half(len(leaves))
    return _pair(root(leaves[:half]), root(leaves[half:]))


def proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the hashes that lead from the entry at ``index`` to the root, the nearest first."""
    if len(leaves) < 2:
        return []
    half = _half(len(leaves))
    if index < half:
        return [*proof(leaves[:half], index), root(leaves[half:])]
    return [*proof(leaves[half:], index - half), root(leaves[:half])]


def root_by_proof(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root of the list of ``size`` entries that has ``leaf`` at ``index``; None: that is no proof of it."""
    if not 0 <= index < size:
        return None
    if size == 1:
        return None if path else leaf
    if not path:
        return None
    half, last = _half(size), path[-1]
    if index < half:
        below = root_by_proof(leaf, index, half, path[:-1])
        return None if below is None else _pair(below, last)
    below = root_by_proof(leaf, index - half, size - half, path[:-1])
    return None if below is None else _pair(last, below)


def _half(size: int) -> int:
    """The largest power of two that is smaller than ``size``."""
    return 1 << ((size - 1).bit_length() - 1)


def _pair(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
