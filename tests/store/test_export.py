"""An exported run is checked by a script without Dalang and without the database; whatever was done to it is found."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.canonical import compact_json
from dalang.errors import NotFound
from dalang.signing import Keyring, new_key
from dalang.store.anchors import make_anchor
from dalang.store.engine import transaction
from dalang.store.export import export_run
from dalang.store.references import put_body
from dalang.store.retention import erase_bodies
from dalang.store.runs import Run
from tests.harness import ROOT
from tests.store.world import TENANT, World, begun, ended, fact, other_run

SCRIPT = ROOT / "examples/verify_audit.py"
Lines = list[dict[str, Any]]


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("verify_audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


async def exported(world: World, run: Run) -> Lines:
    async with transaction(world.engine, TENANT) as conn:
        return [json.loads(line) async for line in export_run(conn, TENANT, run.run_id, world.keys)]


def check(lines: Lines, *keys: str) -> tuple[list[str], bool]:
    found: tuple[list[str], bool] = script.verify([json.dumps(line) + "\n" for line in lines], list(keys))
    return found


async def signed_run(world: World) -> Lines:
    """A run that was reset once, with a large value and numbers of every kind, in an anchor of five runs."""
    others = [await world.run() for _ in range(4)]
    for other in others:
        await world.flush(other, begun())
    run = await world.run()
    head = await world.flush(run, begun())
    await world.flush(run, ended(), head)
    encoded = compact_json("long" * 1000)
    async with transaction(world.engine, TENANT) as conn:
        reference = await put_body(conn, TENANT, encoded)
    outputs: Any = {"outputs": {"big": 1e20, "small": 5e-324, "é\u2028": [None, 2.5]}, "large": reference}
    await world.flush(run, [fact(5, "NODE_COMPLETED", "a", outputs, x=1e21)], head, current=True)
    async with transaction(world.engine, TENANT) as conn:
        assert await make_anchor(conn, TENANT, world.keys)
    return await exported(world, run)


async def test_an_export_is_checked_offline(engine: AsyncEngine, tmp_path: Path) -> None:
    """By the script as it is called, with the key that was given; erased bodies are no tampering."""
    world = World(engine, Keyring.read(new_key()))
    lines = await signed_run(world)
    [key] = world.keys.public_keys.values()
    assert [line["kind"] for line in lines] == ["run", *["event"] * 9, "value", "anchor", "end"]
    said, checked = check(lines, key)
    assert checked
    assert "9 events" in said[0]
    file = tmp_path / "run.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for given, code in (([], 0), (["--key", key], 0), (["--key", "AAAA"], 1)):
        done = subprocess.run([sys.executable, "-I", SCRIPT, file, *given], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
    done = subprocess.run(
        [sys.executable, "-I", "-S", SCRIPT, file], capture_output=True, text=True, check=False
    )  # without site-packages: there is no cryptography
    assert done.returncode == 3, done.stdout + done.stderr
    async with transaction(world.engine, TENANT) as conn:
        with pytest.raises(NotFound):
            _ = [line async for line in export_run(conn, TENANT, other_run(), world.keys)]
    whole, _ = await world.whole()
    async with transaction(world.engine, TENANT) as conn:
        await erase_bodies(conn, TENANT, whole.run_id)
    assert "6 bodies erased" in check(await exported(world, whole), key)[0][0]
    unsigned = World(engine)
    said, checked = check(await exported(unsigned, await unsigned.run()))
    assert (said[1], checked) == ("nothing is signed", False)


def change_text(lines: Lines, at: int, key: str, old: str, new: str) -> None:
    assert old in lines[at][key]
    lines[at][key] = lines[at][key].replace(old, new)


def drop(lines: Lines, at: int) -> None:
    del lines[at]
    lines[-1]["lines"] -= 1


def swap(lines: Lines, one: int, other: int) -> None:
    lines[one], lines[other] = lines[other], lines[one]


def rewrite(lines: Lines) -> None:
    """Change an event and compute everything after it again."""
    change_text(lines, 6, "hashed", "FAILED", "SUCCESS")
    previous = lines[5]["hash"]
    for line in lines[6:9]:
        line["previousHash"] = previous
        previous = line["hash"] = script.sha256(line["hashed"].encode(), previous.encode())
    lines[0]["head"]["hash"] = previous


TAMPERING: list[tuple[Callable[[Lines], Any], str]] = [
    (lambda lines: change_text(lines, 6, "hashed", "FAILED", "SUCCESS"), "event 0.6: CHANGED"),
    (lambda lines: change_text(lines, 3, "body", "1", "2"), "event 0.3: CHANGED"),
    (lambda lines: lines[7].update(body="{}", salt=""), "event 0.7: INSERTED"),
    (lambda lines: drop(lines, 4), "event 0.4: REMOVED"),
    (lambda lines: drop(lines, 1), "event 0.1: REMOVED"),
    (lambda lines: drop(lines, 8), "event 0.7: what follows was REMOVED"),
    (lambda lines: swap(lines, 4, 5), "event 0.4: REMOVED"),
    (lambda lines: lines.insert(4, lines[3]) or lines[-1].update(lines=len(lines)), "event 0.3: REORDERED"),
    (lambda lines: lines[0]["head"].update(hash="0" * 64), "event 0.8: HEAD_CHANGED"),
    (lambda lines: lines[0]["head"].update(seq=7), "INSERTED"),
    (lambda lines: lines[0].update(runId="x"), "event 0.1: CHANGED, it is of another run"),
    (rewrite, "the head: FORGED"),
    (lambda lines: lines[0].update(signature=None), "the head: UNSIGNED"),
    (lambda lines: lines.pop(), "the file is not whole"),
    (lambda lines: change_text(lines, 9, "signed", '"number":1', '"number":2'), "anchor 2: FORGED"),
    (lambda lines: change_text(lines, 9, "leaf", '"seq":8', '"seq":7'), "HEAD_CHANGED"),
    (lambda lines: lines[9].update(index=3), "not in the anchor"),
    (lambda lines: lines[9].update(path=lines[9]["path"][1:]), "not in the anchor"),
]


async def test_whatever_was_done_to_an_export_is_found(engine: AsyncEngine) -> None:
    """Changed, removed, inserted, moved, cut off, rewritten without the key."""
    world = World(engine, Keyring.read(new_key()))
    other = await world.run()
    await world.flush(other, begun())
    run, _ = await world.whole()
    async with transaction(world.engine, TENANT) as conn:
        assert await make_anchor(conn, TENANT, world.keys)
    [key] = world.keys.public_keys.values()
    whole = json.dumps(await exported(world, run))
    assert check(json.loads(whole), key)[1]
    for tamper, expected in TAMPERING:
        lines = json.loads(whole)
        tamper(lines)
        with pytest.raises(script.Tampered, match=expected):
            check(lines, key)
