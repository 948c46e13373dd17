"""Artifacts: files that inputs and outputs refer to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from dalang.api.auth import READERS, WORKERS, Admin, Principal, Reader, Worker, requires
from dalang.api.problems import TooLarge
from dalang.api.schemas import Answer, QueryModel, Time
from dalang.api.services import Service
from dalang.artifact_files import ArtifactTooLarge
from dalang.artifact_references import MAX_NAME, digest_of, reference_to
from dalang.errors import NotFound
from dalang.store.artifacts import Artifact, list_artifacts

router = APIRouter(prefix="/orchestrator/artifacts", tags=["artifacts"])

TRANSFER_SECONDS = 3_600.0
"""How long an upload may take."""
Opener = Annotated[Principal, Depends(requires(READERS | WORKERS))]
"""Agents outside of the workers open and bring files, too."""
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_ANY = {"application/octet-stream": _BYTES}
_KEPT: dict[int | str, dict[str, Any]] = {200: {"content": {"*/*": _BYTES}, "description": "The file."}}


class ArtifactItem(Answer):
    """A file: its reference, and where it came from first."""

    reference: str = Field(description="What inputs and outputs hold: `artifact://sha256/...`.")
    digest: str
    size: int = Field(description="In bytes.")
    media_type: str
    name: str | None
    created_by: str = Field(description="Who brought it, or the worker of the node.")
    run_id: UUID | None
    node_id: str | None
    created_at: datetime
    used_at: datetime = Field(description="When it was brought or opened last.")


class ArtifactPage(Answer):
    """A part of the list, the newest first."""

    items: Sequence[ArtifactItem]
    next: str | None


class ArtifactQuery(QueryModel):
    """Which artifacts."""

    run_id: UUID | None = Field(None, description="Those that came from nodes of this run.")
    node_id: str | None = Field(None, max_length=400, description="Those that came from this node.")
    limit: int = Field(50, ge=1, le=500)
    cursor: str | None = Field(None, description="`next` of the page before.")


class UploadQuery(QueryModel):
    """What it is called."""

    name: str | None = Field(None, max_length=MAX_NAME, description="The file's name, for whoever downloads it.")


class Unused(QueryModel):
    """Which artifacts."""

    unused_since: Time = Field(description="Those that nobody has brought or opened since (RFC 3339).")


class ArtifactsDeleted(Answer):
    """How many artifacts were deleted; `more` says that there are others."""

    deleted: int
    more: bool


@router.post("", status_code=201, openapi_extra={"requestBody": {"required": True, "content": _ANY}})
async def upload_artifact(
    who: Worker, request: Request, query: Annotated[UploadQuery, Query()], it: Service
) -> ArtifactItem:
    """Keep the body as a file; the Content-Type is its media type."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > it.artifacts.max_bytes:
        raise TooLarge(f"An artifact may have {it.artifacts.max_bytes} bytes at most.")
    request.state.deadline.reschedule(asyncio.get_running_loop().time() + TRANSFER_SECONDS)
    media_type = request.headers.get("content-type")
    try:
        kept = await it.artifacts.put(
            who.tenant_id, request.stream(), by=who.subject, media_type=media_type, name=query.name
        )
    except ArtifactTooLarge as error:
        raise TooLarge(str(error)) from None
    return _item(kept)


@router.get("")
async def get_artifacts(who: Reader, query: Annotated[ArtifactQuery, Query()], it: Service) -> ArtifactPage:
    """List files, the newest first."""
    async with it.transaction(who.tenant_id) as conn:
        page = await list_artifacts(
            conn, who.tenant_id, run_id=query.run_id, node_id=query.node_id, limit=query.limit, cursor=query.cursor
        )
    return ArtifactPage(items=[_item(one) for one in page.items], next=page.cursor)


@router.get("/{digest}", response_class=Response, responses=_KEPT)
async def download_artifact(who: Opener, digest: str, it: Service) -> StreamingResponse:
    """Read a file; its content is checked on the way, and breaks off before its end if it is not what it was."""
    found, chunks = await it.artifacts.open(who.tenant_id, _digest(digest))
    begun = await anext(chunks, b"")  # a store that is away says so before the answer begins
    return StreamingResponse(_all(begun, chunks), media_type=found.media_type, headers=_headers(found))


@router.delete("/{digest}", status_code=204, response_class=Response)
async def delete_one_artifact(who: Admin, digest: str, it: Service) -> None:
    """Delete a file; what refers to it leads nowhere then."""
    if not await it.artifacts.delete(who.tenant_id, _digest(digest)):
        raise NotFound(f"There is no artifact {digest}.")


@router.delete("")
async def delete_unused_artifacts(who: Admin, query: Annotated[Unused, Query()], it: Service) -> ArtifactsDeleted:
    """Delete files that nobody has used for a while, of runs that have ended; some at a time."""
    deleted = await it.artifacts.delete_unused(who.tenant_id, query.unused_since)
    return ArtifactsDeleted(deleted=deleted, more=deleted > 0)


def _digest(text: str) -> str:
    try:
        return digest_of(text)
    except ValueError:
        raise NotFound(f"There is no artifact {text[:100]}.") from None


async def _all(begun: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield begun
    async for chunk in chunks:
        yield chunk


def _headers(found: Artifact) -> dict[str, str]:
    """Return headers with which no browser takes a file for a page of ours."""
    name = quote(found.name or found.digest, safe="")
    return {
        "Content-Length": str(found.size),
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "ETag": f'"{found.digest}"',
        "Cache-Control": "private, max-age=31536000, immutable",
    }


def _item(one: Artifact) -> ArtifactItem:
    return ArtifactItem(reference=reference_to(one.digest), **{name: getattr(one, name) for name in vars(one)})
