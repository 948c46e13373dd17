"""What every command gets: consoles, ``--json``, settings, the API's client; and how commands are declared."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dalang.commands.failures import CommandFailure

if TYPE_CHECKING:
    from rich.console import Console

    from dalang.commands.client import ApiClient
    from dalang.settings import Settings

Home = Annotated[
    Path | None,
    typer.Option(
        "--home", help="Folder of the stack to talk to. Default: DALANG_HOME, else .dalang.", show_default=False
    ),
]
ApiUrl = Annotated[
    str | None,
    typer.Option(
        "--api-url", help="Address of the API. Default: DALANG_API_URL, else the stack's.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]


class Session:
    """One invocation of a command."""

    def __init__(self, *, home: Path | None = None, api_url: str | None = None, json: bool = False) -> None:
        self.home = home
        self.api_url = api_url
        self.json = json
        self._client: ApiClient | None = None

    @functools.cached_property
    def out(self) -> Console:
        """Where results go."""
        from dalang.commands.output import console

        return console(sys.stdout)

    @functools.cached_property
    def err(self) -> Console:
        """Where warnings and errors go."""
        from dalang.commands.output import console

        return console(sys.stderr)

    @functools.cached_property
    def settings(self) -> Settings:
        """The settings; raises :class:`~dalang.settings.SettingsError`."""
        from dalang.settings import Settings

        return Settings.load(home=self.home, api_url=self.api_url)

    @property
    def client(self) -> ApiClient:
        """The client of the API; it connects at its first request."""
        if self._client is None:
            from dalang.commands.client import ApiClient

            self._client = ApiClient(self.settings.api_url, self.settings.read_token(), home=self.settings.home)
        return self._client

    def emit(self, data: Any, show: Callable[[], None]) -> None:
        """Write ``data`` as JSON, or let ``show`` write it for people."""
        if self.json:
            from dalang.commands.output import write_json

            write_json(data)
        else:
            show()

    def stream(self, documents: Iterable[dict[str, Any]], line: Callable[[dict[str, Any]], str]) -> None:
        """Write documents as they come: as JSON, one in a line, or for people as ``line`` makes of them."""
        from dalang.commands.output import write_json

        for one in documents:
            if self.json:
                write_json(one, indent=None)
            else:
                self.out.file.write(line(one) + "\n")
                self.out.file.flush()

    def note(self, text: str) -> None:
        """Tell a person something that is no result; programs are not told."""
        if not self.json:
            from rich.text import Text

            self.err.print(Text(text, style="dim"), soft_wrap=True)

    def close(self) -> None:
        """Close the client's connections."""
        if self._client is not None:
            self._client.close()

    def fail(self, failure: CommandFailure) -> None:
        """Write why the command ends."""
        from dalang.commands.complaints import complain

        complain(failure, json=self.json)


_OPTIONS: dict[str, Any] = {"home": Home, "api_url": ApiUrl, "json": Json}
_DEFAULTS: dict[str, Any] = {"home": None, "api_url": None, "json": False}


def _command(function: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    own = inspect.signature(function, eval_str=True)
    parameters = [one for name, one in own.parameters.items() if name != "session"]
    for name in names:
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, default=_DEFAULTS[name], annotation=_OPTIONS[name]))

    @functools.wraps(function)
    def run(*args: Any, **given: Any) -> Any:
        session = Session(**{name: given.pop(name) for name in names})
        try:
            return function(session, *args, **given)
        finally:
            session.close()

    del run.__dict__["__wrapped__"]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def online(function: Callable[..., Any]) -> Callable[..., Any]:
    """Declare a command that talks to the API: a session first, ``--home``, ``--api-url``, ``--json``."""
    return _command(function, ("home", "api_url", "json"))


def local(function: Callable[..., Any]) -> Callable[..., Any]:
    """Declare a command that needs the stack's folder at most: a session first, ``--home`` and ``--json``."""
    return _command(function, ("home", "json"))


def offline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Declare a command that needs no stack: a session first, and ``--json``."""
    return _command(function, ("json",))
