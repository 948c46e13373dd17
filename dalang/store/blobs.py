"""Large payloads of Temporal, kept in Postgres by content: histories hold a reference of a few bytes.

One row per content: a plan's program is one row however many activities, runs and continue-as-new carry it. Every
store touches the row (at most once an hour and process), and only what was untouched for longer than Temporal keeps
histories is deleted (``delete_unused_blobs``).
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

from sqlalchemy import any_, bindparam, delete, func, or_, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.types import Text
from temporalio import activity
from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    StorageDriver,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
)

from dalang.errors import NotFound
from dalang.store.engine import create_engine, is_connection_error
from dalang.store.tables import execution_runs, payload_blobs

DRIVER_NAME = "dalang-postgres"
"""Stands in every reference in Temporal's histories: never renamed."""
MAX_BLOB_BYTES = 256 * 1024 * 1024
LARGE_BYTES = 1024 * 1024
_KEY = "digest"
_INLINE_WORK_BYTES = 128 * 1024
"""Up to this size compressing takes about as long as handing it to a thread."""
_TOUCH_SECONDS = 3600.0
T = TypeVar("T")


@dataclass(frozen=True)
class Blob:
    """Stored bytes; ``size`` is what they are uncompressed."""

    digest: str
    data: bytes
    compressed: bool
    size: int

    def content(self) -> bytes:
        """Return the original bytes; raises ValueError when they are not what the digest says."""
        if self.size > MAX_BLOB_BYTES:
            raise ValueError(f"Blob {self.digest} is larger than {MAX_BLOB_BYTES} bytes.")
        content = self.data
        if self.compressed:
            try:
                content = zlib.decompressobj().decompress(self.data, self.size + 1)
            except zlib.error as error:
                raise ValueError(f"Blob {self.digest} was changed in the database: {error}.") from error
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise ValueError(f"Blob {self.digest} was changed in the database.")
        return content


def make_blob(content: bytes) -> Blob:
    """Return ``content`` as it is stored: compressed where that makes it smaller."""
    digest, packed = hashlib.sha256(content).hexdigest(), zlib.compress(content, level=1)
    if len(packed) < len(content):
        return Blob(digest, packed, True, len(content))
    return Blob(digest, content, False, len(content))


async def put_blobs(conn: AsyncConnection, blobs: Sequence[Blob]) -> None:
    """Store blobs; those that are there are touched."""
    # In one order everywhere: two transactions that store the same blobs must not wait for each other.
    rows = [vars(blob) for _, blob in sorted({blob.digest: blob for blob in blobs}.items())]
    statement = insert(payload_blobs)
    touched = {"touched_at": func.now()}
    await conn.execute(statement.on_conflict_do_update(index_elements=["digest"], set_=touched), rows)


async def get_blobs(conn: AsyncConnection, digests: Sequence[str]) -> dict[str, Blob]:
    """Which of these blobs are there?"""
    columns = [payload_blobs.c[name] for name in ("digest", "data", "compressed", "size")]
    is_wanted = payload_blobs.c.digest == any_(bindparam("digests", list(digests), ARRAY(Text)))
    return {row.digest: Blob(*row) for row in await conn.execute(select(*columns).where(is_wanted))}


async def delete_unused_blobs(conn: AsyncConnection, retention_seconds: float, *, limit: int = 1000) -> int:
    """Delete blobs that no history can refer to any more; return how many.

    ``retention_seconds`` is how long Temporal keeps the history of an ended run, with a margin. A history refers to
    what was stored since its run was created, so everything goes that was last touched before the oldest run that
    is open, or ended within the retention. A run that stays open for months keeps what is younger than itself.
    """
    now, retention = func.now(), func.make_interval(0, 0, 0, 0, 0, 0, retention_seconds)
    runs = execution_runs.c
    kept = select(func.min(runs.created_at)).where(
        or_(runs.completed_at.is_(None), runs.completed_at > now - retention)
    )
    oldest = func.least(now - retention, kept.scalar_subquery())
    # A process touches what it stores again only once an hour.
    old = payload_blobs.c.touched_at < oldest - func.make_interval(0, 0, 0, 0, 0, 0, 2 * _TOUCH_SECONDS)
    chosen = select(payload_blobs.c.digest).where(old).limit(limit).with_for_update(skip_locked=True)
    return int((await conn.execute(delete(payload_blobs).where(payload_blobs.c.digest.in_(chosen)))).rowcount)


class PostgresBlobDriver(StorageDriver):
    """External storage of the Temporal SDK in the table ``payload_blobs``.

    While the database is away it waits (at most ``wait_seconds``) instead of failing: a failed store would cost the
    node an attempt, and its effect would run again. ``on_wait`` is called before each new try; by default it
    heartbeats when in an activity. The SDK calls it on the event loop of the worker or client; calls from another loop
    (a client in a thread) open connections of their own, since those of ``engine`` belong to the loop that made them.

    Payloads up to ``cache_bytes`` in all are kept, as they are stored, so that replays and repeated stores need no
    database. ``on_large`` is called before one of :data:`LARGE_BYTES` is retrieved.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        wait_seconds: float = 120,
        cache_bytes: int = 64 * 1024 * 1024,
        on_wait: Callable[[], None] | None = None,
        on_large: Callable[[], object] | None = None,
    ) -> None:
        self._engine = engine
        self._wait_seconds = wait_seconds
        self._on_wait = on_wait or _heartbeat
        self._on_large = on_large
        self._blobs: _Recent[Blob] = _Recent(cache_bytes)
        self._stored: _Recent[float] = _Recent(100_000)
        self._home: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._lock = Lock()

    def name(self) -> str:
        """Return the name that stands in references."""
        return DRIVER_NAME

    def type(self) -> str:
        """Return the kind of storage, for Temporal's worker list."""
        return DRIVER_NAME

    async def store(self, context: StorageDriverStoreContext, payloads: Sequence[Payload]) -> list[StorageDriverClaim]:
        """Store payloads; one that this process stored within the hour needs no database."""
        contents = [payload.SerializeToString(deterministic=True) for payload in payloads]
        digests = [await _work(len(content), _sha256, content) for content in contents]
        new: dict[str, bytes] = {}
        for digest, content in zip(digests, contents, strict=True):
            if len(content) > MAX_BLOB_BYTES:
                raise ValueError(f"A payload of {len(content)} bytes is larger than {MAX_BLOB_BYTES}.")
            touched = self._stored.get(digest)
            if touched is None or time.monotonic() - touched > _TOUCH_SECONDS:
                new[digest] = content
        if new:
            blobs = [await _work(len(content), make_blob, content) for content in new.values()]

            async def put(conn: AsyncConnection) -> None:
                await put_blobs(conn, blobs)

            await self._patiently(put)
            for blob in blobs:
                self._stored.put(blob.digest, time.monotonic(), 1)
                self._blobs.put(blob.digest, blob, len(blob.data))
        return [StorageDriverClaim({_KEY: digest}) for digest in digests]

    async def retrieve(
        self, context: StorageDriverRetrieveContext, claims: Sequence[StorageDriverClaim]
    ) -> list[Payload]:
        """Return the payloads of ``claims``; raises :class:`NotFound` when one was deleted."""
        digests = [claim.claim_data[_KEY] for claim in claims]
        blobs = {digest: blob for digest in digests if (blob := self._blobs.get(digest)) is not None}
        missing = sorted(set(digests) - blobs.keys())
        if missing:

            async def get(conn: AsyncConnection) -> dict[str, Blob]:
                return await get_blobs(conn, missing)

            for digest, blob in (await self._patiently(get)).items():
                blobs[digest] = blob
                self._blobs.put(digest, blob, len(blob.data))
        for digest in missing:
            if digest not in blobs:
                raise NotFound(f"The payload {digest} is not in the database: it was deleted, or this is another one.")
        if self._on_large is not None and any(blob.size >= LARGE_BYTES for blob in blobs.values()):
            self._on_large()
        return [Payload.FromString(await _work(blobs[digest].size, blobs[digest].content)) for digest in digests]

    async def _patiently(self, query: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run ``query`` in a transaction; while the database is away, wait and try again."""
        deadline, pause = time.monotonic() + self._wait_seconds, 0.1
        engine = self._engine_of_this_loop()
        while True:
            try:
                async with engine.begin() as conn:
                    return await query(conn)
            except Exception as error:
                if not is_connection_error(error) or time.monotonic() + pause > deadline:
                    raise
            self._on_wait()
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads load, guards nothing
            pause = min(pause * 2, 2.0)

    def _engine_of_this_loop(self) -> AsyncEngine:
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._home is None:
                self._home = weakref.ref(loop)
            at_home = self._home() is loop
        return self._engine if at_home else create_engine(self._engine.url, pooled=False)


class _Recent(Generic[T]):
    """The most recently used values, up to a total size; safe to use from several threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._items: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: str) -> T | None:
        with self._lock:
            found = self._items.get(key)
            if found is None:
                return None
            self._items.move_to_end(key)
            return found[0]

    def put(self, key: str, value: T, size: int) -> None:
        with self._lock:
            if key in self._items:
                self._size -= self._items.pop(key)[1]
            if size > self._capacity:
                return
            self._items[key] = (value, size)
            self._size += size
            while self._size > self._capacity:
                self._size -= self._items.popitem(last=False)[1][1]


async def _work(size: int, function: Callable[..., T], *arguments: bytes) -> T:
    """Call ``function``, in a thread when it would hold up the event loop."""
    if size <= _INLINE_WORK_BYTES:
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _heartbeat() -> None:
    """Tell Temporal that the activity is alive; a wait for the database must not cost it its attempt."""
    if activity.in_activity():
        with suppress(RuntimeError):  # while its inputs are read the activity cannot heartbeat yet
            activity.heartbeat()
