"""``dalang token``: API tokens, straight in the database, so that there can be a first one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from dalang.commands.failures import CommandFailure, Usage
from dalang.commands.session import Session, local

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from dalang.store.tokens import Token

app = typer.Typer(no_args_is_help=True)

Tenant = Annotated[str, typer.Option("--tenant", help="The tenant that the token belongs to.")]


class Role(StrEnum):
    """What a token may do."""

    viewer = "viewer"
    operator = "operator"
    approver = "approver"
    admin = "admin"
    agent = "agent"


@app.command()
@local
def create(
    session: Session,
    subject: Annotated[str, typer.Argument(help="Whose token it is; recorded with all that is done with it.")],
    role: Annotated[
        list[Role] | None, typer.Option("--role", help="May be repeated. Default: operator.", show_default=False)
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", help="Whose human tasks may be decided with it; may be repeated.", show_default=False),
    ] = None,
    tenant: Tenant = "default",
    name: Annotated[str, typer.Option("--name", help="For people, to tell tokens apart.")] = "",
    expires: Annotated[
        str | None, typer.Option("--expires", help="Valid so long: 30d, 12h. Default: for ever.")
    ] = None,
) -> None:
    """Make a token and print it, once: the database keeps its hash only."""
    from dalang.commands.owner import as_owner, told
    from dalang.store.tokens import create_token

    roles = [str(one) for one in role or [Role.operator]]
    until = _until(expires)

    async def make(conn: AsyncConnection) -> tuple[str, Token]:
        plain, made = await create_token(conn, tenant, subject, roles, name=name, groups=group or (), expires_at=until)
        await told(conn, session.settings, tenant, "create", subject=subject, roles=roles, tokenId=str(made.token_id))
        return plain, made

    plain, made = as_owner(session.settings, tenant, make)
    session.emit({**_wire(made), "token": plain}, lambda: session.out.print(plain, soft_wrap=True))
    session.note("This is the only time that the token is shown. Clients take it from DALANG_TOKEN.")


@app.command("list")
@local
def list_(session: Session, tenant: Tenant = "default") -> None:
    """List the tokens that were made, the newest first."""
    from dalang.commands.output import age, table
    from dalang.commands.owner import as_owner
    from dalang.store.tokens import list_tokens

    page = as_owner(session.settings, tenant, lambda conn: list_tokens(conn, tenant, limit=10_000))
    found = [_wire(one) for one in page.items]

    def show() -> None:
        rows = [
            [one["tokenId"], one["subject"], *_lists(one), _state(one), age(one["createdAt"]), _used(one), one["name"]]
            for one in found
        ]
        table(session.out, ["TOKEN", "SUBJECT", "ROLES", "GROUPS", "STATE", ">AGE", ">USED", "NAME"], rows)

    session.emit({"items": found}, show)


@app.command()
@local
def revoke(
    session: Session,
    token: Annotated[UUID, typer.Argument(help="Its id, from `dalang token list`.")],
    tenant: Tenant = "default",
) -> None:
    """End a token; API servers may let it in for some seconds more."""
    from dalang.commands.owner import as_owner, told
    from dalang.store.tokens import revoke_token

    async def end(conn: AsyncConnection) -> bool:
        ended = await revoke_token(conn, tenant, token)
        if ended:
            await told(conn, session.settings, tenant, "revoke", tokenId=str(token))
        return ended

    if not as_owner(session.settings, tenant, end):
        hint = f"`dalang token list --tenant {tenant}` shows the tokens."
        raise CommandFailure("NO_TOKEN", f"There is no valid token {token} of tenant {tenant!r}.", hint=hint)
    session.emit({"tokenId": str(token), "revoked": True}, lambda: session.out.print(f"revoked {token}"))


def _wire(token: Token) -> dict[str, Any]:
    def at(value: datetime | None) -> str | None:
        return None if value is None else value.isoformat()

    return {
        "tokenId": str(token.token_id),
        "tenantId": token.tenant_id,
        "subject": token.subject,
        "name": token.name,
        "roles": list(token.roles),
        "groups": list(token.groups),
        "createdAt": at(token.created_at),
        "expiresAt": at(token.expires_at),
        "revokedAt": at(token.revoked_at),
        "lastUsedAt": at(token.last_used_at),
    }


def _lists(token: dict[str, Any]) -> tuple[str, str]:
    return ", ".join(token["roles"]), ", ".join(token["groups"])


def _used(token: dict[str, Any]) -> str:
    from dalang.commands.output import age

    return f"{age(token['lastUsedAt'])} ago" if token["lastUsedAt"] else "never"


def _state(token: dict[str, Any]) -> str:
    if token["revokedAt"]:
        return "revoked"
    if token["expiresAt"] is None:
        return "valid"
    expires = datetime.fromisoformat(token["expiresAt"])
    return f"until {expires.astimezone():%Y-%m-%d %H:%M}" if expires > datetime.now(UTC) else "expired"


def _until(text: str | None) -> datetime | None:
    if text is None:
        return None
    from dalang.durations import parse_duration

    try:
        return datetime.now(UTC) + timedelta(milliseconds=parse_duration(text))
    except ValueError as error:
        raise Usage(f"--expires: {error}") from None
