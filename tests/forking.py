"""The program ``dalang`` for tests that run it hundreds of times: forked from a process that has imported it already.

A start of Dalang's command line computes for a third of a second before it does what it was told. :func:`forking`
makes a folder for PATH with a ``dalang`` that asks this process to fork: the child gets the arguments, the working
folder, the environment and the three open files of who asked; signals and the exit code go back and forth. Workers and
APIs are forked from a second such process, see ``tests/forked_parts.py``.

It is the real program wherever that could matter: the first time that a command is used, for commands that last,
and where what Python itself reads from the environment differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import io
import marshal
import os
import pkgutil
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from tests.harness import PATIENCE, ROOT

LASTING = ("up", "demo", "worker", "api", "mcp")
COMMANDS_NEED = (
    *("dalang.cli", "dalang.egress", "dalang.loading", "dalang.overview", "dalang.picture", "dalang.rehearsal"),
    *(
        "dalang.settings",
        "encodings.idna",
        "httpcore",
        "httpcore._async",
        "pydantic.type_adapter",
        "rich.live",
        "typer._adapters",
    ),
)
"""What they import when they run."""
LAUNCHER = """#!{python} -IS
import _signal, _socket, marshal, os, sys

folder, words = {folder!r}, sys.argv[1:]
command = next((word for word in words if word[:1] != "-"), "none").replace("/", "_")


def pythonic():
    return {{name: value for name, value in os.environ.items() if name.startswith(("PYTHON", "LC_", "LANG"))}}


def first():
    try:
        os.close(os.open(f"{{folder}}/used/{{command}}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


if command in {lasting!r} or pythonic() != {pythonic!r} or first():
    os.execv({dalang!r}, [{dalang!r}, *words])
answer = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
answer.connect(f"{{folder}}/socket")
asked = marshal.dumps((["dalang", *words], os.getcwd(), dict(os.environ)))
files = b"".join(one.to_bytes(4, sys.byteorder) for one in (0, 1, 2))
answer.sendmsg([len(asked).to_bytes(8, "big")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
answer.sendall(asked)
child = int.from_bytes(answer.recv(8), "big")
for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
    if _signal.getsignal(number) != _signal.SIG_IGN:
        _signal.signal(number, lambda number, _: os.kill(child, number))
code = int.from_bytes(answer.recv(4), "big", signed=True)
if code < 0:  # it ended by a signal, and so do we
    _signal.signal(-code, _signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@contextlib.asynccontextmanager
async def forking(folder: Path, environment: dict[str, str]) -> AsyncIterator[Path]:
    """Return the folder for PATH; those who use it have this ``environment``, but for what is not Python's."""
    pythonic = {name: value for name, value in environment.items() if name.startswith(("PYTHON", "LC_", "LANG"))}
    (folder / "bin").mkdir(parents=True)
    (folder / "used").mkdir()
    launcher = folder / "bin" / "dalang"
    real = str(Path(sys.executable).parent / "dalang")
    values = {"dalang": real, "folder": str(folder), "lasting": LASTING, "pythonic": pythonic}
    launcher.write_text(LAUNCHER.format(python=sys.executable, **values))
    launcher.chmod(0o755)
    began = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.forking", str(folder / "socket"), cwd=ROOT, env=environment
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while not (folder / "socket").exists():
                assert began.returncode is None, "it ended"
                await asyncio.sleep(0.02)
        yield launcher.parent
    finally:
        with contextlib.suppress(ProcessLookupError):
            began.terminate()
        await began.wait()


def main(address: str, kind: str = "commands") -> None:
    """Import the whole command line, or the ``services``, then fork for whoever asks until the test run is gone."""
    IMPORTS[kind]()
    assert threading.active_count() == 1, threading.enumerate()
    tasks = Path("/proc/self/task")
    assert not tasks.exists() or len(list(tasks.iterdir())) == 1, "a library has a thread of its own"
    gc.collect()
    gc.freeze()
    children: dict[int, socket.socket] = {}
    signal.signal(signal.SIGCHLD, lambda *_: _tell_ends(children))
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{address}.new")
    listening.listen(64)
    Path(f"{address}.new").rename(address)
    listening.settimeout(1)
    parent = os.getppid()
    while os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            asking, _ = listening.accept()
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # no child ends before it is known
            child = os.fork()
            if child == 0:
                listening.close()
                _run(asking)
            children[child] = asking
            asking.sendall(child.to_bytes(8, "big"))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _tell_ends(children: dict[int, socket.socket]) -> None:
    """Tell those who asked for children that have ended how they did: the exit code, or minus the signal."""
    while children:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            return
        with children.pop(child) as asking, contextlib.suppress(OSError):
            asking.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))


def _import_commands() -> None:
    import dalang.commands
    from dalang.start import without_httpx_command

    without_httpx_command()
    for module in pkgutil.iter_modules(dalang.commands.__path__, "dalang.commands."):
        importlib.import_module(module.name)
    for name in COMMANDS_NEED:
        importlib.import_module(name)


def _import_services() -> None:
    from dalang.start import ROOTS, without_httpx_command

    without_httpx_command()
    for name in ROOTS.values():
        importlib.import_module(name)


IMPORTS = {"commands": _import_commands, "services": _import_services}


def _run(asking: socket.socket) -> None:
    """Be the command: never returns."""
    code = 1  # as Python ends by what nobody caught
    try:
        asking.setblocking(True)
        head, files, _, _ = socket.recv_fds(asking, 8, 3)
        asked = b""
        while len(asked) < int.from_bytes(head, "big"):
            asked += asking.recv(1 << 20)
        words, place, environment = marshal.loads(asked)  # from a test
        asking.close()
        for target, file in enumerate(files):
            os.dup2(file, target)
            os.close(file)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.chdir(place)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = words
        sys.path[0] = ""
        for name, stream in zip(("stdin", "stdout", "stderr"), _streams(), strict=True):
            setattr(sys, name, stream)
        code = _exit_code()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _streams() -> Iterator[io.TextIOWrapper]:
    for file, mode in ((0, "rb"), (1, "wb"), (2, "wb")):
        errors = "backslashreplace" if file == 2 else "strict"
        lines = file == 2 or os.isatty(file)
        yield io.TextIOWrapper(open(file, mode, closefd=False), "utf-8", errors, line_buffering=lines)  # noqa: SIM115


def _exit_code() -> int:
    try:
        if sys.argv[0] != "dalang":
            return _service(*sys.argv)
        from dalang.cli import main as dalang

        dalang()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _service(root: str) -> int:
    """Be a worker or an API, as ``python -m dalang.start ROOT --told``, in a session of its own."""
    from dalang.stack.processes import DiesWithParent
    from dalang.start import become

    os.setsid()
    DiesWithParent(signal.SIGTERM, os.getppid())()
    return become(root, told=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
