"""Encryption of what Temporal holds: a payload codec with AES-256-GCM (``docs/encryption.md`` has the wire format).

Equal payloads under one key are one ciphertext: large ones are stored by content after the codec has run, and a
plan's program must stay one row however many runs carry it. So the nonce is synthetic, an HMAC of the content, and
each content has a key of its own, derived from the first half of that: 192 bits in all, so that no number of payloads
makes two contents share key and nonce. What this tells an onlooker is which payloads are equal.

What is not encrypted is read as it is: histories from before, and signals sent with the ``temporal`` CLI.
"""

from __future__ import annotations

import asyncio
import hmac
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

from dalang.encryption_keys import SETTING, Key, Keys
from dalang.errors import DalangError
from dalang.watched_file import WatchedFile

ENCODING = b"binary/encrypted"
CIPHER = b"dalang/AES-256-GCM/1"
KEY_ID = "encryption-key-id"
COMPRESS_BYTES = 64 * 1024
"""From here on payloads are mostly stored in Postgres, which compresses them; nobody can compress a ciphertext."""
MAX_BYTES = 256 * 1024 * 1024
_INLINE_WORK_BYTES = 128 * 1024
_PLAIN, _COMPRESSED = b"\x00", b"\x01"
_HALF = 12
T = TypeVar("T")


class UndecryptablePayload(DalangError):
    """A payload is encrypted under a key that this process does not know, or was changed; the text says which."""


class EncryptingCodec(PayloadCodec):
    """Encrypts with the key that is used, decrypts with all that are known; keys may change under way."""

    def __init__(self, keys: WatchedFile[Keys]) -> None:
        self._keys = keys

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Return the payloads encrypted; one that is encrypted stays as it is."""
        key = self._keys.current().used
        return [one if is_encrypted(one) else await _work(one.ByteSize(), encrypted, one, key) for one in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Return the payloads decrypted; one that is not encrypted stays as it is.

        Raises:
            UndecryptablePayload: as it says.
        """
        keys = self._keys.current()
        return [await _work(len(one.data), decrypted, one, keys) if is_encrypted(one) else one for one in payloads]


def is_encrypted(payload: Payload) -> bool:
    """Tell whether a payload is encrypted, by whomever."""
    return payload.metadata.get("encoding") == ENCODING


def encrypted(payload: Payload, key: Key) -> Payload:
    """Return a payload that holds this one, unreadable without the key."""
    content = payload.SerializeToString(deterministic=True)
    plain = _PLAIN + content
    if len(content) >= COMPRESS_BYTES:
        packed = zlib.compress(content, level=1)
        if len(packed) < len(content):
            plain = _COMPRESSED + packed
    key_id = key.key_id.encode()
    synthetic = hmac.digest(key.naming, plain, "sha256")[: 2 * _HALF]
    sealed = _cipher(key, synthetic).encrypt(synthetic[_HALF:], plain, key_id)
    return Payload(metadata={"encoding": ENCODING, "cipher": CIPHER, KEY_ID: key_id}, data=synthetic + sealed)


def decrypted(payload: Payload, keys: Keys) -> Payload:
    """Return the payload that an encrypted one holds.

    Raises:
        UndecryptablePayload: as it says.
    """
    key_id = payload.metadata.get(KEY_ID, b"")
    if payload.metadata.get("cipher") != CIPHER:
        raise UndecryptablePayload("A payload in Temporal is encrypted, and not by Dalang: it cannot be read.")
    key = keys.known.get(key_id.decode("utf-8", "replace"))
    if key is None:
        raise UndecryptablePayload(unknown_key(key_id))
    synthetic, sealed = payload.data[: 2 * _HALF], payload.data[2 * _HALF :]
    try:
        plain = _cipher(key, synthetic).decrypt(synthetic[_HALF:], sealed, key_id)
        return Payload.FromString(_unpacked(plain))
    except (InvalidTag, ValueError, DecodeError, zlib.error):
        message = (
            f"A payload in Temporal was changed, or key {key.key_id!r} is another one here than where it was made."
        )
        raise UndecryptablePayload(message) from None


def unknown_key(key_id: bytes) -> str:
    """Say that a key is missing, and where it belongs."""
    name = key_id.decode("utf-8", "replace")[:64]
    return (
        f"A payload in Temporal is encrypted with the key {name!r}, which this process does not know: "
        f"add it to the file that {SETTING} names."
    )


def _cipher(key: Key, synthetic: bytes) -> AESGCM:
    return AESGCM(hmac.digest(key.encrypting, synthetic[:_HALF], "sha256"))


def _unpacked(plain: bytes) -> bytes:
    if plain[:1] == _PLAIN:
        return plain[1:]
    content = zlib.decompressobj().decompress(plain[1:], MAX_BYTES + 1)
    if plain[:1] != _COMPRESSED or len(content) > MAX_BYTES:
        raise ValueError("no content of ours")
    return content


async def _work(size: int, function: Callable[[Payload, T], Payload], payload: Payload, with_: T) -> Payload:
    """Call ``function``, in a thread when it would hold up the event loop."""
    if size <= _INLINE_WORK_BYTES:
        return function(payload, with_)
    return await asyncio.to_thread(function, payload, with_)
