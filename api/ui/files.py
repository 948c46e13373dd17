"""The style and the scripts of the pages, under an address that changes whenever one of them does.

So a browser keeps them for good, and modules that import each other by a relative address stay of one version.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request, Response

from dalang.errors import NotFound

router = APIRouter(prefix="/ui/static", include_in_schema=False)

_MEDIA = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FILES = {
    path.name: path.read_bytes() for path in sorted((Path(__file__).parent / "static").iterdir()) if path.is_file()
}
VERSION = hashlib.sha256(b"".join(name.encode() + content for name, content in _FILES.items())).hexdigest()[:16]
_TAGS = {name: f'"{hashlib.sha256(content).hexdigest()[:32]}"' for name, content in _FILES.items()}


def static(name: str) -> str:
    """Return the address of a file."""
    assert name in _FILES, name
    return f"/ui/static/{VERSION}/{name}"


@router.get("/{version}/{name}")
async def file(version: str, name: str, request: Request) -> Response:
    """Answer a file; under the address of another version, so that the next look asks again."""
    if name not in _FILES:
        raise NotFound(f"There is no file {name!r}.")
    kept = "public, max-age=31536000, immutable" if version == VERSION else "no-cache"
    headers = {"Cache-Control": kept, "ETag": _TAGS[name]}
    if request.headers.get("if-none-match") == _TAGS[name]:
        return Response(status_code=304, headers=headers)
    return Response(_FILES[name], media_type=_MEDIA[Path(name).suffix], headers=headers)
