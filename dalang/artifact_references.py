"""References to artifacts: ``artifact://sha256/<digest>``, files that plans, inputs and outputs refer to.

The digest is that of the content, so a reference means the same bytes for ever, and whoever reads them can tell whether
they are these. A tenant's references mean nothing to another.
"""

from __future__ import annotations

import re

PREFIX = "artifact://sha256/"
DIGEST = re.compile(r"[0-9a-f]{64}")
DEFAULT_MEDIA_TYPE = "application/octet-stream"
MAX_NAME = 200
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,100}/[A-Za-z0-9!#$&^_.+-]{1,100}(; ?charset=[A-Za-z0-9_-]{1,40})?")
_UNSAFE = re.compile(r"[^\w .()+,=@-]")


def reference_to(digest: str) -> str:
    """Return the reference to the content with this SHA-256."""
    return PREFIX + digest


def is_reference(value: object) -> bool:
    """Tell whether a value is a reference to an artifact."""
    return isinstance(value, str) and value.startswith(PREFIX) and DIGEST.fullmatch(value, len(PREFIX)) is not None


def digest_of(reference: str) -> str:
    """Return the digest that a reference, or a digest by itself, holds.

    Raises:
        ValueError: it is neither.
    """
    digest = reference.removeprefix(PREFIX)
    if DIGEST.fullmatch(digest) is None:
        raise ValueError(f"{reference[:100]!r} is no reference to an artifact: {PREFIX} and 64 hexadecimal digits")
    return digest


def media_type_of(text: str | None) -> str:
    """Return a media type as it is kept: what is none is taken for bytes of any kind."""
    given = (text or "").strip()
    return given if _MEDIA_TYPE.fullmatch(given) else DEFAULT_MEDIA_TYPE


def file_name_of(text: str | None) -> str | None:
    """Return a file's name as it is kept: without folders and without what headers and shells would misread."""
    name = _UNSAFE.sub("_", (text or "").replace("\\", "/").rpartition("/")[2]).strip(" .")[:MAX_NAME]
    return name or None
