"""The order in which the doctor looks at things; what cannot be reached is a finding, and the rest is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dalang.doctor import machine
from dalang.doctor.database import examine_database
from dalang.doctor.engine import examine_temporal
from dalang.doctor.findings import FAIL, Examination, Finding
from dalang.settings import Settings
from dalang.store.engine import create_engine
from dalang.temporal import connect

PATIENCE = 10.0


async def examine(settings: Settings) -> list[Finding]:
    """Look at everything and return what was found, in the order of a person's questions."""
    found = [machine.versions(), machine.disk(settings), *machine.files(settings)]

    async def database() -> Sequence[Finding]:
        engine = create_engine(settings, pooled=False)
        try:
            return await examine_database(engine)
        finally:
            await engine.dispose()

    async def temporal() -> Sequence[Finding]:
        client = await connect(settings, timeout_seconds=PATIENCE / 2)
        return await examine_temporal(client, settings)

    async def api() -> Sequence[Finding]:
        return await machine.api(settings)

    if settings.database_url:
        found += await _guarded("postgres", database, "Is it up, and is DALANG_DATABASE_URL right?")
    else:
        what = "no stack runs in this folder, and DALANG_DATABASE_URL is not set"
        found.append(Finding("postgres", FAIL, what, "Start `dalang up`, or set DALANG_DATABASE_URL."))
    found += await _guarded("temporal", temporal, "Is it up, and is DALANG_TEMPORAL_ADDRESS right?")
    return found + list(await _guarded("api", api, ""))


async def _guarded(name: str, examination: Examination, do: str) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(PATIENCE):
            return await examination()
    except TimeoutError:
        return [Finding(name, FAIL, f"did not answer within {PATIENCE:g} s", do)]
    except Exception as error:  # a doctor looks at what is broken: whatever it is, it is told
        told = str(getattr(error, "orig", None) or error).split("\n", 1)[0][:300]
        return [Finding(name, FAIL, told or type(error).__name__, do)]
