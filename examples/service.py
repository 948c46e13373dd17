"""A small shop for ``http.yaml``, ``callback.yaml`` and ``circuit-breaker.yaml``.

``python examples/service.py [PORT]`` (8500) serves it here.

It is as unreliable as services are: to the first two requests of an ``Idempotency-Key`` it answers 503. An order is
made once per key, however often it is asked for. A film takes long: the answer says only that it will be made, and the
address that came with the request is called when it is.
"""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

STOCK = {"lamp": {"left": 3, "price": 40}, "chair": {"left": 0, "price": 90}}


FILM_SECONDS = 0.5


def call_back(address: str, outputs: dict[str, Any]) -> None:
    """Tell whoever asked that the work is done."""
    data = json.dumps({"outputs": outputs}).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method="POST")
    urllib.request.urlopen(request, timeout=10).close()


class Shop(BaseHTTPRequestHandler):
    """``GET /stock/ITEM``, ``POST /orders`` and ``POST /films/FILM``."""

    asked: ClassVar[Counter[str]] = Counter()
    orders: ClassVar[dict[str, int]] = {}

    def do_GET(self) -> None:
        """Tell how many of an item are left."""
        key = self.headers["Idempotency-Key"]
        self.asked[key] += 1
        item = self.path.removeprefix("/stock/")
        if self.asked[key] <= 2:
            self.answer(503, {"error": "busy, try again"})
        elif item in STOCK:
            self.answer(200, {"item": item, **STOCK[item]})
        else:
            self.answer(404, {"error": f"there is no {item}"})

    def do_POST(self) -> None:
        """Make an order, or begin to make a film, once per key."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_new = self.headers["Idempotency-Key"] not in self.orders
        number = self.orders.setdefault(self.headers["Idempotency-Key"], len(self.orders) + 1)
        if not self.path.startswith("/films/"):
            self.answer(201, {"number": number})
            return
        if is_new:
            film = self.path.removeprefix("/films/")
            threading.Timer(FILM_SECONDS, call_back, (body["whenDone"], {"link": f"/films/{film}.mp4"})).start()
        self.answer(202, {"job": number})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        """Send JSON."""
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8500
    with ThreadingHTTPServer(("127.0.0.1", port), Shop) as server:
        print(f"serving on http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
