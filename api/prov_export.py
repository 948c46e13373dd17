"""PROV-JSON of a large run, page by page: what a document takes of memory does not grow with the run.

A document lists its records by kind, while a page of executions has some of every kind. Those of one kind go out as
they come, so that the reader has something; the others wait in files until the last page has been read.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from dalang.prov_json import Records, prefixes
from dalang.provenance_reading import Part, Position

PAGE = 500
IN_MEMORY, AT_ONCE = 256 * 1024, 64 * 1024
"""Bytes: of one kind before there is a file for it, and of one piece that is sent."""
FIRST = "activity"
_OWN = ("run:node/", "run:inputs/", "run:outputs/", "run:error/")
"""What belongs to one execution, which tells of it once."""
NextPage = Callable[[Position], Awaitable[Part]]


async def prov_pieces(told: Mapping[str, Any], part: Part, next_page: NextPage) -> AsyncIterator[str]:
    """Write the document of a run; ``told`` is what is known of the run, ``part`` its first page of executions."""
    with ExitStack() as files:
        document = _Streamed(files)
        document.run(told)
        yield f'{{"prefix":{json.dumps(prefixes(told["runId"]))},"{FIRST}":{{'
        while True:
            yield await asyncio.to_thread(document.page, part)
            if part.following is None:
                break
            part = await next_page(part.following)
        document.end(told)
        yield "}"
        for piece in document.rest():
            yield piece
        yield "}"


class _Streamed(Records):
    """Records as text, by kind."""

    def __init__(self, files: ExitStack) -> None:
        super().__init__(())
        self._files = files
        self._counts: dict[str, int] = {}
        self._waiting: dict[str, IO[str]] = {}
        self._first: list[str] = []
        self._shared: set[str] = set()
        self._have_values: set[str] = set()

    def page(self, part: Part) -> str:
        """Take executions, and return what can go out."""
        self._put_out = {one["id"] for one in part.around if one.get("outputs") is not None}
        self._have_values = self._put_out | {one["id"] for one in part.around if one.get("error") is not None}
        for execution in part.executions:
            self.execution(execution)
        written = "".join(self._first)
        self._first.clear()
        return written

    def rest(self) -> Iterator[str]:
        """Yield the records that waited."""
        for kind, file in self._waiting.items():
            yield f',"{kind}":{{'
            file.seek(0)
            while piece := file.read(AT_ONCE):
                yield piece
            yield "}"

    def put(self, kind: str, name: str, attributes: Mapping[str, Any]) -> str:
        """Take what is known of an entity, an activity or an agent, and return its name; what is shared, once."""
        if name not in self._shared:
            if not name.startswith(_OWN):
                self._shared.add(name)
            self._write(kind, name, {key: value for key, value in attributes.items() if value is not None})
        return name

    def relate(self, kind: str, **ends: str | None) -> None:
        """Take a relation between some."""
        number = self._counts.get(kind, 0) + 1
        self._write(kind, f"_:{kind}{number}", {f"prov:{end}": name for end, name in ends.items() if name})

    def _given(self, execution: str) -> str:
        name = self._given_name(execution)
        if execution not in self._have_values and name not in self._shared:  # nobody else tells of it
            self._shared.add(name)
            self._write("entity", name, {})
        return name

    def _write(self, kind: str, name: str, record: Mapping[str, Any]) -> None:
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        written = f"{',' if count > 1 else ''}{json.dumps(name)}:{json.dumps(record)}"
        if kind == FIRST:
            self._first.append(written)
            return
        if kind not in self._waiting:
            file = SpooledTemporaryFile(IN_MEMORY, "w+", encoding="ascii")  # noqa: SIM115 - closed with the others
            self._waiting[kind] = self._files.enter_context(file)
        self._waiting[kind].write(written)
