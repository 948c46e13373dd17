"""``dalang subscriptions``: who is told of events, by webhook, Kafka or NATS."""

from __future__ import annotations

import uuid
from enum import StrEnum
from typing import Annotated, Any

import typer

from dalang.commands.failures import CommandFailure, Usage
from dalang.commands.runs import Reason
from dalang.commands.session import Session, online

app = typer.Typer(no_args_is_help=True)

PATH = "/subscriptions"


class Kind(StrEnum):
    """Kinds of subscriptions; as ``store.subscriptions``."""

    webhook = "webhook"
    kafka = "kafka"
    nats = "nats"


Subscription = Annotated[str, typer.Argument(metavar="SUBSCRIPTION", help="Its name or id.", show_default=False)]
Events = Annotated[
    list[str] | None,
    typer.Argument(metavar="[EVENT]...", help="Ids, runId/epoch/seq. Default: all.", show_default=False),
]


@app.command("list")
@online
def list_(session: Session) -> None:
    """List subscriptions, and whether those who are told keep up."""
    from dalang.commands.output import safe, styled, table

    found = session.client.get(PATH)

    def show() -> None:
        rows = [
            [
                one["name"],
                one["kind"],
                safe(_target(one)),
                styled(one["state"]),
                str(one["delivered"]),
                str(one["progress"]["waitingEvents"]),
                _lag(one),
                str(one["progress"]["deadLetters"]),
            ]
            for one in found["items"]
        ]
        if not rows:
            session.note("No subscription yet; `dalang subscriptions create` makes one.")
            return
        heads = ["SUBSCRIPTION", "KIND", "TARGET", "STATE", ">DELIVERED", ">WAITING", ">LAG", ">DEAD"]
        table(session.out, heads, rows, flexible="TARGET")

    session.emit(found, show)


@app.command()
@online
def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, - _ .", show_default=False)],
    url: Annotated[str | None, typer.Option("--url", help="Where a webhook is sent to.")] = None,
    kind: Annotated[Kind, typer.Option("--kind", help="Kafka and NATS take an admin.")] = Kind.webhook,
    form: Annotated[str | None, typer.Option("--format", help="Of a webhook: cloudevents, openlineage.")] = None,
    topic: Annotated[str | None, typer.Option("--topic", help="Of Kafka. Default: execution-events.")] = None,
    subject: Annotated[str | None, typer.Option("--subject", help="Of NATS. Default: dalang.events.")] = None,
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="Of Kafka and NATS: all events.")] = False,
    types: Annotated[
        list[str] | None, typer.Option("--type", "-t", help="Such as NODE_FAILED; may be repeated. Default: all.")
    ] = None,
    plans: Annotated[
        list[str] | None, typer.Option("--plan", help="A plan's name or id; may be repeated. Default: all.")
    ] = None,
    filter_: Annotated[
        str | None, typer.Option("--filter", metavar="CEL", help="Such as 'event.data.nodeId == \"deploy\"'.")
    ] = None,
    payloads: Annotated[bool, typer.Option("--payloads", help="With inputs, outputs and errors.")] = False,
    since: Annotated[str | None, typer.Option("--since", help="Also what was recorded since (RFC 3339).")] = None,
    max_attempts: Annotated[int | None, typer.Option("--max-attempts", min=1, help="Default: 25.")] = None,
    give_up_after: Annotated[str | None, typer.Option("--give-up-after", help="Default: 1d.")] = None,
    description: Annotated[str | None, typer.Option("--description", help="For people.")] = None,
) -> None:
    """Have somebody told of events; prints the secret of a webhook, this once."""
    from dalang.commands.output import safe

    retry = {"maxAttempts": max_attempts, "giveUpAfter": give_up_after}
    given = {
        "name": name,
        "kind": str(kind),
        "url": url,
        "format": form,
        "topic": topic,
        "subject": subject,
        "allTenants": all_tenants or None,
        "types": types or None,
        "plans": plans or None,
        "filter": filter_,
        "payloads": payloads or None,
        "since": since,
        "description": description,
        "retry": {key: value for key, value in retry.items() if value is not None} or None,
    }
    if kind == Kind.webhook and url is None:
        raise Usage("A webhook needs --url.")
    made = session.client.post(PATH, {key: value for key, value in given.items() if value is not None})

    def show() -> None:
        session.out.print(f"{safe(made['name'])} is told of events from now on at {safe(_target(made))}")
        if made["secret"] is not None:
            session.out.print(f"secret: {made['secret']}", soft_wrap=True)
            session.note("The secret is not shown again. `dalang subscriptions ping` tries it out.")

    session.emit(made, show)


@app.command()
@online
def show(session: Session, subscription: Subscription) -> None:
    """Show one: what it wants, how it keeps up, what went wrong last."""
    from dalang.commands.output import age, moment, safe, styled

    one = _found(session, subscription)

    def tell() -> None:
        progress, failure = one["progress"], one["lastFailure"]
        paused = f" by {one['pausedBy']}: {one['pausedReason'] or '-'}" if one["pausedBy"] else ""
        wants = ", ".join(one["types"]) or "all events"
        lines = {
            "subscription": f"{one['name']} ({one['subscriptionId']})",
            "told": f"{one['kind']} {_target(one)}",
            "wants": wants + (f" of {', '.join(one['plans'])}" if one["plans"] else ""),
            "filter": one["filter"],
            "delivered": f"{one['delivered']}, the last {moment(one['lastDeliveredAt'])}",
            "waiting": f"{progress['waitingEvents']} events of {progress['waitingRuns']} runs, for {_lag(one)}",
            "failing": f"{progress['failingRuns']} runs, again {moment(progress['nextAttemptAt'])}"
            if progress["failingRuns"]
            else None,
            "dead letters": str(progress["deadLetters"]),
            "last failure": failure and f"{failure['reason']} {age(failure['at'])} ago, {failure['eventId'] or ''}",
        }
        session.out.print(styled(one["state"]), safe(paused))
        for head, text in lines.items():
            if text:
                session.out.print(f"{head + ':':<14} {safe(text)}", soft_wrap=True)

    session.emit(one, tell)


@app.command()
@online
def delete(session: Session, subscription: Subscription) -> None:
    """Delete one, with its dead letters and what it was not told yet."""
    from dalang.commands.output import safe

    one = _found(session, subscription)
    session.client.request("DELETE", _path(one))
    session.emit(one, lambda: session.out.print(f"{safe(one['name'])} is deleted"))


@app.command()
@online
def pause(session: Session, subscription: Subscription, reason: Reason = None) -> None:
    """Deliver nothing until it is resumed; what happens meanwhile waits."""
    one = _found(session, subscription)
    _state(session, session.client.post(f"{_path(one)}/pause", {"reason": reason} if reason else {}))


@app.command()
@online
def resume(session: Session, subscription: Subscription) -> None:
    """Deliver what has waited, at once."""
    one = _found(session, subscription)
    _state(session, session.client.post(f"{_path(one)}/resume"))


@app.command()
@online
def ping(session: Session, subscription: Subscription) -> None:
    """Send a test event, and tell what came of it; exit code 1 when it was not taken."""
    from dalang.commands.output import safe

    one = _found(session, subscription)
    found = session.client.post(f"{_path(one)}/ping")
    if found["delivered"] is None:
        raise CommandFailure(
            "NO_WORKER", "No worker has taken it up.", hint="Does one run? `dalang worker` starts one."
        )
    if not found["delivered"]:
        raise CommandFailure("NOT_DELIVERED", f"{one['name']} did not take it: {found['reason']}")
    session.emit(found, lambda: session.out.print(f"{safe(one['name'])} took it in {found['milliseconds']} ms"))


@app.command()
@online
def rotate(
    session: Session,
    subscription: Subscription,
    keep: Annotated[
        str | None, typer.Option("--keep", help="How long the old one is signed with too. Default: 1d.")
    ] = None,
) -> None:
    """Sign with a new secret, and print it, this once."""
    one = _found(session, subscription)
    made = session.client.post(f"{_path(one)}/rotate-secret", {"keep": keep} if keep else {})
    session.emit(made, lambda: session.out.print(f"secret: {made['secret']}", soft_wrap=True))


@app.command()
@online
def replay(
    session: Session,
    subscription: Subscription,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run id, its beginning, or `latest`.", show_default=False)
    ],
) -> None:
    """Deliver a run again from its first event on."""
    from dalang.commands.output import safe

    one = _found(session, subscription)
    run_id = session.client.run_id(run)
    made = session.client.post(f"{_path(one)}/replay", {"runId": run_id})
    session.emit(made, lambda: session.out.print(f"{safe(one['name'])} is told of {run_id} again"))


@app.command()
@online
def undelivered(
    session: Session,
    subscription: Subscription,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most so many.")] = 100,
) -> None:
    """List the events that could not be delivered."""
    from dalang.commands.output import moment, safe, table

    one = _found(session, subscription)
    page = session.client.pages(f"{_path(one)}/dead-letters", limit=limit)

    def show() -> None:
        rows = [
            [it["eventId"], it["type"], str(it["attempts"]), moment(it["deadAt"]), safe(it["reason"])]
            for it in page["items"]
        ]
        if not rows:
            session.note("No dead letter.")
            return
        table(session.out, ["EVENT", "TYPE", ">ATTEMPTS", "GIVEN UP", "REASON"], rows, flexible="REASON")
        if page["next"] is not None:
            session.note("... and more (--limit)")

    session.emit(page, show)


@app.command()
@online
def redeliver(session: Session, subscription: Subscription, events: Events = None) -> None:
    """Deliver dead letters once more."""
    one = _found(session, subscription)
    found = session.client.post(f"{_path(one)}/dead-letters/redeliver", {"events": events} if events else {})
    session.emit(found, lambda: session.out.print(f"{found['count']} dead letters are delivered again"))


@app.command()
@online
def discard(session: Session, subscription: Subscription, events: Events = None) -> None:
    """Forget dead letters."""
    one = _found(session, subscription)
    found = session.client.post(f"{_path(one)}/dead-letters/discard", {"events": events} if events else {})
    session.emit(found, lambda: session.out.print(f"{found['count']} dead letters are forgotten"))


def _found(session: Session, subscription: str) -> Any:
    try:
        return session.client.get(f"{PATH}/{uuid.UUID(subscription)}")
    except ValueError:
        items = [one for one in session.client.get(PATH)["items"] if one["name"] == subscription]
    if not items:
        raise CommandFailure(
            "NOT_FOUND", f"There is no subscription {subscription!r}.", hint="`dalang subscriptions list` shows them."
        )
    return items[0]


def _path(one: Any) -> str:
    return f"{PATH}/{one['subscriptionId']}"


def _target(one: Any) -> str:
    return str(one["url"] or one["topic"] or one["subject"])


def _lag(one: Any) -> str:
    seconds = one["progress"]["lagSeconds"]
    return (
        f"{seconds:.0f}s" if seconds < 600 else f"{seconds / 60:.0f}m" if seconds < 36_000 else f"{seconds / 3600:.0f}h"
    )


def _state(session: Session, found: Any) -> None:
    from dalang.commands.output import safe

    session.emit(found, lambda: session.out.print(f"{safe(found['name'])} is {found['state']}"))
