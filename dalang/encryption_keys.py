"""The keys that payloads in Temporal are encrypted with: a private file with several, of which one is used.

The file is JSON: ``{"use": "<id>", "keys": {"<id>": "<32 bytes in base64>"}}``. All keys read, one writes; so a new
key is first known everywhere and then used. Nobody but the owner of the file may change it, and nobody but he and his
group (Kubernetes mounts secrets for a group) may read it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from dalang.errors import InvalidDocument, Problem
from dalang.settings import PREFIX, Settings, SettingsError
from dalang.watched_file import WatchedFile

SETTING = f"{PREFIX}ENCRYPTION_KEYS_FILE"
KEY_BYTES = 32
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOO_OPEN = stat.S_IRWXO | stat.S_IWGRP


@dataclass(frozen=True)
class Key:
    """One key: what encrypts and what names a content are derived from it apart, so that neither tells the other."""

    key_id: str
    encrypting: bytes = field(repr=False)
    naming: bytes = field(repr=False)

    @classmethod
    def of(cls, key_id: str, secret: bytes) -> Key:
        """Return the key made of a secret."""

        def derived(purpose: bytes) -> bytes:
            return hmac.digest(secret, b"dalang payload " + purpose, "sha256")

        return cls(key_id, derived(b"encryption"), derived(b"synthetic nonce"))


@dataclass(frozen=True)
class Keys:
    """All keys that are known, and the one that is used."""

    used: Key
    known: Mapping[str, Key]


def watched_keys(settings: Settings) -> WatchedFile[Keys] | None:
    """Return the keys that the settings name, read again when the file changes; None: there is no encryption.

    Raises:
        SettingsError: the file cannot be read, has problems, or others may read it.
    """
    if not settings.encryption_keys_file:
        return None
    path = Path(settings.encryption_keys_file)

    def read(data: bytes) -> Keys:
        _check_private(path)
        return read_keys(data)

    return WatchedFile(SETTING, path, read)


def read_keys(data: bytes | str) -> Keys:
    """Return the keys of a file's content; no text of a problem holds a key.

    Raises:
        InvalidDocument: with all its problems.
    """
    used, texts = _document(data)
    problems: list[Problem] = []
    known: dict[str, Key] = {}
    for key_id, text in texts.items():
        where = f"/keys/{key_id[:64].replace('~', '~0').replace('/', '~1')}"
        secret = _secret(text)
        if _ID.fullmatch(key_id) is None:
            problems.append(_problem(where, "BAD_VALUE", "A key's id is 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-'."))
        elif secret is None:
            problems.append(_problem(where, "BAD_VALUE", f"A key is {KEY_BYTES} bytes in base64."))
        else:
            known[key_id] = Key.of(key_id, secret)
    if used not in texts:
        problems.append(_problem("/use", "BAD_VALUE", "`use` is the id of one of the `keys`."))
    if problems:
        raise InvalidDocument(problems, "keys file")
    return Keys(known[used], known)


def with_new_key(path: Path, key_id: str | None = None) -> tuple[str, str]:
    """Return the id of a new key and the text of the file with it; the first key of a file is used, others are not yet.

    Raises:
        InvalidDocument: the file is there, and is no keys file; or it has a key of this id.
    """
    used, texts = _existing(path)
    made = key_id or f"{date.today():%Y%m%d}-{secrets.token_hex(3)}"
    if made in texts:
        raise InvalidDocument([_problem(f"/keys/{made}", "DUPLICATE", f"There is a key {made} already.")], "keys file")
    texts = {**texts, made: base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}
    return made, _text(used or made, texts)


def with_used_key(path: Path, key_id: str) -> str:
    """Return the text of the file that uses this key from now on.

    Raises:
        InvalidDocument: the file is no keys file, or has no such key.
    """
    return _text(key_id, _existing(path)[1])


def _existing(path: Path) -> tuple[str, dict[str, str]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return "", {}
    read_keys(data)
    return _document(data)


def _text(used: str, texts: Mapping[str, str]) -> str:
    text = json.dumps({"use": used, "keys": dict(texts)}, indent=2) + "\n"
    read_keys(text)
    return text


def _document(data: bytes | str) -> tuple[str, dict[str, str]]:
    try:
        document = json.loads(data)
    except ValueError:
        raise InvalidDocument([_problem("", "NOT_JSON", "The file is not JSON.")], "keys file") from None
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, dict) or not keys or document.keys() != {"use", "keys"}:
        message = 'The file is {"use": "<id>", "keys": {"<id>": "<key>"}}.'
        raise InvalidDocument([_problem("", "WRONG_TYPE", message)], "keys file")
    return str(document["use"]), {key_id: str(text) for key_id, text in keys.items()}


def _secret(text: str) -> bytes | None:
    try:
        secret = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return secret if len(secret) == KEY_BYTES else None


def _check_private(path: Path) -> None:
    if path.stat().st_mode & _TOO_OPEN:
        raise SettingsError(f"{SETTING}: {path} may be read or changed by others: chmod 600 {path}")


def _problem(pointer: str, code: str, message: str) -> Problem:
    return Problem(pointer=pointer, code=code, message=message)
