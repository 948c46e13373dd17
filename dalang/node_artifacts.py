"""``ctx.artifacts``: files that a node's inputs and outputs refer to instead of holding them."""

from __future__ import annotations

from pathlib import Path
from typing import IO

Content = bytes | str | Path | IO[bytes]
"""Bytes, a text (UTF-8), the path of a file, or a binary file that is read to its end."""


class NodeArtifacts:
    """Files of the tenant. ``put`` and ``open`` are for plain functions, which wait; coroutines await the other two.

    The base, which tests of handlers get, keeps files in memory.
    """

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def put(self, content: Content, *, media_type: str | None = None, name: str | None = None) -> str:
        """Keep content and return the reference to it, ``artifact://sha256/...``, for the outputs."""
        import hashlib

        data = _bytes(content)
        reference = f"artifact://sha256/{hashlib.sha256(data).hexdigest()}"
        self._kept[reference] = data
        return reference

    def open(self, reference: str) -> IO[bytes]:
        """Return what a reference means as a file to read; all of it has been checked against its digest.

        Raises:
            InvalidInput: it is no reference, or the tenant has no such artifact.
        """
        import io

        return io.BytesIO(self._kept[reference])

    async def put_async(self, content: Content, *, media_type: str | None = None, name: str | None = None) -> str:
        """As :meth:`put`, for coroutines."""
        return self.put(content, media_type=media_type, name=name)

    async def open_async(self, reference: str) -> IO[bytes]:
        """As :meth:`open`, for coroutines."""
        return self.open(reference)


def _bytes(content: Content) -> bytes:
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    return content.read_bytes() if isinstance(content, Path) else content.read()
