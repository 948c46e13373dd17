"""The file of keys from the command line: made, rotated, listed, and never shown."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Dalang


def test_keys_are_made_used_and_listed(dalang: Dalang, tmp_path: Path) -> None:
    """The first key is used at once, the next one when it is told to be; no output holds a key."""
    path = tmp_path / "keys.json"
    first = dalang("keys", "new", "--file", path, "--json").json
    assert first["used"]
    made = dalang("keys", "new", "--file", path, "--id", "next")
    assert (made.code, made.out) == (0, "next\n")
    assert "dalang keys use next" in made.err
    listed = dalang("keys", "list", "--file", path, "--json").json["items"]
    assert listed == [{"keyId": first["keyId"], "used": True}, {"keyId": "next", "used": False}]
    assert dalang("keys", "use", "next", "--file", path).code == 0
    shown = dalang("keys", "list", "--file", path).out
    assert "next used" in " ".join(shown.split())
    for secret in json.loads(path.read_text())["keys"].values():
        assert secret not in shown + made.out + made.err
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_done_is_told(dalang: Dalang, tmp_path: Path) -> None:
    """No file, no such key, a key twice, and a file that is none of keys."""
    path = tmp_path / "keys.json"
    assert dalang("keys", "list").code == 2
    assert dalang("keys", "list", "--file", path).code == 1
    assert dalang("keys", "use", "a", "--file", path).code == 1
    assert dalang("keys", "new", "--id", "a", "--file", path).code == 0
    again = dalang("keys", "new", "--id", "a", "--file", path)
    assert (again.code, "already" in again.err) == (1, True)
    path.write_text("password")
    assert "not JSON" in dalang("keys", "new", "--file", path).err
