"""The node type ``wasm``: real modules in real wasmtime, made from their text here."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from dalang.activities import wasm_modules
from dalang.activities.wasm import Bounds, Wasm
from dalang.errors import ErrorType
from dalang.nodes import NodeContext, NodeFailure
from tests.engine.kit import Engine, body_of
from tests.harness import ROOT

WORDS = (ROOT / "examples/modules/words.wat").read_text(encoding="utf-8")
SECONDS = 60.0
"""How long a module may run where a test does not say: more than a loaded machine stalls."""
_IMPORTS = """
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
"""


def command(body: str, memory: int = 2, data: str = "") -> str:
    """A module whose ``_start`` is ``body``."""
    return f'(module {_IMPORTS} (memory (export "memory") {memory}) {data} (func (export "_start") {body}))'


def says(fd: int, at: int, count: int) -> str:
    """Write ``count`` bytes from ``at``."""
    store = f"(i32.store (i32.const 0) (i32.const {at})) (i32.store (i32.const 4) (i32.const {count}))"
    return f"{store} (drop (call $write (i32.const {fd}) (i32.const 0) (i32.const 1) (i32.const 8)))"


ECHO = command(
    """(i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 65000))
       (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 4)))
       (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))"""
)
FOREVER = command("(loop $on (br $on))")
OOPS = command(
    f"{says(2, 64, 5)} (call $exit (i32.const 3))",
    data='(data (i32.const 64) "oops\\n")',
)
LATER = command("(call $exit (i32.const 75))")
TRAPS = command("unreachable")
RUBBISH = command(says(1, 64, 3), data='(data (i32.const 64) "{no")')
FLOOD = command(
    """(i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 60000))
       (loop $on (br_if $on (i32.eqz (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
)
GROWS = command("(if (i32.eq (memory.grow (i32.const 1000)) (i32.const -1)) (then (call $exit (i32.const 12))))")
# A subscription of 48 bytes at 64: clock 0, 60 s, relative.
SLEEPS = command(
    """(i64.store (i32.const 88) (i64.const 60000000000))
       (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 8)))"""
)
NAPS = SLEEPS.replace("60000000000", "1000000")
# "/etc/passwd" below each descriptor that could be a folder: any success is an exit with 1.
SNOOPS = command(
    """(local $fd i32)
       (loop $next
         (if (i32.eqz (call $open (local.get $fd) (i32.const 0) (i32.const 64) (i32.const 10) (i32.const 0)
                        (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 8)))
           (then (call $exit (i32.const 1))))
         (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
         (br_if $next (i32.lt_u (local.get $fd) (i32.const 20))))""",
    data='(data (i32.const 64) "etc/passwd")',
)


EAGER = """(module (memory (export "memory") 1) (func $on (loop $on (br $on))) (start $on) (func (export "_start")))"""


@pytest.fixture
def wasm(tmp_path: Path) -> Iterator[Wasm]:
    runner = Wasm(Bounds(str(tmp_path), fuel=100_000_000_000, memory_mb=16, seconds=SECONDS), threads=2)
    yield runner
    runner.close()


def context(folder: Path, text: str, inputs: dict[str, Any] | None = None, **implementation: Any) -> NodeContext:
    """The context of a node that runs this module."""
    module = bytes(wasmtime.wat2wasm(text))
    name = f"{hashlib.sha256(module).hexdigest()[:8]}.wasm"
    (folder / name).write_bytes(module)
    digest = f"sha256:{hashlib.sha256(module).hexdigest()}"
    named = {"type": "wasm", "coordinate": name, "digest": digest, **implementation}
    return NodeContext("n", "n", "wasm", "run-1", "t", inputs or {}, "run-1:n:0:0", implementation=named)


async def failure(wasm: Wasm, ctx: NodeContext) -> NodeFailure:
    """Run a module that must fail, and return how it did. No failure of a module has an effect."""
    with pytest.raises(NodeFailure) as caught:
        await wasm(ctx)
    assert caught.value.no_effect
    return caught.value


async def test_inputs_go_in_and_outputs_come_out(wasm: Wasm, tmp_path: Path) -> None:
    """As JSON on stdin and stdout, whatever is in it."""
    inputs = {"text": 'Käse "and" ${bread}', "n": [1, 2.5, None, True]}
    assert await wasm(context(tmp_path, ECHO, inputs)) == inputs
    assert await wasm(context(tmp_path, WORDS, {"text": "one two, dreißig"})) == {"words": 3}


@pytest.mark.parametrize(
    ("text", "implementation", "type", "retryable", "says"),
    [
        (FOREVER, {"limits": {"fuel": 1_000_000}}, ErrorType.RESOURCE_EXHAUSTED, False, "fuel of 1,000,000"),
        (FOREVER, {"limits": {"wallTime": 50}}, ErrorType.TIMEOUT, True, "within 0.05 s"),
        (EAGER, {"limits": {"fuel": 1_000_000}}, ErrorType.RESOURCE_EXHAUSTED, False, "fuel of 1,000,000"),
        (SLEEPS, {"limits": {"wallTime": 50}}, ErrorType.TIMEOUT, True, "within 0.05 s"),
        (ECHO, {"limits": {"memoryMb": 0.0625}}, ErrorType.RESOURCE_EXHAUSTED, False, "0.0625 MiB"),
        (GROWS, {}, ErrorType.TOOL_ERROR, False, "exited with 12"),
        (OOPS, {}, ErrorType.TOOL_ERROR, False, "exited with 3: oops"),
        (LATER, {}, ErrorType.TOOL_ERROR, True, "exited with 75"),
        (TRAPS, {}, ErrorType.TOOL_ERROR, False, "UNREACHABLE"),
        (RUBBISH, {}, ErrorType.TOOL_ERROR, False, "did not write JSON"),
        (FLOOD, {}, ErrorType.TOOL_ERROR, False, "more than"),
        ("(module)", {}, ErrorType.VALIDATION_ERROR, False, "no WASI command"),
        ('(module (import "env" "x" (func)))', {}, ErrorType.VALIDATION_ERROR, False, "cannot be started"),
        (ECHO, {"digest": "sha256:" + "0" * 64}, ErrorType.POLICY_VIOLATION, False, "is not the one"),
        (ECHO, {"digest": None}, ErrorType.POLICY_VIOLATION, False, "is not the one"),
        (ECHO, {"coordinate": "nowhere.wasm"}, ErrorType.VALIDATION_ERROR, False, "no module 'nowhere.wasm'"),
        (ECHO, {"coordinate": "../../etc/passwd"}, ErrorType.VALIDATION_ERROR, False, "no module"),
        (ECHO, {"limits": {"fuel": 10**12}}, ErrorType.VALIDATION_ERROR, False, "DALANG_WASM_FUEL"),
        (ECHO, {"limits": {"memoryMb": 17}}, ErrorType.VALIDATION_ERROR, False, "DALANG_WASM_MEMORY_MB"),
        (ECHO, {"limits": {"wallTime": 61_000}}, ErrorType.VALIDATION_ERROR, False, "DALANG_WASM_SECONDS"),
    ],
)
async def test_what_goes_wrong_has_its_type(
    wasm: Wasm, tmp_path: Path, text: str, implementation: dict[str, Any], type: ErrorType, retryable: bool, says: str
) -> None:
    """And says why; none holds up the worker's loop."""
    error = await failure(wasm, context(tmp_path, text, **implementation))
    assert (error.type, error.retryable) == (type, retryable), error
    assert says in str(error)


async def test_the_end_of_stderr_is_in_the_error(wasm: Wasm, tmp_path: Path) -> None:
    """With the exit code and the fuel that was used."""
    error = await failure(wasm, context(tmp_path, OOPS))
    assert error.details["stderr"] == "oops\n"
    assert error.details["exitCode"] == 3
    assert 0 < error.details["fuel"] < 1000


async def test_a_module_that_is_none_is_refused(wasm: Wasm, tmp_path: Path) -> None:
    """Whatever its digest."""
    (tmp_path / "x.wasm").write_bytes(b"\x00asm rubbish")
    digest = hashlib.sha256(b"\x00asm rubbish").hexdigest()
    error = await failure(wasm, context(tmp_path, ECHO, coordinate="x.wasm", digest=digest))
    assert "cannot be compiled" in str(error)


async def test_a_changed_file_is_refused(wasm: Wasm, tmp_path: Path) -> None:
    """Also after it has run: what is kept compiled goes by what is in the file now."""
    ctx = context(tmp_path, ECHO, {"a": 1})
    assert await wasm(ctx) == {"a": 1}
    (tmp_path / str(ctx.implementation["coordinate"])).write_bytes(bytes(wasmtime.wat2wasm(WORDS)))
    assert (await failure(wasm, ctx)).type == ErrorType.POLICY_VIOLATION


async def test_a_module_is_compiled_once(wasm: Wasm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it runs, and also when it is wanted twice at once."""
    compiled = []
    real = wasm_modules._compiled
    monkeypatch.setattr(wasm_modules, "_compiled", lambda module: compiled.append(module) or real(module))
    ctx = context(tmp_path, ECHO, {"a": 1})
    await asyncio.gather(wasm(ctx), wasm(ctx))
    assert await wasm(ctx) == {"a": 1}
    assert len(compiled) == 1


async def test_without_the_library(wasm: Wasm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    ctx = context(tmp_path, ECHO)
    monkeypatch.setitem(sys.modules, "wasmtime", None)
    error = await failure(wasm, ctx)
    assert (error.type, "pip install 'dalang[wasm]'" in str(error)) == (ErrorType.VALIDATION_ERROR, True)


async def test_no_way_out_of_the_folder(wasm: Wasm, tmp_path: Path) -> None:
    """A link that leads elsewhere is not followed."""
    module = bytes(wasmtime.wat2wasm(ECHO))
    outside = tmp_path.parent / f"{tmp_path.name}-outside.wasm"
    outside.write_bytes(module)
    (tmp_path / "link.wasm").symlink_to(outside)
    digest = hashlib.sha256(module).hexdigest()
    error = await failure(wasm, context(tmp_path, ECHO, coordinate="link.wasm", digest=digest))
    assert "no module" in str(error)


async def test_files_are_out_of_reach(wasm: Wasm, tmp_path: Path) -> None:
    """There is no open folder."""
    assert await wasm(context(tmp_path, SNOOPS)) == {}


async def test_what_it_may_know(wasm: Wasm, tmp_path: Path) -> None:
    """Its arguments and its node, and nothing of the worker's environment."""
    everything = command(
        """(drop (call $environ (i32.const 40000) (i32.const 1024)))
           (drop (call $args (i32.const 50000) (i32.const 4096)))"""
        + says(2, 1024, 8000)
        + "(call $exit (i32.const 1))"
    )
    error = await failure(wasm, context(tmp_path, everything, args=["--fast"]))
    told = [one for one in error.details["stderr"].replace("\ufffd", "\n").split("\n") if one]
    assert told[:4] == [
        "DALANG_RUN_ID=run-1",
        "DALANG_NODE_ID=n",
        "DALANG_ATTEMPT=1",
        "DALANG_IDEMPOTENCY_KEY=run-1:n:0:0",
    ]
    assert told[5:] == ["--fast"]


async def test_naps_end_by_themselves(wasm: Wasm, tmp_path: Path) -> None:
    """Sleeping works, within the wall time."""
    assert await wasm(context(tmp_path, NAPS)) == {}


async def test_a_cancel_stops_the_module_and_no_other(wasm: Wasm, tmp_path: Path) -> None:
    """The one that was cancelled traps at once; its neighbour goes on to its own end."""
    neighbour = asyncio.create_task(wasm(context(tmp_path, FOREVER)))
    for text in (FOREVER, SLEEPS):
        running = asyncio.create_task(wasm(context(tmp_path, text)))
        await asyncio.sleep(0.05)
        running.cancel()
        done, _ = await asyncio.wait({running}, timeout=SECONDS / 2)
        assert done
        assert running.cancelled()
        assert not neighbour.done()
    neighbour.cancel()
    with pytest.raises(asyncio.CancelledError):
        await neighbour


async def test_the_loop_goes_on_meanwhile(wasm: Wasm, tmp_path: Path) -> None:
    """A module that computes leaves heartbeats their turn."""
    running = asyncio.create_task(wasm(context(tmp_path, FOREVER, limits={"wallTime": 200})))
    turns = 0
    while not running.done():
        await asyncio.sleep(0.005)
        turns += 1
    assert running.exception() is not None
    assert turns > 5


async def test_a_plan_runs_a_module(shared_engine: Engine) -> None:
    """By a name of the plan's own; what the module says is the node's, and an error of it goes its way."""
    folder = Path(shared_engine.settings.wasm_dir)
    folder.mkdir(exist_ok=True)
    module = bytes(wasmtime.wat2wasm(WORDS))
    (folder / "words.wasm").write_bytes(module)
    digest = hashlib.sha256(module).hexdigest()
    implementation = {"type": "wasm", "coordinate": "words.wasm", "digest": f"sha256:{digest}"}
    count = {"type": "count-words", "descriptor": {"implementation": implementation}}
    plan = {
        "failurePolicy": "continue",
        "nodes": [
            {"nodeId": "good", **count, "inputs": {"text": "${inputs.text}"}},
            {"nodeId": "next", "type": "noop"},
            {"nodeId": "bad", **count, "retryPolicy": {"maxAttempts": 2, "initialDelay": "10ms"}},
        ],
        "edges": [{"sourceNodeId": "good", "targetNodeId": "next"}],
    }
    ended = await (await shared_engine.start(plan, {"text": "eins zwei drei"})).end()
    assert body_of(ended, "NODE_COMPLETED", "next")["outputs"] == {"words": 3}
    error = body_of(ended, "NODE_FAILED", "bad")["error"]
    assert (error["type"], error["attempt"], error["noEffect"]) == ("TOOL_ERROR", 1, True)
    assert "there is no text" in json.dumps(error["details"])
