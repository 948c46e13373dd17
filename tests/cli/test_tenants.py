"""``dalang tenant check`` needs no server; ``dalang retention run`` says what is missing before it deletes anything."""

from __future__ import annotations

import json
from pathlib import Path

from dalang.signing import Keyring, new_key
from tests.cli.conftest import Dalang


def test_a_certificate_is_checked_without_a_server(dalang: Dalang, tmp_path: Path) -> None:
    """By the keys of who checks, not by those that came with it."""
    keys, certificate = tmp_path / "keys.pem", tmp_path / "certificate.json"
    keys.write_text(new_key())
    said = {"kind": "dalang.erasure", "tenantId": "acme", "erased": {"run_events": 8}}
    signature = Keyring.load(keys).sign(said)
    certificate.write_text(json.dumps({"certificate": said, "signature": signature}))
    valid = dalang("tenant", "check", certificate, "--keys", keys)
    assert (valid.code, valid.out) == (0, "✓ valid\n")
    certificate.write_text(json.dumps({"certificate": {**said, "erased": {}}, "signature": signature}))
    assert dalang("tenant", "check", certificate, "--keys", keys, "--json").json["valid"] is False
    keys.write_text(new_key())
    assert dalang("tenant", "check", certificate, "--keys", keys).code == 1
    assert dalang("tenant", "check", tmp_path / "none", "--keys", keys).code == 2


def test_without_a_policy_nothing_is_deleted(dalang: Dalang) -> None:
    """And it says which setting makes one."""
    said = dalang("retention", "run")
    assert said.code != 0
    assert "DALANG_" in said.err
