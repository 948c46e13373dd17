"""Modules for the node type ``wasm``: read from the operator's folder, checked, compiled, and kept compiled."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from dalang.canonical import safe_text
from dalang.nodes import InvalidInput, PolicyViolation

MAX_MODULE_BYTES = 64 * 1024 * 1024
CACHED_BYTES = 256 * 1024 * 1024
"""So much compiled code is kept, the least recently used dropped."""


def require_wasmtime() -> None:
    """Refuse to go on without the library.

    Raises:
        InvalidInput: it says what to install.
    """
    try:
        import wasmtime  # noqa: F401
    except ImportError:
        text = "this worker cannot run WebAssembly modules: pip install 'dalang[wasm]'"
        raise InvalidInput(text, no_effect=True) from None


def read_module(folder: str, name: str, digest: str | None) -> bytes:
    """Return the module's bytes, which have this SHA-256.

    Raises:
        InvalidInput: there is no such module.
        PolicyViolation: it is another one.
    """
    if not folder:
        text = "this worker has no WebAssembly modules: its operator names their folder in DALANG_WASM_DIR"
        raise InvalidInput(text, no_effect=True)
    root = Path(folder).resolve()
    try:
        path = (root / name).resolve(strict=True)
        if not path.is_relative_to(root) or not path.is_file():
            raise OSError
        size = path.stat().st_size
        if size > MAX_MODULE_BYTES:
            text = f"the module {name} has {size:,} bytes; at most {MAX_MODULE_BYTES:,} are read"
            raise InvalidInput(text, no_effect=True)
        content = path.read_bytes()
    except (OSError, ValueError):
        raise InvalidInput(f"there is no module {name!r} in the operator's folder", no_effect=True) from None
    found = hashlib.sha256(content).hexdigest()
    if digest is None or found != digest:
        text = f"the module {name} is not the one that the plan names: its SHA-256 is {found}"
        raise PolicyViolation(text, details={"found": found, "expected": digest}, no_effect=True)
    return content


class Compiled:
    """Machine code of modules, by the modules' digests; used by many threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        self._compiling: dict[str, threading.Lock] = {}

    def of(self, module: bytes) -> bytes:
        """Return the module's code, compiled now or before.

        Raises:
            InvalidInput: it is no module.
        """
        digest = hashlib.sha256(module).hexdigest()
        with self._lock:
            one_at_a_time = self._compiling.setdefault(digest, threading.Lock())
        with one_at_a_time:
            with self._lock:
                found = self._kept.get(digest)
                if found is not None:
                    self._kept.move_to_end(digest)
                    return found
            code = _compiled(module)
            with self._lock:
                self._kept[digest] = code
                self._size += len(code)
                while self._size > CACHED_BYTES and len(self._kept) > 1:
                    _, dropped = self._kept.popitem(last=False)
                    self._size -= len(dropped)
                self._compiling.pop(digest, None)
        return code


def _compiled(module: bytes) -> bytes:
    import wasmtime

    try:
        return bytes(wasmtime.Module(new_engine(), module).serialize())
    except wasmtime.WasmtimeError as error:
        raise InvalidInput(safe_text(f"the module cannot be compiled: {error}", 500), no_effect=True) from None


def new_engine() -> Any:
    """Return an Engine; those that share code are made alike."""
    import wasmtime

    config = wasmtime.Config()
    config.consume_fuel = True
    config.epoch_interruption = True
    config.wasm_threads = False  # shared memory is outside of a store's limits
    return wasmtime.Engine(config)
