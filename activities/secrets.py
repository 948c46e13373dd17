"""Secrets: where a worker finds their values, and what keeps them inside of it.

Inputs travel with references (``secret_references.py``); the wrapper of handlers replaces them by values just before a
handler is called, in the memory of this process only. What the handler gives back goes through a mask
(``masking.py``), and so does every line that this process logs while it knows a value.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, TextIO

from dalang.masking import MIN_LENGTH, Mask
from dalang.nodes import InvalidInput, NodeContext
from dalang.secret_references import NAME, Places, names_in, revealed, written_places
from dalang.settings import Settings, secret_of_environment
from dalang.wire import NodeTask

MAX_BYTES = 64 * 1024
REMEMBERED = 200
"""So many values are masked in logs after their nodes have ended: a late line of a forgotten task may hold one."""
EVERYBODY = "*"


class Vault:
    """Finds the values of a tenant's secrets: in a folder of files per tenant, and in the environment.

    The folder is what Kubernetes makes of mounted secrets: ``<folder>/<tenant>/<name>``. Those of the environment,
    ``DALANG_SECRET_<NAME>``, are for the tenants that ``tenants`` names.
    """

    def __init__(self, folder: Path | None = None, tenants: Collection[str] = ()) -> None:
        self._folder = folder
        self._tenants = frozenset(tenants)

    @classmethod
    def of(cls, settings: Settings) -> Vault:
        """Return the vault that the settings describe."""
        return cls(Path(settings.secrets_dir) if settings.secrets_dir else None, settings.secrets_environment_tenants)

    def value(self, tenant_id: str, name: str) -> str | None:
        """Return the value of a secret, or None if the tenant has none of this name.

        Raises:
            ValueError: it is there, and cannot be used; the text does not hold it.
        """
        if NAME.fullmatch(name) is None:
            return None
        found = self._of_folder(tenant_id, name)
        if found is None and (tenant_id in self._tenants or EVERYBODY in self._tenants):
            found = secret_of_environment(name)
        if found is not None and len(found) < MIN_LENGTH:
            raise ValueError(f"is shorter than {MIN_LENGTH} characters, which nothing could mask")
        return found

    def _of_folder(self, tenant_id: str, name: str) -> str | None:
        if self._folder is None or NAME.fullmatch(tenant_id) is None:
            return None
        try:
            with (self._folder / tenant_id / name).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise ValueError(f"cannot be read ({type(error).__name__})") from None
        if len(data) > MAX_BYTES:
            raise ValueError(f"is longer than {MAX_BYTES:,} bytes")
        try:
            return data.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise ValueError("is no text") from None


async def reveal(ctx: NodeContext, task: NodeTask, vault: Vault) -> None:
    """Give the context the inputs with the values of their secrets, and the mask that takes these out again.

    Raises:
        InvalidInput: a secret is not there, or of no use; the text names it.
    """
    places = task.get("secrets")
    if not places:
        return
    ctx.inputs = await _revealed(ctx, ctx.inputs, places, vault)


async def reveal_configured(ctx: NodeContext, configured: Mapping[str, Any], vault: Vault) -> dict[str, Any]:
    """Return what the operator configured for a node's peer, with the values of the secrets of the node's tenant.

    They are masked in what leaves the handler, as those of its inputs are.

    Raises:
        InvalidInput: as :func:`reveal`.
    """
    return await _revealed(ctx, configured, written_places(configured), vault)


def mask_also(ctx: NodeContext, values: Collection[str]) -> None:
    """Keep these values out of what leaves the handler, and of logs: they are given to it otherwise than by inputs."""
    ctx._mask = ctx._mask.also(values)
    in_logs.add(values)


async def _revealed(ctx: NodeContext, inputs: Mapping[str, Any], places: Places, vault: Vault) -> dict[str, Any]:
    values: dict[str, str] = {}
    for name in names_in(inputs, places):
        try:
            value = await asyncio.to_thread(vault.value, ctx.tenant_id, name)
        except ValueError as error:
            raise InvalidInput(f"the secret {name!r} {error}", no_effect=True) from None
        if value is None:
            raise InvalidInput(f"there is no secret {name!r} for this tenant", no_effect=True)
        values[name] = value
    mask_also(ctx, values.values())
    return revealed(inputs, places, values)


class MaskedLogs:
    """Takes the values that this process has used last out of what it logs, and out of its output."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._values: OrderedDict[str, None] = OrderedDict()
        self._mask = Mask()
        self._installed = False

    def add(self, values: Collection[str]) -> None:
        """Mask these values, too."""
        with self._lock:
            known = len(self._values)
            for value in values:
                self._values[value] = None
                self._values.move_to_end(value)
            if len(self._values) != known:
                while len(self._values) > REMEMBERED:
                    self._values.popitem(last=False)
                self._mask = Mask(self._values)
            if self._values and not self._installed:
                self._installed = True
                self._install()

    def text(self, text: str) -> str:
        """Return a text without the values."""
        return self._mask.text(text)

    def _install(self) -> None:
        make = logging.getLogRecordFactory()
        formatter = logging.Formatter()

        def masked(*args: Any, **options: Any) -> logging.LogRecord:
            record = make(*args, **options)
            try:
                message = record.getMessage()
            except Exception:  # a wrong format: logging tells, with the arguments, so they are masked, too
                message = f"{record.msg} {record.args!r}"
            cleaned = self.text(message)
            if cleaned != message:
                record.msg, record.args = cleaned, None
            if record.exc_info and record.exc_info[0] is not None:
                text = formatter.formatException(record.exc_info)
                record.exc_text = self.text(text)
                if record.exc_text != text:  # other formatters would write it again
                    record.exc_info = None
            return record

        logging.setLogRecordFactory(masked)


in_logs = MaskedLogs()
"""Of this process."""


class _MaskedStream:
    """A standard stream of the process without the values."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(in_logs.text(text))
        return len(text)

    def writelines(self, lines: Collection[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def mask_output() -> None:
    """Take the values out of what this process prints; handlers print, too."""
    sys.stdout, sys.stderr = _MaskedStream(sys.stdout), _MaskedStream(sys.stderr)
