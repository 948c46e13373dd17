"""Artifacts: content kept once, whole or not at all, in a folder and in S3, for one tenant each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dalang.artifact_files import (
    ArtifactDamaged,
    ArtifactTooLarge,
    Files,
    FolderFiles,
    S3Files,
    collected,
    files_of,
    verified,
)
from dalang.artifact_references import digest_of, file_name_of, is_reference, media_type_of, reference_to
from dalang.artifacts import Artifacts
from dalang.errors import NotFound, Unavailable
from dalang.settings import Settings, SettingsError
from dalang.store.engine import create_engine
from tests.s3_server import S3, s3_server

LARGE = os.urandom(11 * 1024 * 1024)


async def pieces(content: bytes, size: int = 300_000) -> AsyncIterator[bytes]:
    for at in range(0, len(content), size):
        yield content[at : at + size]


async def joined(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    with s3_server() as server:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-checked")
        yield server


@pytest.fixture(params=["folder", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    if request.param == "folder":
        return FolderFiles(tmp_path / "artifacts")
    server: S3 = request.getfixturevalue("s3")
    return files_of(Settings(artifacts=f"s3://files/a/b?region=eu-central-1&endpoint={server.endpoint}"))


@pytest.mark.parametrize("content", [b"", b"small", LARGE], ids=["empty", "small", "large"])
async def test_what_is_put_is_read(files: Files, content: bytes) -> None:
    """By its digest, by its tenant; deleting twice is once."""
    async with collected(pieces(content), files.folder, len(content)) as incoming:
        assert incoming.digest == hashlib.sha256(content).hexdigest()
        assert not await files.exists("acme", incoming.digest)
        await files.put("acme", incoming.digest, incoming.path)
        await files.put("acme", incoming.digest, incoming.path)
    assert not incoming.path.exists()
    assert await joined(verified(files.read("acme", incoming.digest), incoming.digest)) == content
    assert await files.exists("acme", incoming.digest)
    for other in ("globex", "acme/..", "../acme", ""):
        assert not await files.exists(other, incoming.digest)
        with pytest.raises(NotFound):
            await joined(files.read(other, incoming.digest))
    await files.delete("acme", incoming.digest)
    await files.delete("acme", incoming.digest)
    assert not await files.exists("acme", incoming.digest)


async def test_too_much_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactTooLarge, match="999"):
        async with collected(pieces(b"x" * 1000, 100), tmp_path, 999):
            pass
    assert list(tmp_path.iterdir()) == []


async def test_damage_is_noticed_before_the_last_piece() -> None:
    """So nobody takes what he got for the whole."""
    digest = hashlib.sha256(b"aaabbbccc").hexdigest()
    got: list[bytes] = []

    async def read() -> None:
        async for chunk in verified(pieces(b"aaabXbccc", 3), digest):
            got.append(chunk)

    with pytest.raises(ArtifactDamaged):
        await read()
    assert got == [b"aaa", b"bXb"]


async def test_a_store_that_is_away_says_so(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or that does not know us; a folder that is none."""
    url = f"s3://files?region=x&endpoint={s3.endpoint}"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
    with pytest.raises(Unavailable, match="store of artifacts"):
        await S3Files(url).exists("acme", "0" * 64)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(Unavailable):
        await FolderFiles(tmp_path / "file").put("acme", "0" * 64, tmp_path / "file")


@pytest.mark.parametrize("url", ["s3://", "s3://key:secret@bucket", "s3://bucket?secret=x"])
def test_an_address_that_cannot_be_used_is_refused(url: str) -> None:
    """Also one with a password: settings are shown."""
    with pytest.raises(SettingsError, match="s3://bucket"):
        S3Files(url)


async def test_a_row_says_where_content_came_from(settings: Settings, tmp_path: Path) -> None:
    """The first who brought it; another tenant has none of it."""
    engine = create_engine(settings.database_url, pooled=False)
    artifacts = Artifacts(engine, FolderFiles(tmp_path), 1_000)
    first = await artifacts.put("acme", pieces(b"text"), by="kim", media_type="text/plain", name="../a b.txt")
    again = await artifacts.put("acme", pieces(b"text"), by="lee", media_type="image/png")
    assert (again.created_by, again.media_type, again.name, again.size) == ("kim", "text/plain", "a b.txt", 4)
    assert again.used_at > first.used_at
    found, chunks = await artifacts.open("acme", first.digest)
    assert (found.digest, await joined(chunks)) == (first.digest, b"text")
    with pytest.raises(NotFound):
        await artifacts.open("globex", first.digest)
    await artifacts.put("globex", pieces(b"text"), by="eve")
    assert await artifacts.delete("globex", first.digest)
    assert not await artifacts.delete("globex", first.digest)
    assert await joined((await artifacts.open("acme", first.digest))[1]) == b"text"

    left = tmp_path / ".incoming" / "artifact-left"
    left.write_text("by a process that was killed")
    os.utime(left, (0, 0))
    assert await artifacts.delete_unused("acme", datetime.now(UTC) - timedelta(days=1)) == 0
    assert not left.exists()
    assert await artifacts.delete_unused("acme", datetime.now(UTC) + timedelta(seconds=5)) == 1
    with pytest.raises(NotFound):
        await artifacts.open("acme", first.digest)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_references_names_and_media_types() -> None:
    digest = "ab" * 32
    assert digest_of(reference_to(digest)) == digest_of(digest) == digest
    assert is_reference(reference_to(digest))
    assert not is_reference(reference_to(digest) + "0")
    for wrong in ("artifact://md5/abc", reference_to(digest).upper(), "", "../x"):
        with pytest.raises(ValueError, match="no reference"):
            digest_of(wrong)
    assert media_type_of("text/html; charset=utf-8") == "text/html; charset=utf-8"
    for wrong in (None, "", "text", "text/html\r\nX: y", "a/b; boundary=x"):
        assert media_type_of(wrong) == "application/octet-stream"
    assert file_name_of("C:\\x\\..\\report 1.pdf") == "report 1.pdf"
    assert file_name_of('a"b\r\nc') == "a_b__c"
    assert file_name_of("..") is None
