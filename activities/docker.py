"""The few calls of the Docker Engine API that a job needs; Podman answers them, too.

The address is the operator's, so no egress rules apply: ``unix:///var/run/docker.sock`` or ``http://host:2375``.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx

from dalang.canonical import safe_text
from dalang.nodes import InvalidInput, NetworkError, ToolError
from dalang.trust import trusted

CALL_SECONDS = 30.0
PULL_SECONDS = 600.0
"""How long the engine may say nothing while it pulls an image."""
STDOUT, STDERR = 1, 2
VERSION = (1, 51)
"""Of the API, as its calls are meant here; an older engine is spoken to in its own."""


class NoImage(Exception):
    """The engine does not have the image."""


class Taken(Exception):
    """There is a container of this name."""


class Silent(NetworkError):
    """The engine took a request and did not answer in time."""


class Frames:
    """Takes apart what the engine sends as logs: frames of a stream's number, a length and so many bytes."""

    def __init__(self) -> None:
        self._rest = b""
        self._stream = 0
        self._left = 0

    def feed(self, part: bytes) -> list[tuple[int, bytes]]:
        """Return the pieces of streams that are in what came next."""
        data, found = self._rest + part, []
        while data:
            if not self._left:
                if len(data) < 8:
                    break
                self._stream, self._left = data[0], int.from_bytes(data[4:8], "big")
                data = data[8:]
                continue
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            found.append((self._stream, piece))
        self._rest = data
        return found


class Docker:
    """A client of one engine."""

    def __init__(self, address: str) -> None:
        scheme, _, place = address.partition("://")
        transport = httpx.AsyncHTTPTransport(uds=place) if scheme == "unix" else None
        base = "http://engine" if scheme == "unix" else address.replace("tcp://", "http://", 1)
        timeout = httpx.Timeout(CALL_SECONDS, connect=5.0)
        self._client = httpx.AsyncClient(
            base_url=base, transport=transport, timeout=timeout, trust_env=False, verify=trusted()
        )
        self._prefix: str | None = None

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def create(self, name: str, body: Mapping[str, Any]) -> None:
        """Create a container.

        Raises:
            NoImage, Taken: as they say.
        """
        response = await self._call("POST", f"/containers/create?name={name}", json=dict(body), also=(404, 409))
        if response.status_code == 404:
            raise NoImage(_message(response))
        if response.status_code == 409:
            raise Taken(_message(response))

    async def inspect(self, name: str) -> dict[str, Any] | None:
        """Return what the engine knows of a container, or None if there is none."""
        response = await self._call("GET", f"/containers/{name}/json", also=(404,))
        return None if response.status_code == 404 else _object(response)

    async def put_file(self, name: str, path: str, content: bytes) -> None:
        """Put a file into a container that was created."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            folder = tarfile.TarInfo(path.strip("/").rpartition("/")[0])
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
            about = tarfile.TarInfo(path.strip("/"))
            about.size, about.mode = len(content), 0o444
            tar.addfile(about, io.BytesIO(content))
        headers = {"content-type": "application/x-tar"}
        await self._call("PUT", f"/containers/{name}/archive?path=/", content=archive.getvalue(), headers=headers)

    async def start(self, name: str) -> None:
        """Start a container; one that runs already is left alone."""
        await self._call("POST", f"/containers/{name}/start", also=(304,))

    async def wait(self, name: str) -> None:
        """Wait until a container has ended, at most so long as one call may take."""
        try:
            await self._call("POST", f"/containers/{name}/wait?condition=not-running", also=(404,))
        except Silent:
            return

    async def logs(self, name: str) -> AsyncIterator[tuple[int, bytes]]:
        """Yield what the container wrote, piece by piece, with the number of the stream."""
        frames = Frames()
        async with self._streamed("GET", f"/containers/{name}/logs?stdout=1&stderr=1") as response:
            async for part in response.aiter_bytes():
                for piece in frames.feed(part):
                    yield piece

    async def remove(self, name: str) -> None:
        """Kill a container if it runs, and remove it; one that is not there is no error."""
        await self._call("DELETE", f"/containers/{name}?force=1&v=1", also=(404, 409))

    async def pull(self, reference: str) -> None:
        """Let the engine fetch an image, ``name@sha256:...``.

        Raises:
            InvalidInput: the registry does not have it, or does not give it.
            ToolError: it could not be fetched now.
        """
        name, _, digest = reference.partition("@")
        path = f"/images/create?fromImage={quote(name, safe='')}&tag={quote(digest, safe='')}"
        async with self._streamed("POST", path, timeout=PULL_SECONDS, also=(404,)) as response:
            if response.status_code == 404:
                await response.aread()
                raise InvalidInput(f"there is no image {reference}: {_message(response)}", no_effect=True)
            async for line in response.aiter_lines():
                told = _json(line.encode())
                if isinstance(told, dict) and "error" in told:
                    text = safe_text(f"the image {reference} could not be pulled: {told['error']}", 500)
                    raise ToolError(text, retryable=True, no_effect=True)

    # -- calls -----------------------------------------------------------------------------------------------------

    async def _call(self, method: str, path: str, *, also: tuple[int, ...] = (), **more: Any) -> httpx.Response:
        async with self._streamed(method, path, also=also, **more) as response:
            await response.aread()
            return response

    @asynccontextmanager
    async def _streamed(
        self, method: str, path: str, *, also: tuple[int, ...] = (), **more: Any
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and hand its answer over; statuses but 2xx and ``also`` are failures.

        Raises:
            NetworkError: the engine does not answer.
            InvalidInput, ToolError: it refuses the request, or fails.
        """
        try:
            if self._prefix is None:
                self._prefix = _prefix((await self._client.get("/_ping")).headers.get("api-version", ""))
            async with self._client.stream(method, self._prefix + path, **more) as response:
                if not response.is_success and response.status_code not in also:
                    await response.aread()
                    raise _refused(response)
                yield response
        except httpx.ReadTimeout:
            raise Silent("the container engine took a request and says nothing") from None
        except httpx.TransportError as error:
            text = f"the container engine does not answer: {type(error).__name__}: {error}"
            no_effect = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
            raise NetworkError(safe_text(text, 500), no_effect=no_effect) from None


def _prefix(told: str) -> str:
    """Return how paths begin for an engine that speaks this version of the API, the newest it does."""
    major, _, minor = told.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        return ""
    spoken = min(VERSION, (int(major), int(minor)))
    return f"/v{spoken[0]}.{spoken[1]}"


def _refused(response: httpx.Response) -> Exception:
    details = {"status": response.status_code}
    text = f"the container engine answered {response.status_code}: {_message(response)}"
    if response.status_code == 400:
        return InvalidInput(text, details=details)
    return ToolError(text, details=details, retryable=response.status_code >= 500)


def _message(response: httpx.Response) -> str:
    told = _json(response.content)
    text = told.get("message") if isinstance(told, dict) else None
    return safe_text(text if isinstance(text, str) else response.text, 500)


def _object(response: httpx.Response) -> dict[str, Any]:
    told = _json(response.content)
    if not isinstance(told, dict):
        raise ToolError("the container engine did not answer JSON", retryable=True)
    return told


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None
