"""``/docs``: the reference of this API as a page of our own, since the usual ones load their scripts from elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Response
from starlette.responses import RedirectResponse

router = APIRouter(include_in_schema=False)

_STATIC = Path(__file__).parent / "static"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def _file(name: str, media: str) -> Response:
    return Response((_STATIC / name).read_bytes(), media_type=media, headers=_HEADERS)


@router.get("/")
async def root() -> Response:
    """Lead to the pages that people look at."""
    return RedirectResponse("ui/")


@router.get("/docs")
async def page() -> Response:
    """The page."""
    return _file("docs.html", "text/html; charset=utf-8")


@router.get("/docs/docs.js")
async def script() -> Response:
    """Its script."""
    return _file("docs.js", "text/javascript; charset=utf-8")


@router.get("/docs/docs.css")
async def style() -> Response:
    """Its style."""
    return _file("docs.css", "text/css; charset=utf-8")
