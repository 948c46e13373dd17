"""The operator's file of rules of redaction."""

from __future__ import annotations

from pathlib import Path

from dalang.errors import InvalidDocument
from dalang.formats import load_document
from dalang.redaction import Redaction
from dalang.settings import Settings, SettingsError


def redaction_of(settings: Settings) -> Redaction:
    """Return the rules: those of the file, or the built-in ones.

    Raises:
        SettingsError: the file cannot be read, or has problems.
    """
    if not settings.redaction_file:
        return Redaction()
    path = Path(settings.redaction_file)
    try:
        return Redaction.read(load_document(path.read_bytes(), name=path.name))
    except OSError as error:
        raise SettingsError(f"DALANG_REDACTION_FILE: {path} cannot be read: {error.strerror}") from None
    except InvalidDocument as error:
        listed = "\n  ".join(str(one) for one in error.problems)
        raise SettingsError(f"DALANG_REDACTION_FILE: {path} has problems:\n  {listed}") from None
