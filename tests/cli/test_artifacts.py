"""``dalang artifacts`` on a real stack."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Dalang

pytestmark = pytest.mark.usefixtures("here")
Write = Callable[..., Path]


def test_files_go_in_and_come_out(dalang: Dalang, tmp_path: Path) -> None:
    """As they were; the reference is what is printed."""
    content = os.urandom(3_000_000)
    (tmp_path / "data.csv").write_bytes(content)
    put = dalang("artifacts", "put", tmp_path / "data.csv")
    reference = f"artifact://sha256/{hashlib.sha256(content).hexdigest()}"
    assert (put.code, put.out) == (0, reference + "\n")
    got = dalang("artifacts", "get", reference, "-o", tmp_path / "copy")
    assert got.code == 0, got.err
    assert (tmp_path / "copy").read_bytes() == content
    listed = dalang("artifacts", "list", "--json").json["items"]
    assert [(one["name"], one["mediaType"], one["size"]) for one in listed] == [("data.csv", "text/csv", 3_000_000)]
    assert "data.csv" in dalang("artifacts", "list").out
    assert dalang("artifacts", "clean", "--unused-for", "1d").out == "0 deleted\n"


def test_what_is_not_there_is_said(dalang: Dalang, tmp_path: Path) -> None:
    """And nothing is written."""
    assert dalang("artifacts", "put", tmp_path / "nothing").code == 2
    assert dalang("artifacts", "get", "artifact://md5/x").code == 2
    gone = dalang("artifacts", "get", "0" * 64, "-o", tmp_path / "copy")
    assert (gone.code, "no artifact" in gone.err) == (1, True)
    assert list(tmp_path.iterdir()) == []
