"""Artifacts: files of a tenant, kept once per content, with a row that says where each came from.

The bytes are stored before the row is, so a row never leads to nothing; a file without a row, left by a process that
died between the two, is nobody's and is found again when the same content comes. Deleting goes the other way round,
holding the row: who brings the same content at that moment waits, and stores it anew.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.artifact_files import Files, collected, files_of, verified
from dalang.artifact_references import file_name_of, media_type_of
from dalang.errors import NotFound
from dalang.settings import Settings
from dalang.store.artifacts import Artifact, delete_artifact, put_artifact, unused_artifacts, use_artifact
from dalang.store.engine import transaction

DELETED_AT_ONCE = 200


class Artifacts:
    """The artifacts of all tenants. One per process."""

    def __init__(self, engine: AsyncEngine, files: Files, max_bytes: int) -> None:
        self._engine = engine
        self.files = files
        self.max_bytes = max_bytes

    @classmethod
    def of(cls, engine: AsyncEngine, settings: Settings) -> Artifacts:
        """Return the artifacts that the settings describe."""
        return cls(engine, files_of(settings), settings.artifact_max_bytes)

    async def put(
        self,
        tenant_id: str,
        chunks: AsyncIterable[bytes],
        *,
        by: str,
        media_type: str | None = None,
        name: str | None = None,
        run_id: UUID | None = None,
        node_id: str | None = None,
    ) -> Artifact:
        """Keep content and return the row of it.

        Raises:
            ArtifactTooLarge: it is larger than an artifact may be.
            Unavailable: the store is away.
        """
        async with collected(chunks, self.files.folder, self.max_bytes) as incoming:
            if not await self.files.exists(tenant_id, incoming.digest):
                await self.files.put(tenant_id, incoming.digest, incoming.path)
            async with transaction(self._engine, tenant_id) as conn:
                kept = await put_artifact(
                    conn,
                    tenant_id,
                    digest=incoming.digest,
                    size=incoming.size,
                    media_type=media_type_of(media_type),
                    name=file_name_of(name),
                    created_by=by,
                    run_id=run_id,
                    node_id=node_id,
                )
                if not await self.files.exists(tenant_id, incoming.digest):  # deleted between the two
                    await self.files.put(tenant_id, incoming.digest, incoming.path)
                return kept

    async def open(self, tenant_id: str, digest: str) -> tuple[Artifact, AsyncIterator[bytes]]:
        """Return an artifact and its content, which is verified while it is read.

        Raises:
            NotFound: the tenant has none with this digest.
        """
        async with transaction(self._engine, tenant_id) as conn:
            found = await use_artifact(conn, tenant_id, digest)
        if found is None:
            raise NotFound(f"There is no artifact {digest}.")
        return found, verified(self.files.read(tenant_id, digest), digest)

    async def delete(self, tenant_id: str, digest: str, unused_since: datetime | None = None) -> bool:
        """Delete an artifact, unless it was used since; tell whether it was there."""
        async with transaction(self._engine, tenant_id) as conn:
            is_there = await delete_artifact(conn, tenant_id, digest, unused_since)
            if is_there:
                await self.files.delete(tenant_id, digest)
            return is_there

    async def delete_unused(self, tenant_id: str, since: datetime) -> int:
        """Delete what nobody has used since then, of runs that have ended; return how many, a part at a time."""
        async with transaction(self._engine, tenant_id) as conn:
            digests = await unused_artifacts(conn, tenant_id, since, DELETED_AT_ONCE)
        await self.files.sweep()
        return sum([await self.delete(tenant_id, digest, since) for digest in digests])
