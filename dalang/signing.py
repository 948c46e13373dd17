"""The keys of an installation: who has the database but not the key cannot rewrite what it holds unseen.

A key file is PEM: the first private key in it signs; every further key, private or public, is one whose signatures are
still known. So a rotation puts a new private key in front. Signatures are Ed25519 over canonical JSON, written
``ed25519:<key id>:<base64>``; a key's id is the beginning of the SHA-256 of its 32 public bytes. The same document
with the same key gives the same signature, so that what is repeated answers the same.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from dalang.canonical import canonical_bytes
from dalang.errors import Conflict, DalangError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ALGORITHM = "ed25519"
KEY_ID_LENGTH = 32
_BLOCK = re.compile(r"-----BEGIN (PRIVATE|PUBLIC) KEY-----.*?-----END \1 KEY-----", re.DOTALL)


class KeyFileError(DalangError):
    """The key file is missing, or holds something else than Ed25519 keys in PEM."""


class NoSigningKey(Conflict):
    """There is no private key here to sign with."""


class SignatureState(StrEnum):
    """What is known of a signature."""

    VALID = "VALID"
    """It is this document's, by a known key."""
    MISSING = "MISSING"
    """There is none."""
    WRONG = "WRONG"
    """It is of another document, or none at all."""
    UNKNOWN_KEY = "UNKNOWN_KEY"
    """It is by a key that is not known here."""
    NOT_CHECKED = "NOT_CHECKED"
    """No key is known here."""


class Keyring:
    """The keys known here, by id, and the one that signs, if there is one. Without keys nothing is signed."""

    def __init__(
        self, known: Mapping[str, Ed25519PublicKey] | None = None, private: Sequence[Ed25519PrivateKey] = ()
    ) -> None:
        self._private = tuple(private)
        self._own = own = self._private[0] if self._private else None
        self._known = dict(known or {})
        self.own_id = None if own is None else key_id(_raw(own.public_key()))

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Read a key file; None: no keys.

        Raises:
            KeyFileError: it cannot be read, or is no key file.
        """
        if path is None:
            return cls()
        try:
            return cls.read(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, KeyFileError) as error:
            raise KeyFileError(f"{path} is no file of audit keys: {error}") from None

    @classmethod
    def read(cls, pem: str) -> Self:
        """Read keys in PEM.

        Raises:
            KeyFileError: there is none, or one that is not of Ed25519.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

        private: list[Ed25519PrivateKey] = []
        known: dict[str, Ed25519PublicKey] = {}
        for found in _BLOCK.finditer(pem):
            block = found[0].encode()
            try:
                key = load_pem_private_key(block, None) if found[1] == "PRIVATE" else load_pem_public_key(block)
            except (ValueError, TypeError) as error:
                raise KeyFileError(f"a key in it cannot be read ({error})") from None
            if isinstance(key, Ed25519PrivateKey):
                private.append(key)
                key = key.public_key()
            if not isinstance(key, Ed25519PublicKey):
                raise KeyFileError("a key in it is not an Ed25519 key")
            known[key_id(_raw(key))] = key
        if not known:
            raise KeyFileError("there is no key in it")
        return cls(known, private)

    @classmethod
    def of_public(cls, keys: Mapping[str, str]) -> Self:
        """Return the keys that :attr:`public_keys` gave; what is none is left out."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        known = {}
        for name, value in keys.items():
            try:
                known[name] = Ed25519PublicKey.from_public_bytes(base64.b64decode(value))
            except (ValueError, TypeError):
                continue
        return cls(known)

    def __bool__(self) -> bool:
        """Whether any key is known."""
        return bool(self._known)

    @property
    def public_keys(self) -> dict[str, str]:
        """The known public keys, in base64, by id; the one that signs first."""
        return {one: base64.b64encode(_raw(key)).decode() for one, key in self._known.items()}

    @property
    def trusted(self) -> dict[str, str]:
        """The public keys, in base64, by id, of those that may sign now: private ones, or, where there are none, all.

        A public key beside private ones is one that has been replaced: it only proves what is old.
        """
        own = {key_id(_raw(key.public_key())) for key in self._private}
        return {one: value for one, value in self.public_keys.items() if not own or one in own}

    def sign(self, document: Mapping[str, Any]) -> str | None:
        """Return the signature of a document, None without a private key."""
        return None if self._own is None else _sign(self._own, canonical_bytes(document))

    def sign_all(self, document: Mapping[str, Any]) -> list[str]:
        """Return its signatures by all private keys: whoever checks may know an older one only."""
        encoded = canonical_bytes(document)
        return [_sign(key, encoded) for key in self._private]

    def check(self, document: Mapping[str, Any], signature: str | None) -> SignatureState:
        """Say whether ``signature`` is that of ``document``."""
        from cryptography.exceptions import InvalidSignature

        if not self._known:
            return SignatureState.NOT_CHECKED
        if not signature:
            return SignatureState.MISSING
        algorithm, _, rest = signature.partition(":")
        own, _, value = rest.partition(":")
        if algorithm != ALGORITHM:
            return SignatureState.WRONG
        key = self._known.get(own)
        if key is None:
            return SignatureState.UNKNOWN_KEY
        try:
            key.verify(base64.b64decode(value, validate=True), canonical_bytes(document))
        except (InvalidSignature, binascii.Error, ValueError):
            return SignatureState.WRONG
        return SignatureState.VALID


def head_document(tenant_id: str, run_id: UUID, head: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is signed of a run's head; it stands for all events that lead to it."""
    document = {"kind": "dalang.head", "tenantId": tenant_id, "runId": str(run_id)}
    return {**document, "epoch": head["epoch"], "seq": head["seq"], "hash": head["hash"]}


def new_key() -> str:
    """Return a new private key in PEM."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    made = Ed25519PrivateKey.generate()
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def key_id(public: bytes) -> str:
    """Return the id of a public key."""
    return hashlib.sha256(public).hexdigest()[:KEY_ID_LENGTH]


def _sign(key: Ed25519PrivateKey, encoded: bytes) -> str:
    value = base64.b64encode(key.sign(encoded)).decode()
    return f"{ALGORITHM}:{key_id(_raw(key.public_key()))}:{value}"


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes_raw()
