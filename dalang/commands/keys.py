"""``dalang keys``: the file of the keys that payloads in Temporal are encrypted with; no command shows a key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from dalang.commands.failures import CommandFailure, Usage
from dalang.commands.session import Session, local

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True)

File = Annotated[
    Path | None,
    typer.Option("--file", help="The file of keys. Default: DALANG_ENCRYPTION_KEYS_FILE.", show_default=False),
]


@app.command()
@local
def new(
    session: Session,
    file: File = None,
    key_id: Annotated[
        str | None, typer.Option("--id", help="Its id. Default: the date and some letters.", show_default=False)
    ] = None,
) -> None:
    """Make a key and add it to the file, which is made if it is not there; only the first one is used at once."""
    from dalang.encryption_keys import read_keys, with_new_key
    from dalang.stack.private_files import write_private

    path = _path(session, file)
    made, text = _problems_told(lambda: with_new_key(path, key_id))
    write_private(path, text)
    used = read_keys(text).used.key_id
    session.emit({"keyId": made, "used": used == made}, lambda: session.out.print(made))
    if used != made:
        session.note(f"{used} is used on. When every process knows the new one: dalang keys use {made}")


@app.command()
@local
def use(session: Session, key: Annotated[str, typer.Argument(help="Its id.")], file: File = None) -> None:
    """Encrypt with this key from now on; processes notice within a second or two."""
    from dalang.encryption_keys import with_used_key
    from dalang.stack.private_files import write_private

    path = _path(session, file)
    write_private(path, _problems_told(lambda: with_used_key(path, key)))
    session.emit({"keyId": key, "used": True}, lambda: session.out.print(f"{key} is used"))


@app.command("list")
@local
def list_(session: Session, file: File = None) -> None:
    """List the ids of the keys, and which is used; of keys themselves nothing is shown."""
    from dalang.commands.output import table
    from dalang.encryption_keys import read_keys

    path = _path(session, file)
    try:
        keys = _problems_told(lambda: read_keys(path.read_bytes()))
    except OSError as error:
        raise CommandFailure("NO_FILE", f"{path} cannot be read: {error.strerror}", hint="`dalang keys new`") from None
    found = [{"keyId": one, "used": one == keys.used.key_id} for one in keys.known]
    rows = [[str(one["keyId"]), "used" if one["used"] else ""] for one in found]
    session.emit({"items": found}, lambda: table(session.out, ["KEY", "STATE"], rows))


def _path(session: Session, file: Path | None) -> Path:
    named = str(file) if file is not None else session.settings.encryption_keys_file
    if not named:
        raise Usage("There is no file of keys.", hint="Name one with --file, or set DALANG_ENCRYPTION_KEYS_FILE.")
    return Path(named)


def _problems_told(work: Callable[[], T]) -> T:
    from dalang.errors import InvalidDocument

    try:
        return work()
    except InvalidDocument as error:
        told = "; ".join(f"{one.pointer or '/'}: {one.message}" for one in error.problems)
        raise CommandFailure("BAD_KEYS", told) from None
