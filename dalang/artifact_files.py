"""Where the bytes of artifacts are kept: in a folder, or in a store that speaks S3.

Keys are (tenant, digest), so equal contents of two tenants are two files. A file is written whole or not at all. What
is read is checked against its digest before the last of it is handed out (:func:`verified`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import parse_qsl, quote, urlsplit

from dalang.errors import DalangError, NotFound, Unavailable
from dalang.settings import Settings, SettingsError

CHUNK_BYTES = 1024 * 1024
LEFT_SECONDS = 86_400
"""So old is what nobody writes any more."""
S3_SCHEME = "s3://"
_OPTIONS = frozenset(("endpoint", "region"))


class ArtifactTooLarge(DalangError):
    """The content has more bytes than an artifact may have."""


class ArtifactDamaged(DalangError):
    """The stored bytes are not those that the digest was made of."""


class Files(Protocol):
    """A store of files."""

    folder: Path | None
    """Where incoming content is collected; None: the system's folder for temporary files."""

    async def put(self, tenant_id: str, digest: str, path: Path) -> None:
        """Keep the content of a file. Raises Unavailable."""

    async def exists(self, tenant_id: str, digest: str) -> bool:
        """Tell whether it is there. Raises Unavailable."""

    def read(self, tenant_id: str, digest: str) -> AsyncIterator[bytes]:
        """Go through the content. Raises NotFound, Unavailable."""

    async def delete(self, tenant_id: str, digest: str) -> None:
        """Delete it, if it is there. Raises Unavailable."""

    async def sweep(self) -> None:
        """Delete what processes that were killed have left half written. Raises Unavailable."""


class FolderFiles:
    """Files ``<root>/<tenant>/<two digits>/<digest>``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.folder: Path | None = root / ".incoming"

    def _path(self, tenant_id: str, digest: str) -> Path:
        # A tenant's name may hold anything, and must not lead out of the folder.
        return self._root / f"t-{quote(tenant_id, safe='')}" / digest[:2] / digest

    async def put(self, tenant_id: str, digest: str, path: Path) -> None:
        """Give the file its place."""
        target = self._path(tenant_id, digest)

        def place() -> None:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside = target.with_name(f".{uuid.uuid4().hex}")
            try:
                os.link(path, beside)
            except OSError:  # a file system without links, or another one
                shutil.copyfile(path, beside)
            beside.replace(target)

        with _unavailable():
            await asyncio.to_thread(place)

    async def exists(self, tenant_id: str, digest: str) -> bool:
        """Tell whether it is there."""
        with _unavailable():
            return await asyncio.to_thread(self._path(tenant_id, digest).is_file)

    async def read(self, tenant_id: str, digest: str) -> AsyncIterator[bytes]:
        """Go through the content."""
        with _unavailable():
            try:
                file = await asyncio.to_thread(self._path(tenant_id, digest).open, "rb")
            except FileNotFoundError:
                raise NotFound(f"The file of artifact {digest} is gone.") from None
            with file:
                while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    yield chunk

    async def delete(self, tenant_id: str, digest: str) -> None:
        """Delete it, if it is there."""
        with _unavailable():
            await asyncio.to_thread(self._path(tenant_id, digest).unlink, missing_ok=True)

    async def sweep(self) -> None:
        """Delete incoming files that nobody can be writing any more."""

        def unlink_old() -> None:
            before = time.time() - LEFT_SECONDS
            folders = (self._root / ".incoming").glob("*"), self._root.glob("t-*/*/.*")
            for path in (path for found in folders for path in found):
                if path.is_file() and path.stat().st_mtime < before:
                    path.unlink(missing_ok=True)

        with _unavailable():
            await asyncio.to_thread(unlink_old)


class S3Files:
    """Objects ``<prefix>/<tenant>/<digest>`` of a bucket; credentials are the ``AWS_`` variables, as usual."""

    folder: Path | None = None

    def __init__(self, url: str) -> None:
        try:
            import obstore
            from obstore.store import S3Store
        except ImportError:
            raise SettingsError("DALANG_ARTIFACTS names an S3 bucket: pip install 'dalang[s3]'") from None
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if not parts.netloc or "@" in parts.netloc or options.keys() - _OPTIONS:
            raise SettingsError(
                "DALANG_ARTIFACTS must look like s3://bucket/prefix?region=eu-central-1, with &endpoint=https://... "
                "for another service than Amazon's; credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        endpoint = options.get("endpoint")
        more: dict[str, Any] = {}
        if endpoint is not None:
            more = {"endpoint": endpoint, "client_options": {"allow_http": endpoint.startswith("http://")}}
        if "region" in options:
            more["region"] = options["region"]
        self._obstore = obstore
        self._store = S3Store(parts.netloc, prefix=parts.path.strip("/") or None, **more)

    @staticmethod
    def _key(tenant_id: str, digest: str) -> str:
        return f"t-{quote(tenant_id, safe='').replace('%', '=')}/{digest}"

    async def put(self, tenant_id: str, digest: str, path: Path) -> None:
        """Send the file, a large one in parts."""
        with self._errors(digest):
            await self._obstore.put_async(self._store, self._key(tenant_id, digest), path)

    async def exists(self, tenant_id: str, digest: str) -> bool:
        """Tell whether it is there."""
        try:
            with self._errors(digest):
                await self._obstore.head_async(self._store, self._key(tenant_id, digest))
        except NotFound:
            return False
        return True

    async def read(self, tenant_id: str, digest: str) -> AsyncIterator[bytes]:
        """Go through the content."""
        with self._errors(digest):
            found = await self._obstore.get_async(self._store, self._key(tenant_id, digest))
            async for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)

    async def delete(self, tenant_id: str, digest: str) -> None:
        """Delete it, if it is there."""
        with contextlib.suppress(NotFound), self._errors(digest):
            await self._obstore.delete_async(self._store, self._key(tenant_id, digest))

    async def sweep(self) -> None:
        """Leave that to a rule of the bucket, which ends uploads in parts that nobody completes."""

    @contextlib.contextmanager
    def _errors(self, digest: str) -> Any:
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError:
            raise NotFound(f"The file of artifact {digest} is gone.") from None
        except (BaseError, OSError) as error:
            raise Unavailable(f"The store of artifacts does not answer: {str(error)[:300]}") from error


def files_of(settings: Settings) -> Files:
    """Return the store that the settings name; raises SettingsError."""
    if settings.artifacts.startswith(S3_SCHEME):
        return S3Files(settings.artifacts)
    return FolderFiles(Path(settings.artifacts) if settings.artifacts else settings.home.absolute() / "artifacts")


def scratch_file(folder: Path | None) -> IO[bytes]:
    """Return a file to write and read that is gone when it is closed."""
    if folder is not None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=folder)


@dataclass(frozen=True)
class Incoming:
    """Content that was collected into a file."""

    path: Path
    digest: str
    size: int


@contextlib.asynccontextmanager
async def collected(chunks: AsyncIterable[bytes], folder: Path | None, limit: int) -> AsyncIterator[Incoming]:
    """Collect content into a temporary file, which is gone after the block.

    Raises:
        ArtifactTooLarge: it has more than ``limit`` bytes.
    """
    if folder is not None:
        await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="artifact-", delete=False) as file:
        path = Path(file.name)
        try:
            hashed, size = hashlib.sha256(), 0
            async for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    raise ArtifactTooLarge(f"An artifact may have {limit:,} bytes at most.")
                hashed.update(chunk)
                await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(_flush, file)
            yield Incoming(path, hashed.hexdigest(), size)
        finally:
            await asyncio.to_thread(path.unlink, missing_ok=True)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


async def verified(chunks: AsyncIterator[bytes], digest: str) -> AsyncIterator[bytes]:
    """Hand content on, the last of it only when all of it is what the digest was made of.

    Raises:
        ArtifactDamaged: it is not.
    """
    hashed, held = hashlib.sha256(), b""
    async for chunk in chunks:
        hashed.update(chunk)
        if held:
            yield held
        held = chunk
    if hashed.hexdigest() != digest:
        raise ArtifactDamaged(f"The file of artifact {digest} is damaged: its content has another digest.")
    if held:
        yield held


@contextlib.contextmanager
def _unavailable() -> Any:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"The store of artifacts cannot be used: {error.strerror or error}") from error
