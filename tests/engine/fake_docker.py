"""A Docker engine as its API describes it, without containers: what a job does is told by the words of its command.

``echo`` writes its inputs as the last line, ``exit N`` fails, ``oom`` is killed for its memory, ``hang`` goes on until
it is killed or the test lets it ``finish``, ``noisy`` writes much before its outputs, ``rubbish`` no JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

DIGEST = "sha256:" + "ab" * 32
_REFERENCE = re.compile(r"[\w./:-]+@sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


@dataclass
class Container:
    """One container: what it was made of, its files, how it stands, what it wrote."""

    config: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    status: str = "created"
    code: int = 0
    oom: bool = False
    starts: int = 0
    logs: list[tuple[int, bytes]] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def env(self) -> dict[str, str]:
        """Its environment."""
        return dict(one.split("=", 1) for one in self.config["Env"])

    def end(self, code: int, oom: bool = False) -> None:
        """Let it end."""
        self.status, self.code, self.oom = "exited", code, oom
        self.ended.set()

    def write(self, stream: int, text: str) -> None:
        """Write to stdout (1) or stderr (2)."""
        self.logs.append((stream, text.encode()))

    def run(self) -> None:
        """Do what the command says."""
        self.status = "running"
        self.starts += 1
        word, *rest = self.config.get("Cmd") or ["echo"]
        inputs = self.files[self.env["DALANG_INPUTS_FILE"]].decode()
        self.write(1, "starting\n")
        if word == "hang":
            return
        if word == "noisy":
            for number in range(200):
                self.write(number % 2 + 1, f"line {number}\n" * 50)
        if word == "exit":
            self.write(2, "first\nthe disk is full\n")
            self.end(int(rest[0]))
        elif word == "oom":
            self.end(137, oom=True)
        elif word == "rubbish":
            self.write(1, "done\n")
            self.end(0)
        else:
            self.write(1, f"{inputs}\n\n")
            self.end(0)


class FakeDocker:
    """The engine. ``images`` are there, ``registry`` can be pulled; ``drop`` closes connections of a call, once."""

    def __init__(self) -> None:
        self.containers: dict[str, Container] = {}
        self.made: list[Container] = []
        self.removed: list[str] = []
        self.images = {f"team/words@{DIGEST}"}
        self.registry = {f"registry.example/late@{DIGEST}"}
        self.drop: set[str] = set()
        routes = [
            Route("/containers/create", self.create, methods=["POST"]),
            Route("/containers/{name}/json", self.inspect),
            Route("/containers/{name}/archive", self.archive, methods=["PUT"]),
            Route("/containers/{name}/start", self.start, methods=["POST"]),
            Route("/containers/{name}/wait", self.wait, methods=["POST"]),
            Route("/containers/{name}/logs", self.logs),
            Route("/containers/{name}", self.remove, methods=["DELETE"]),
            Route("/images/create", self.pull, methods=["POST"]),
        ]
        self.app = Starlette(routes=[Route("/_ping", self.ping), Mount("/v1.44", routes=routes)])

    def one(self) -> Container:
        """The only container there is."""
        (found,) = self.containers.values()
        return found

    async def until(self, status: str) -> Container:
        """Wait for a container that stands so."""
        async with asyncio.timeout(10):
            while not any(one.status == status for one in self.containers.values()):
                await asyncio.sleep(0.01)
        return next(one for one in self.containers.values() if one.status == status)

    def _found(self, request: Request) -> Container | None:
        return self.containers.get(request.path_params["name"])

    async def ping(self, request: Request) -> Response:
        """Tell the newest version of the API that this engine speaks."""
        return Response("OK", headers={"Api-Version": "1.44"})

    async def create(self, request: Request) -> Response:
        """Take a configuration."""
        name, config = request.query_params["name"], await request.json()
        if not _NAME.fullmatch(name) or not _REFERENCE.fullmatch(config["Image"]):
            return _error(400, "invalid reference format")
        assert all(isinstance(config["HostConfig"][one], int) for one in ("Memory", "NanoCpus", "PidsLimit"))
        assert all(isinstance(value, str) for value in config["Labels"].values())
        if config["Image"] not in self.images:
            return _error(404, f"No such image: {config['Image']}")
        if name in self.containers:
            return _error(409, f'Conflict. The container name "/{name}" is already in use')
        self.containers[name] = container = Container(config)
        self.made.append(container)
        return JSONResponse({"Id": name * 2, "Warnings": []}, 201)

    async def inspect(self, request: Request) -> Response:
        """Tell how a container stands."""
        found = self._found(request)
        if found is None:
            return _missing()
        state = {"Status": found.status, "ExitCode": found.code, "OOMKilled": found.oom, "Error": ""}
        return JSONResponse({"State": state, "Config": {"Labels": found.config["Labels"]}})

    async def archive(self, request: Request) -> Response:
        """Unpack files into a container."""
        found = self._found(request)
        if found is None:
            return _missing()
        with tarfile.open(fileobj=io.BytesIO(await request.body())) as tar:
            for member in tar:
                if member.isfile():
                    content = tar.extractfile(member)
                    assert content is not None
                    found.files["/" + member.name] = content.read()
        return Response()

    async def start(self, request: Request) -> Response:
        """Start a container."""
        found = self._found(request)
        if found is None:
            return _missing()
        if found.status != "created":
            return Response(status_code=304)
        found.run()
        return Response(status_code=204)

    async def wait(self, request: Request) -> Response:
        """Answer when the container has ended."""
        found = self._found(request)
        if found is None:
            return _missing()

        async def answer() -> AsyncIterator[bytes]:
            if "wait" in self.drop:
                self.drop.remove("wait")
                raise ConnectionResetError
            await found.ended.wait()
            yield json.dumps({"StatusCode": found.code}).encode()

        return StreamingResponse(answer(), media_type="application/json")

    async def logs(self, request: Request) -> Response:
        """Send what was written, in frames, cut anywhere."""
        found = self._found(request)
        if found is None:
            return _missing()
        data = b"".join(bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text for stream, text in found.logs)

        async def parts() -> AsyncIterator[bytes]:
            for at in range(0, len(data), 1021):
                yield data[at : at + 1021]

        return StreamingResponse(parts(), media_type="application/vnd.docker.multiplexed-stream")

    async def remove(self, request: Request) -> Response:
        """Remove a container; one that runs only by force."""
        found = self._found(request)
        if found is None:
            return _missing()
        if found.status == "running":
            if request.query_params.get("force") != "1":
                return _error(409, "cannot remove a running container")
            found.end(137)
        self.removed.append(request.path_params["name"])
        del self.containers[request.path_params["name"]]
        return Response(status_code=204)

    async def pull(self, request: Request) -> Response:
        """Pull an image, and tell how far it is in lines of JSON."""
        reference = f"{request.query_params['fromImage']}@{request.query_params['tag']}"
        if reference not in self.registry:
            return _error(404, f"manifest for {reference} not found")
        self.images.add(reference)
        lines = [{"status": "Pulling"}, {"status": "Downloaded"}]
        return Response("\r\n".join(map(json.dumps, lines)) + "\r\n", media_type="application/json")

    @contextlib.asynccontextmanager
    async def serving(self, path: Path) -> AsyncIterator[FakeDocker]:
        """Serve on a socket."""
        config = uvicorn.Config(self.app, uds=str(path), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield self
        finally:
            for one in self.containers.values():
                one.ended.set()
            server.should_exit = True
            await task


def _error(status: int, message: str) -> Response:
    return JSONResponse({"message": message}, status)


def _missing() -> Response:
    return _error(404, "No such container")
