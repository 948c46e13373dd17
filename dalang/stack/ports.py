"""Ports on the loopback interface: is one free, who has it, which one is free."""

from __future__ import annotations

import socket

import psutil

from dalang.stack.errors import StackError

LOOPBACK = "127.0.0.1"


def require_free(port: int, setting: str) -> None:
    """Raise :class:`StackError` naming ``setting`` and the process that listens on ``port``, if one does."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of an earlier server that linger in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as e:
            raise StackError(
                f"port {port} ({setting}) cannot be used: {_holder(port) or e.strerror}. "
                f"End that process, or set {setting} to a free port."
            ) from None


def free_port() -> int:
    """Return a port that is free now; another process could still take it before it is used."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def free_ports(count: int) -> list[int]:
    """Return ``count`` different ports that are free now."""
    probes = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _holder(port: int) -> str | None:
    """Say which process listens on ``port``; None where the system does not tell (other users' processes)."""
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return "another process listens on it"
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            if connection.pid is None:
                return "a process of another user listens on it"
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid}) listens on it"
            except psutil.Error:
                return f"pid {connection.pid} listens on it"
    return None
