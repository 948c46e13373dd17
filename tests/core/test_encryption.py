"""Keys and ciphertexts: one content is one ciphertext, keys rotate, and no text of a problem holds a key."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload

from dalang import watched_file
from dalang.encryption_keys import Keys, read_keys, watched_keys, with_new_key, with_used_key
from dalang.errors import InvalidDocument
from dalang.payload_codec import (
    COMPRESS_BYTES,
    KEY_ID,
    EncryptingCodec,
    UndecryptablePayload,
    decrypted,
    encrypted,
    is_encrypted,
)
from dalang.settings import Settings, SettingsError
from dalang.stack.private_files import write_private


def keys(*key_ids: str, used: str = "", seed: int = 1) -> Keys:
    texts = {one: base64.b64encode(bytes([seed + at]) * 32).decode() for at, one in enumerate(key_ids)}
    return read_keys(json.dumps({"use": used or key_ids[0], "keys": texts}))


def payload(data: bytes = b'"something"') -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=data)


@given(st.binary(max_size=300), st.integers(min_value=0, max_value=2 * COMPRESS_BYTES))
def test_what_is_encrypted_comes_back(data: bytes, more: int) -> None:
    """Of every size, with its metadata; compressed or not."""
    one = payload(data + b"x" * more)
    sealed = encrypted(one, keys("k").used)
    assert is_encrypted(sealed)
    assert decrypted(sealed, keys("other", "k", seed=0)) == one


def test_equal_payloads_are_one_ciphertext() -> None:
    """They are stored by content (TRAPS 9); others differ in everything, also under another key."""
    known = keys("a", "b")
    first, second = encrypted(payload(), known.known["a"]), encrypted(payload(), known.known["a"])
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    other = encrypted(payload(b'"something."'), known.known["a"])
    assert other.data[:24] != first.data[:24]
    assert encrypted(payload(), known.known["b"]).data[:24] != first.data[:24]


def test_the_wire_format_is_what_the_documentation_says() -> None:
    """Workers in other languages are written after docs/encryption.md: this is its recipe, in a second hand."""
    import hmac

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    sealed = encrypted(payload(), keys("k").used)
    assert dict(sealed.metadata) == {
        "encoding": b"binary/encrypted",
        "cipher": b"dalang/AES-256-GCM/1",
        "encryption-key-id": b"k",
    }
    derived = hmac.digest(b"\x01" * 32, b"dalang payload encryption", "sha256")
    once = hmac.digest(derived, sealed.data[:12], "sha256")
    plain = AESGCM(once).decrypt(sealed.data[12:24], sealed.data[24:], b"k")
    assert plain[:1] == b"\x00"
    assert Payload.FromString(plain[1:]) == payload()


def test_what_was_changed_is_refused() -> None:
    """In its data or in its key's name; so is what another key of the same name made, and what others encrypted."""
    known, other = keys("k", "l"), keys("k", seed=9)
    sealed = encrypted(payload(), known.used)
    for at in (0, 13, 25, -1):
        changed = Payload(metadata=sealed.metadata, data=sealed.data)
        data = bytearray(changed.data)
        data[at] ^= 1
        changed.data = bytes(data)
        with pytest.raises(UndecryptablePayload, match="changed"):
            decrypted(changed, known)
    short = Payload(metadata=sealed.metadata, data=b"short")
    with pytest.raises(UndecryptablePayload, match="changed"):
        decrypted(short, known)
    with pytest.raises(UndecryptablePayload, match="another one"):
        decrypted(sealed, other)
    sealed.metadata[KEY_ID] = b"l"
    with pytest.raises(UndecryptablePayload, match="changed"):
        decrypted(sealed, known)
    sealed.metadata[KEY_ID] = b"m"
    with pytest.raises(UndecryptablePayload, match=r"'m'.*DALANG_ENCRYPTION_KEYS_FILE"):
        decrypted(sealed, known)
    sealed.metadata["cipher"] = b"AES"
    with pytest.raises(UndecryptablePayload, match="not by Dalang"):
        decrypted(sealed, known)


def test_rotation_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new key is known before it is used; what the old one encrypted stays readable; plain payloads pass."""
    monkeypatch.setattr(watched_file, "LOOK_SECONDS", 0)
    path = tmp_path / "keys.json"
    old, text = with_new_key(path)
    write_private(path, text)
    watched = watched_keys(Settings(encryption_keys_file=str(path)))
    assert watched is not None
    codec = EncryptingCodec(watched)

    def sealed() -> Payload:
        return asyncio.run(codec.encode([payload()]))[0]

    first = sealed()
    new, text = with_new_key(path, "2027")
    write_private(path, text)
    assert sealed() == first
    write_private(path, with_used_key(path, new))
    second = sealed()
    assert (first.metadata[KEY_ID], second.metadata[KEY_ID]) == (old.encode(), b"2027")
    plain = payload(b"1")
    assert asyncio.run(codec.decode([first, plain, second])) == [payload(), plain, payload()]
    assert asyncio.run(codec.encode([first])) == [first]
    assert oct(path.stat().st_mode)[-3:] == "600"


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """The group may read it, as Kubernetes mounts it; nobody else may."""
    path = tmp_path / "keys.json"
    path.write_text(with_new_key(path)[1])
    settings = Settings(encryption_keys_file=str(path))
    for mode in (0o644, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(SettingsError, match="chmod 600"):
            watched_keys(settings)
    for mode in (0o600, 0o440):
        path.chmod(mode)
        assert watched_keys(settings) is not None
    path.unlink()
    with pytest.raises(SettingsError, match="DALANG_ENCRYPTION_KEYS_FILE"):
        watched_keys(settings)
    assert watched_keys(Settings()) is None


@pytest.mark.parametrize(
    ("content", "pointer"),
    [
        ("{", ""),
        ("[]", ""),
        ('{"use": "a", "keys": {}}', ""),
        ('{"use": "b", "keys": {"a": "%s"}}', "/use"),
        ('{"use": "a", "keys": {"a": "hunter2"}}', "/keys/a"),
        ('{"use": "a", "keys": {"a": "%s", "b/c d": "%s"}}', "/keys/b~1c d"),
    ],
)
def test_a_keys_file_with_problems(content: str, pointer: str) -> None:
    """Each with its place, and none with a key."""
    secret = base64.b64encode(b"s" * 32).decode()
    with pytest.raises(InvalidDocument) as caught:
        read_keys(content.replace("%s", secret))
    assert [one.pointer for one in caught.value.problems] == [pointer]
    assert "hunter2" not in str(caught.value)
    assert secret not in str(caught.value)
    assert secret not in repr(read_keys('{"use": "a", "keys": {"a": "%s"}}'.replace("%s", secret)))
