"""``dalang subscriptions`` on a real stack, whose worker delivers."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator

import pytest

from dalang.commands.subscriptions import Kind
from dalang.store.subscriptions import KAFKA, NATS, WEBHOOK
from dalang.webhook_signatures import verify
from tests.cli.conftest import Dalang

pytestmark = pytest.mark.usefixtures("here")


def test_kinds_are_those_of_the_server() -> None:
    """The command line does not load the server to show its help."""
    assert [str(one) for one in Kind] == [WEBHOOK, KAFKA, NATS]


class Hook(http.server.ThreadingHTTPServer):
    """A receiver that keeps what came, and answers with ``code``."""

    code = 204
    got: list[tuple[dict[str, str], bytes]]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.got = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Hook)
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.server.code)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None: ...


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_from_making_to_deleting(dalang: Dalang, hook: Hook) -> None:
    """A ping, a pause, another secret, and the end; by name and by id."""
    made = dalang("subscriptions", "create", "pager", "--url", hook.url, "--type", "NODE_FAILED", "--json").json
    try:
        listed = dalang("subscriptions", "list").out.splitlines()
        assert listed[0].split()[:4] == ["SUBSCRIPTION", "KIND", "TARGET", "STATE"]
        assert listed[1].split()[:4] == ["pager", "webhook", hook.url, "ACTIVE"]
        assert dalang("subscriptions", "ping", "pager").out.startswith("pager took it in ")
        headers, body = hook.got[-1]
        assert verify(made["secret"], headers, body, time.time()) == json.loads(body)["id"]
        hook.code = 500
        refused = dalang("subscriptions", "ping", made["subscriptionId"])
        assert (refused.code, "pager did not take it: HTTP 500" in refused.err) == (1, True)
        assert dalang("subscriptions", "pause", "pager", "--reason", "later").out == "pager is PAUSED\n"
        shown = dalang("subscriptions", "show", "pager").out
        assert "PAUSED" in shown
        assert "wants:         NODE_FAILED" in shown
        assert dalang("subscriptions", "resume", "pager").out == "pager is ACTIVE\n"
        assert dalang("subscriptions", "rotate", "pager", "--keep", "1h").out.startswith("secret: whsec_")
        assert "No dead letter." in dalang("subscriptions", "undelivered", "pager").err
        assert dalang("subscriptions", "redeliver", "pager").out == "0 dead letters are delivered again\n"
        assert dalang("subscriptions", "discard", "pager", "--json").json == {"count": 0}
    finally:
        assert dalang("subscriptions", "delete", "pager").out == "pager is deleted\n"


def test_what_is_wrong_is_told(dalang: Dalang) -> None:
    assert dalang("subscriptions", "create", "x").code == 2
    gone = dalang("subscriptions", "show", "nobody")
    assert (gone.code, "no subscription 'nobody'" in gone.err) == (1, True)
    refused = dalang("subscriptions", "create", "x", "--url", "http://127.0.0.1:9/", "--filter", "event.")
    assert (refused.code != 0, "/filter" in refused.err) == (True, True)
