"""A receiver of webhooks, without Dalang: ``SECRET=whsec_... python examples/webhook_receiver.py [PORT]`` (8599).

It does what every receiver should: it verifies the signature over the bytes as they came, refuses what is old, answers
before it does anything that takes long, and passes over events that it has had. Standard Webhooks has libraries for the
first half; this is all there is to it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

TOLERANCE_SECONDS = 300
MAX_BYTES = 1024 * 1024


def is_genuine(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Tell whether the request was signed with the secret, and not long ago."""
    message_id, sent_at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not sent_at.isdigit() or abs(time.time() - int(sent_at)) > TOLERANCE_SECONDS:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{sent_at}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    # While a secret is being changed there are two signatures; one that fits is enough.
    given = headers.get("webhook-signature", "").split()
    return any(hmac.compare_digest(expected.encode(), one.encode()) for one in given)


class Receiver(BaseHTTPRequestHandler):
    """Prints each event once."""

    protocol_version = "HTTP/1.1"
    secret: ClassVar[str] = ""
    seen: ClassVar[set[str]] = set()
    """A real one keeps this in its database, in the transaction that does the work."""

    def do_POST(self) -> None:
        """Take an event."""
        size = int(self.headers.get("content-length", 0))
        body = self.rfile.read(min(size, MAX_BYTES))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if not is_genuine(self.secret, headers, body):
            self.answer(401)
            return
        self.answer(204)
        event = json.loads(body)
        if event["id"] in self.seen:
            return
        self.seen.add(event["id"])
        print(event["time"], event["type"], event["subject"], flush=True)

    def answer(self, status: int) -> None:
        """Answer without a body."""
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        """Print events only."""


def main() -> None:
    """Receive until Ctrl-C."""
    Receiver.secret = os.environ["SECRET"]
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8599
    server = ThreadingHTTPServer(("127.0.0.1", port), Receiver)
    print(f"listening at http://127.0.0.1:{server.server_address[1]}/", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
