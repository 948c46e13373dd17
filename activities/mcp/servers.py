"""The MCP servers that the operator has given names to: ``DALANG_MCP_SERVERS_FILE``.

.. code-block:: yaml

    mcpServers:
      texts:                       # a program that talks on stdio
        command: python
        args: [text_server.py]
        env: {LEVEL: "3"}
        cwd: .                     # relative to this file; by default its folder
      crm:                         # a service, by streamable HTTP
        url: https://crm.example/mcp
        headers: {Authorization: "Bearer {{secret://crm-token}}"}    # of the node's tenant
        tools: [find_customer]     # nodes may call no other
        tenants: [acme]            # nodes of no other tenant may

The form is the one that other programs have for MCP servers, so that an entry can be copied. Only the operator's
programs are started: a plan that could name one would run anything on a worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dalang.canonical import pointer
from dalang.errors import InvalidDocument, Problem
from dalang.formats import load_document
from dalang.nodes import InvalidInput, PolicyViolation
from dalang.watched_file import WatchedFile

MAX_SERVERS = 1_000


class Server(BaseModel):
    """How an MCP server is reached: a program on stdio (``command``), or a service by streamable HTTP (``url``)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["stdio", "http", "streamable-http", "streamableHttp"] | None = None
    command: str | None = Field(None, min_length=1)
    args: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)
    cwd: str | None = None
    url: str | None = Field(None, pattern=r"^https?://[^\s/]")
    headers: dict[str, str] = Field(default_factory=dict)
    protocol: Literal["auto", "legacy"] = "auto"
    tools: tuple[str, ...] | None = None
    tenants: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise ValueError("give either `command`, a program, or `url`, a service")
        if self.command is None and (self.args or self.env or self.cwd):
            raise ValueError("`args`, `env` and `cwd` are for a `command`")
        if self.url is None and self.headers:
            raise ValueError("`headers` are for a `url`")
        if self.type is not None and (self.type == "stdio") != (self.command is not None):
            raise ValueError(f"`type: {self.type}` is not what is given")
        return self


class _File(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mcpServers: dict[str, Server] = Field(max_length=MAX_SERVERS)


def read_servers(data: bytes | str) -> dict[str, Server]:
    """Return the servers of a YAML or JSON document by name.

    Raises:
        InvalidDocument: with all its problems.
    """
    try:
        return dict(_File.model_validate(load_document(data)).mcpServers)
    except ValidationError as error:
        problems = [
            Problem(pointer=pointer(*one["loc"]), code="BAD_VALUE", message=one["msg"]) for one in error.errors()
        ]
        raise InvalidDocument(problems, "list of MCP servers") from None


class NamedServers:
    """The servers of the operator's file, which is read again when it has changed."""

    def __init__(self, path: Path | None) -> None:
        """Raises SettingsError when the file cannot be read or has problems, all of which it names."""
        self._file = None if path is None else WatchedFile("DALANG_MCP_SERVERS_FILE", path, read_servers)
        self._folder = None if path is None else path.absolute().parent

    def get(self, name: str, tenant_id: str) -> Server:
        """Return the server with this name, for a node of this tenant.

        Raises:
            InvalidInput: there is none.
            PolicyViolation: it is not for this tenant.
        """
        servers = {} if self._file is None else self._file.current()
        server = servers.get(name)
        if server is None:
            known = [one for one, it in servers.items() if it.tenants is None or tenant_id in it.tenants]
            there = f"there are: {', '.join(known[:20])}" if known else "there are none: DALANG_MCP_SERVERS_FILE"
            raise InvalidInput(f"this worker knows no MCP server {name!r} ({there})", no_effect=True)
        if server.tenants is not None and tenant_id not in server.tenants:
            raise PolicyViolation(f"the MCP server {name!r} is not for this tenant", no_effect=True)
        if server.command is None or self._folder is None:
            return server
        return server.model_copy(update={"cwd": str(self._folder / (server.cwd or "."))})


def as_given(value: Mapping[str, Any]) -> Server:
    """Return the server that a node's inputs describe: a service, never a program.

    Raises:
        InvalidInput: they describe none.
    """
    if "command" in value:
        raise InvalidInput(
            "a plan starts no programs: the operator gives the MCP server a name in DALANG_MCP_SERVERS_FILE, and the"
            " node says that name as `server`",
            no_effect=True,
        )
    unknown = set(value) - {"url", "headers"}
    if unknown:
        raise InvalidInput(f"`server` takes `url` and `headers`, not {', '.join(sorted(unknown))}", no_effect=True)
    return Server(url=value.get("url"), headers=value.get("headers") or {})
