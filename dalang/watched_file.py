"""A file of the operator's that is read again when it changes; a change for the worse leaves things as they were."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from dalang.errors import InvalidDocument
from dalang.settings import SettingsError

LOOK_SECONDS = 1.0
"""How often a file is looked at, at most."""

logger = logging.getLogger("dalang.files")
T = TypeVar("T")


class WatchedFile(Generic[T]):
    """What a file says. ``setting`` is the variable that names it; ``read`` raises InvalidDocument for a bad one."""

    def __init__(self, setting: str, path: Path, read: Callable[[bytes], T]) -> None:
        """Raises SettingsError when the file cannot be read or has problems, all of which it names."""
        self._setting = setting
        self._path = path
        self._parse = read
        self._seen = self._signature()
        self._content = self._read()
        self._looked = time.monotonic()

    def current(self) -> T:
        """Return what holds now."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            seen = self._signature()
            if seen != self._seen:
                self._seen = seen
                self._read_again()
        return self._content

    def _read_again(self) -> None:
        try:
            self._content = self._read()
        except SettingsError as error:
            logger.error("what was read before goes on to hold: %s", error)
        else:
            logger.info("%s (%s) was read again", self._path, self._setting)

    def _signature(self) -> tuple[int, ...]:
        try:
            about = self._path.stat()
        except OSError:
            return ()
        return about.st_mtime_ns, about.st_size, about.st_ino

    def _read(self) -> T:
        try:
            return self._parse(self._path.read_bytes())
        except OSError as error:
            raise SettingsError(f"{self._setting}: {self._path} cannot be read: {error.strerror}") from None
        except InvalidDocument as error:
            lines = (f"{one.pointer or '/'}: {one.message} ({one.code})" for one in error.problems)
            raise SettingsError(f"{self._setting}: {self._path}:\n  " + "\n  ".join(lines)) from None
