"""Runs an MCP server that talks on stdio: ``python child.py <pid of the worker> <program> <arguments...>``.

It is a program of its own, started without our packages. When the server ends, or the worker does - however it does -
the whole process group ends: neither a server that ignores the end of its input nor one that it started survives. Its
first argument is looked at after asking for the signal, for a worker that has died before that.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def _end(*_: object) -> None:
    os.killpg(0, signal.SIGKILL)


def main(arguments: list[str]) -> None:
    """Run the server to its end, and end with all that is left of it."""
    worker, *command = arguments
    signal.signal(signal.SIGUSR1, _end)
    # The whole group gets it when the worker asks the server to end; this process ends when the server has.
    signal.signal(signal.SIGTERM, lambda *_: None)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1, 0, 0, 0)
    if os.getppid() != int(worker):
        _end()
    try:
        server = os.posix_spawn(
            command[0], command, os.environ, setsigdef=[signal.SIGUSR1, signal.SIGTERM, signal.SIGPIPE]
        )
        for descriptor in (0, 1):
            os.close(descriptor)
        _, status = os.waitpid(server, 0)
        code = os.waitstatus_to_exitcode(status)
        if code:
            sys.stderr.write(f"(it ended with {f'exit code {code}' if code > 0 else signal.Signals(-code).name})\n")
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started: {error.strerror}\n")
    sys.stderr.flush()
    _end()


if __name__ == "__main__":
    main(sys.argv[1:])
