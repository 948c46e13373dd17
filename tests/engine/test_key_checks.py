"""A worker that starts compares its keys with those of others."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dalang.encryption_keys import with_new_key
from dalang.key_checks import check_keys, signers
from dalang.settings import Settings, SettingsError
from dalang.signing import Keyring, new_key
from dalang.store.engine import create_engine
from dalang.temporal import connect
from tests.engine.kit import engine


def test_who_signed_what_is_not_known() -> None:
    """By the ids in signatures; what is none is passed over."""
    ours, theirs = Keyring.read(new_key()), Keyring.read(new_key())
    made = [one.sign({"x": 1}) or "" for one in (ours, theirs)]
    assert signers([*made, "", "rsa:1:2"], ours) == [theirs.own_id]
    assert signers(made, Keyring.read(new_key())) == sorted([str(ours.own_id), str(theirs.own_id)])


async def test_a_worker_without_the_key_of_a_run_does_not_start(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that goes on says which key it takes; heads that others have signed, whose they are."""
    paths = [tmp_path / "right.json", tmp_path / "wrong.json"]
    for path in paths:
        path.write_text(with_new_key(path, "k1")[1])
        path.chmod(0o600)
    signing = tmp_path / "audit.pem"
    signing.write_text(new_key())
    right = settings.model_copy(update={"encryption_keys_file": str(paths[0]), "audit_key_file": str(signing)})
    plan = {"nodes": [{"nodeId": "a", "type": "timer", "inputs": {"duration": "1h"}}]}
    db = create_engine(settings.database_url, pooled=False)
    try:
        async with engine(right) as running:
            started = await running.start(plan)
            await started.until("NODE_STARTED", "a")
            client = await connect(right)
            found = await check_keys(right, db, client, Keyring.load(signing))
            assert found == []
            for other, said in (
                (settings, "names no keys"),
                (right.model_copy(update={"encryption_keys_file": str(paths[1])}), "k1"),
            ):
                with pytest.raises(SettingsError, match=said):
                    await check_keys(other, db, client, Keyring())
            with caplog.at_level(logging.ERROR, "dalang.keys"):
                [foreign] = await check_keys(right, db, client, Keyring.read(new_key()))
            assert foreign == Keyring.load(signing).own_id
            assert foreign in caplog.text
            await started.handle.terminate()
    finally:
        await db.dispose()
