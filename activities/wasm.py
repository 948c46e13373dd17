"""Node type ``wasm``: a WebAssembly module (WASI preview 1 command) from the operator's folder, in a sandbox.

The node's implementation names the file and its SHA-256, which is checked every time. The inputs are JSON on stdin, the
outputs JSON on stdout. There is no network, no file and nothing of the worker's environment in it, so whatever the
module does has no effect outside; fuel, memory and wall time are bounded. It runs in a thread of its own, and each run
has an Engine of its own, since ``increment_epoch``, which is how a module is stopped, stops all of an Engine's.
Compiled code is kept by digest.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from dalang.activities.program_results import (
    MAX_STDERR_BYTES,
    MAX_STDOUT_BYTES,
    Tail,
    environment,
    exit_failure,
    outputs_of,
    text_tail,
)
from dalang.activities.wasm_modules import Compiled, new_engine, read_module, require_wasmtime
from dalang.canonical import compact_json, safe_text
from dalang.implementations import sha256_of
from dalang.nodes import (
    InvalidInput,
    NodeContext,
    NodeFailure,
    ResourceExhausted,
    TimedOut,
    ToolError,
)

MAX_TABLE_ELEMENTS = 100_000
MAX_POLLED = 1_000
_INVALID, _TOO_MUCH = 28, -28  # EINVAL of WASI; ENOSPC of the host, as wasmtime takes it
_SUBSCRIPTION, _EVENT = 48, 32
_CLOCK_ABSOLUTE = 1


@dataclass(frozen=True)
class Bounds:
    """What the operator allows a module: where they are, and what one run may use at most."""

    folder: str = ""
    fuel: int = 100_000_000_000
    memory_mb: float = 256
    seconds: float = 60

    def for_node(self, limits: Any) -> Bounds:
        """Return what a node may use: its own ``limits`` where it has some.

        Raises:
            InvalidInput: it wants more than the operator allows.
        """
        asked = limits if isinstance(limits, dict) else {}
        fuel = asked.get("fuel", self.fuel)
        memory = asked.get("memoryMb", self.memory_mb)
        seconds = asked["wallTime"] / 1000 if "wallTime" in asked else self.seconds
        for name, wanted, most, setting in (
            ("fuel", fuel, self.fuel, "WASM_FUEL"),
            ("memoryMb", memory, self.memory_mb, "WASM_MEMORY_MB"),
            ("wallTime", seconds, self.seconds, "WASM_SECONDS"),
        ):
            if wanted > most:
                text = f"the limit {name} is {wanted:g}, and the operator allows {most:g} (DALANG_{setting})"
                raise InvalidInput(text, no_effect=True)
        return Bounds(self.folder, fuel, memory, seconds)


class Wasm:
    """Runs modules of one folder."""

    def __init__(self, bounds: Bounds, threads: int | None = None) -> None:
        self._bounds = bounds
        self._threads = ThreadPoolExecutor(threads or max(os.cpu_count() or 2, 2), thread_name_prefix="wasm")
        self._compiled = Compiled()
        self._running: set[_Run] = set()

    def close(self) -> None:
        """Stop what runs."""
        for run in tuple(self._running):
            run.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, ctx: NodeContext) -> Any:
        """Run the node's module and return its outputs.

        Raises:
            NodeFailure: POLICY_VIOLATION when it is not the module that the digest says, RESOURCE_EXHAUSTED without
                fuel or memory, TIMEOUT after its wall time, TOOL_ERROR when it exits with an error, traps or writes no
                JSON, VALIDATION_ERROR when it cannot be run at all. None had an effect.
        """
        name = str(ctx.implementation.get("coordinate", ""))
        bounds = self._bounds.for_node(ctx.implementation.get("limits"))
        run = _Run(
            bounds, compact_json(dict(ctx.inputs)), [name, *ctx.implementation.get("args", ())], environment(ctx)
        )
        digest = sha256_of(ctx.implementation.get("digest"))
        work = self._threads.submit(self._run, name, digest, run)
        self._running.add(run)
        try:
            running = asyncio.wrap_future(work)
            await asyncio.wait({running})
            return running.result()
        except asyncio.CancelledError:
            run.stop()
            if not work.cancel():
                await asyncio.wait({running})
                running.exception()  # has been seen
            raise
        finally:
            self._running.discard(run)

    def _run(self, name: str, digest: str | None, run: _Run) -> Any:
        require_wasmtime()
        return run.to_its_end(self._compiled.of(read_module(self._bounds.folder, name, digest)))


@dataclass(eq=False)
class _Run:
    """One run of a module."""

    bounds: Bounds
    stdin: bytes
    args: list[str]
    env: dict[str, str]
    _engine: Any = None
    _stopped: threading.Event = field(default_factory=threading.Event)
    _stdout: bytearray = field(default_factory=bytearray)
    _too_much: bool = False
    _stderr: Tail = field(default_factory=lambda: Tail(MAX_STDERR_BYTES))

    def stop(self) -> None:
        """Let the module trap where it is. Safe from any thread, and when nothing runs."""
        self._stopped.set()
        if self._engine is not None:
            self._engine.increment_epoch()

    def to_its_end(self, code: bytes) -> Any:
        """Run compiled code and return its outputs."""
        import wasmtime

        self._engine = new_engine()
        clock = threading.Timer(self.bounds.seconds, self.stop)
        clock.daemon = True
        try:
            with self._prepared() as store:
                module = wasmtime.Module.deserialize(self._engine, code)
                clock.start()
                start = self._start(store, module)
                if self._stopped.is_set():  # before there was anything that could be interrupted
                    raise TimedOut("the module was stopped", no_effect=True)
                return self._called(start, store)
        finally:
            clock.cancel()

    @contextlib.contextmanager
    def _prepared(self) -> Iterator[Any]:
        """Return the store that the module runs in, with its limits and what it sees of the world."""
        import wasmtime

        store = wasmtime.Store(self._engine)
        store.set_limits(
            memory_size=int(self.bounds.memory_mb * 1024 * 1024),
            table_elements=MAX_TABLE_ELEMENTS,
            instances=1,
            tables=10,
            memories=1,
        )
        store.set_fuel(self.bounds.fuel)
        store.set_epoch_deadline(1)
        wasi = wasmtime.WasiConfig()
        wasi.argv = self.args
        wasi.env = list(self.env.items())
        wasi.stdout_custom = self._write_stdout
        wasi.stderr_custom = self._stderr.add
        with _file_of(self.stdin) as path:
            wasi.stdin_file = path
            store.set_wasi(wasi)
            yield store

    def _write_stdout(self, part: bytes) -> int:
        if len(self._stdout) + len(part) > MAX_STDOUT_BYTES:
            self._too_much = True
            return _TOO_MUCH
        self._stdout += part
        return len(part)

    def _start(self, store: Any, module: Any) -> Callable[[Any], Any]:
        import wasmtime

        linker = wasmtime.Linker(self._engine)
        linker.allow_shadowing = True
        linker.define_wasi()
        i32 = wasmtime.ValType.i32
        # WASI's own sleeps where nothing can interrupt it.
        kind = wasmtime.FuncType([i32(), i32(), i32(), i32()], [i32()])
        linker.define_func("wasi_snapshot_preview1", "poll_oneoff", kind, self._poll, access_caller=True)
        try:
            start = linker.instantiate(store, module).exports(store).get("_start")
        except wasmtime.Trap as trap:  # in what the module does before it is called
            raise self._trapped(trap, store) from None
        except wasmtime.WasmtimeError as error:
            text = safe_text(str(error), 500)
            if "exceeds memory limits" in text:
                raise self._short_of_memory(text) from None
            raise InvalidInput(f"the module cannot be started: {text}", no_effect=True) from None
        if not isinstance(start, wasmtime.Func):
            raise InvalidInput("the module is no WASI command: it exports no function _start", no_effect=True)
        return start

    def _called(self, start: Callable[[Any], Any], store: Any) -> Any:
        import wasmtime

        try:
            start(store)
        except wasmtime.ExitTrap as ended:
            if ended.code != 0:
                raise exit_failure(ended.code, "the module", self._details(store), no_effect=True) from None
        except wasmtime.Trap as trap:
            raise self._trapped(trap, store) from None
        except wasmtime.WasmtimeError as error:
            text = safe_text(f"the module failed: {error}", 500)
            raise ToolError(text, details=self._details(store), no_effect=True) from None
        if self._stopped.is_set():  # a sleep was cut short
            raise self._out_of_time(store)
        if self._too_much:
            text = f"the module wrote more than {MAX_STDOUT_BYTES:,} bytes to its stdout"
            raise ToolError(text, details=self._details(store), no_effect=True)
        return outputs_of(bytes(self._stdout), "the module", self._details(store), no_effect=True)

    def _trapped(self, trap: Any, store: Any) -> NodeFailure:
        import wasmtime

        code, details = trap.trap_code, self._details(store)
        if code is wasmtime.TrapCode.OUT_OF_FUEL:
            text = f"the module used up its fuel of {self.bounds.fuel:,}"
            return ResourceExhausted(text, retryable=False, details=details, no_effect=True)
        if code is wasmtime.TrapCode.INTERRUPT:
            return self._out_of_time(store)
        name = "a trap" if code is None else code.name
        message = safe_text(f"the module trapped ({name}): {str(trap).splitlines()[0]}", 500)
        return ToolError(message, details={**details, "trap": name}, no_effect=True)

    def _out_of_time(self, store: Any) -> NodeFailure:
        text = f"the module did not end within {self.bounds.seconds:g} s"
        return TimedOut(text, details=self._details(store), no_effect=True)

    def _short_of_memory(self, text: str) -> NodeFailure:
        message = f"the module wants more than its {self.bounds.memory_mb:g} MiB of memory: {text}"
        return ResourceExhausted(message[:500], retryable=False, no_effect=True)

    def _details(self, store: Any) -> dict[str, Any]:
        details: dict[str, Any] = {"fuel": self.bounds.fuel - store.get_fuel()}
        if self._stderr.data:
            details["stderr"] = text_tail(self._stderr.data)
        return details

    # -- sleeping --------------------------------------------------------------------------------------------------

    def _poll(self, caller: Any, subscriptions: int, events: int, count: int, told: int) -> int:
        """Do what ``poll_oneoff`` of WASI does: sleep, and say that files are ready. A stop wakes it."""
        memory = caller.get("memory")
        if memory is None or not 0 < count <= MAX_POLLED:
            return _INVALID
        found: list[tuple[float, bytes, int]] = []
        for number in range(count):
            at = (subscriptions & 0xFFFFFFFF) + number * _SUBSCRIPTION
            one = bytes(memory.read(caller, at, at + _SUBSCRIPTION))
            if len(one) < _SUBSCRIPTION:
                return _INVALID
            found.append((_due(one), one[:8], one[8]))
        first = min(due for due, _, _ in found)
        # As long as it asks for: the clock ends its time, and a wait that ended with it would race it.
        self._stopped.wait(min(max(first, 0), threading.TIMEOUT_MAX))
        ready = [(user, tag) for due, user, tag in found if due <= first]
        written = b"".join(user + struct.pack("<HBxxxxxQHxxxxxx", 0, tag, 0, 0) for user, tag in ready)
        try:
            memory.write(caller, written, events & 0xFFFFFFFF)
            memory.write(caller, struct.pack("<I", len(ready)), told & 0xFFFFFFFF)
        except IndexError:
            return _INVALID
        return 0


@contextlib.contextmanager
def _file_of(content: bytes) -> Iterator[str]:
    """Return the path of a file with this content: in memory where the system can, since secrets may be in it."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("dalang-wasm-stdin"), "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile(prefix="dalang-wasm-") as file:
            file.write(content)
            file.flush()
            yield file.name


def _due(subscription: bytes) -> float:
    """Return in how many seconds a subscription is due: a clock's, or 0 for a file's."""
    if subscription[8] != 0:
        return 0.0
    clock, timeout, _, flags = struct.unpack("<IxxxxQQH", subscription[16:42])
    if flags & _CLOCK_ABSOLUTE:
        timeout -= time.time_ns() if clock == 0 else time.monotonic_ns()
    return float(timeout) / 1e9
