"""What ``ctx.artifacts`` does in a worker: handlers keep and open files, from whatever thread they run in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar
from uuid import UUID

from dalang.artifact_files import CHUNK_BYTES, ArtifactDamaged, ArtifactTooLarge, scratch_file
from dalang.artifact_references import digest_of, reference_to
from dalang.artifacts import Artifacts
from dalang.errors import NotFound, Unavailable
from dalang.node_artifacts import Content, NodeArtifacts
from dalang.nodes import InvalidInput, NetworkError
from dalang.store.engine import is_connection_error
from dalang.wire import NodeTask

T = TypeVar("T")


class WorkerArtifacts(NodeArtifacts):
    """The artifacts of one attempt. Made on the worker's loop, where the work is done whoever asks."""

    def __init__(self, artifacts: Artifacts, task: NodeTask, worker: str) -> None:
        super().__init__()
        self._artifacts = artifacts
        self._task = task
        self._worker = worker
        self._loop = asyncio.get_running_loop()

    def put(self, content: Content, *, media_type: str | None = None, name: str | None = None) -> str:
        """Keep content and return the reference to it."""
        return self._wait(lambda: self._put(content, media_type, name))

    def open(self, reference: str) -> IO[bytes]:
        """Return what a reference means as a file to read."""
        return self._wait(lambda: self._open(reference))

    async def put_async(self, content: Content, *, media_type: str | None = None, name: str | None = None) -> str:
        """Keep content and return the reference to it."""
        return await self._on_loop(lambda: self._put(content, media_type, name))

    async def open_async(self, reference: str) -> IO[bytes]:
        """Return what a reference means as a file to read."""
        return await self._on_loop(lambda: self._open(reference))

    async def put_chunks(self, chunks: AsyncIterator[bytes], media_type: str | None, name: str | None) -> str:
        """Keep content as it comes; on the worker's loop."""
        task = self._task
        with _told():
            kept = await self._artifacts.put(
                task["tenantId"],
                chunks,
                by=self._worker,
                media_type=media_type,
                name=name,
                run_id=UUID(task["runId"]),
                node_id=task["nodeId"],
            )
        return reference_to(kept.digest)

    async def _put(self, content: Content, media_type: str | None, name: str | None) -> str:
        if name is None and isinstance(content, Path):
            name = content.name
        if media_type is None and isinstance(content, str):
            media_type = "text/plain; charset=utf-8"
        return await self.put_chunks(_chunks(content), media_type, name)

    async def _open(self, reference: str) -> IO[bytes]:
        try:
            digest = digest_of(reference)
        except ValueError as error:
            raise InvalidInput(str(error)) from None
        with _told():
            return await self._copied(digest)

    async def _copied(self, digest: str) -> IO[bytes]:
        file: Any = None
        try:
            _, chunks = await self._artifacts.open(self._task["tenantId"], digest)
            # Beside the store, if it is a folder: the system's folder for temporary files may be in memory.
            file = await asyncio.to_thread(scratch_file, self._artifacts.files.folder)
            async for chunk in chunks:
                await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(file.seek, 0)
        except BaseException:
            if file is not None:
                file.close()
            raise
        found: IO[bytes] = file
        return found

    def _wait(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is not None:
            raise RuntimeError("in a coroutine: await ctx.artifacts.put_async(...), or open_async(...)")
        return asyncio.run_coroutine_threadsafe(_awaited(work), self._loop).result()

    async def _on_loop(self, work: Callable[[], Awaitable[T]]) -> T:
        if asyncio.get_running_loop() is self._loop:
            return await work()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_awaited(work), self._loop))


@contextmanager
def _told() -> Iterator[None]:
    """Say what went wrong as handlers do."""
    try:
        yield
    except (NotFound, ArtifactDamaged, ArtifactTooLarge) as error:
        raise InvalidInput(str(error)) from None
    except Unavailable as error:
        raise NetworkError(str(error)) from None
    except Exception as error:
        # A file that the handler named and that is not there is its own affair.
        if is_connection_error(error) and getattr(error, "filename", None) is None:
            raise NetworkError("the database of artifacts does not answer") from None
        raise


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


async def _chunks(content: Content) -> AsyncIterator[bytes]:
    if isinstance(content, bytes | str):
        data = content.encode() if isinstance(content, str) else content
        for at in range(0, len(data), CHUNK_BYTES):
            yield data[at : at + CHUNK_BYTES]
        return
    file = await asyncio.to_thread(content.open, "rb") if isinstance(content, Path) else content
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
    finally:
        if isinstance(content, Path):
            file.close()
