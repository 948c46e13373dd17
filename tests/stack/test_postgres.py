"""The embedded PostgreSQL."""

import os
import shutil
import stat
from pathlib import Path

import asyncpg
import pytest

from dalang.stack.errors import StackError
from dalang.stack.ports import LOOPBACK, free_port
from dalang.stack.postgres import APP, OWNER, EmbeddedPostgres
from dalang.stack.system_user import remove_data


async def query(server: EmbeddedPostgres, role: str, *statements: str) -> object:
    connection = await asyncpg.connect(server.url(role).replace("+asyncpg", ""))
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


async def test_data_outlives_stop_kill_and_a_stale_lock(home: Path) -> None:
    """What was committed is there after each way to end, also when the lock names somebody else's pid."""
    server = EmbeddedPostgres(home, free_port())
    await server.start()
    try:
        await query(server, OWNER, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)", "SELECT 1")
        await server.stop()
        await server.start()
        assert await query(server, OWNER, "INSERT INTO t VALUES (2)", "SELECT count(*) FROM t") == 2
        await server.kill()
        lock = home / "postgres" / "cluster" / "postmaster.pid"
        lines = lock.read_text().split("\n")
        lock.write_text("\n".join([str(os.getpid()), *lines[1:]]))
        again = EmbeddedPostgres(home, server.port)
        server = again
        await again.start()
        assert await query(again, OWNER, "SELECT count(*) FROM t") == 2
    finally:
        await server.stop()


async def test_an_orphaned_server_is_ended_by_the_next_start(home: Path) -> None:
    """Two objects, one home: the second stands for the next `dalang up` after a crash of the first."""
    first = EmbeddedPostgres(home, free_port(), durable=False)
    await first.start()
    (home / "postgres.process").unlink()  # the crash came before the mark was written
    second = EmbeddedPostgres(home, first.port, durable=False)
    await second.start()
    try:
        assert not first.running
        assert await query(second, APP, "SELECT 1") == 1
    finally:
        await second.stop()


async def test_nobody_enters_without_a_password(home: Path) -> None:
    """Over TCP and over the socket; the passwords are readable by the owner of the home only."""
    server = EmbeddedPostgres(home, free_port(), durable=False)
    await server.start()
    try:
        hosts = [LOOPBACK, *([str(server.socket_folder)] if server.socket_folder else [])]
        assert len(hosts) == 2
        for host in hosts:
            for user in (APP, OWNER, "postgres"):
                with pytest.raises(asyncpg.InvalidPasswordError):
                    await asyncpg.connect(host=host, port=server.port, user=user, password="wrong", database="dalang")
        assert stat.S_IMODE((home / "postgres.json").stat().st_mode) == 0o600
        assert stat.S_IMODE((home / "postgres").stat().st_mode) == 0o700
        assert await query(server, APP, "SHOW listen_addresses") == LOOPBACK
    finally:
        await server.stop()


async def test_lost_passwords_are_named(home: Path) -> None:
    """The error says which file, and what is left to do."""
    server = EmbeddedPostgres(home, free_port(), durable=False)
    await server.start()
    await server.stop()
    (home / "postgres.json").unlink()
    with pytest.raises(StackError, match=r"passwords .*postgres\.json"):
        await server.start()


async def test_a_cut_off_first_start_is_begun_anew(home: Path) -> None:
    """Half a data folder is not repaired but replaced."""
    server = EmbeddedPostgres(home, free_port(), durable=False)
    await server.start()
    await server.stop()
    (home / "postgres" / "initialised").unlink()
    shutil.rmtree(home / "postgres" / "cluster" / "base")
    await server.start()
    try:
        assert await query(server, APP, "SELECT 1") == 1
    finally:
        await server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")
async def test_as_root_in_a_folder_of_root_alone(tmp_path: Path) -> None:
    """The data is placed where PostgreSQL's user can reach it; no folder of root is opened for that."""
    closed = tmp_path / "closed"
    home = closed / "home"
    home.mkdir(parents=True)
    closed.chmod(0o700)
    server = EmbeddedPostgres(home, free_port(), durable=False)
    await server.start()
    try:
        assert (home / "postgres").is_symlink()
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert await query(server, APP, "SELECT 1") == 1
    finally:
        await server.stop()
        remove_data(home / "postgres")
    assert not (home / "postgres").exists()
