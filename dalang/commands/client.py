"""The client of the API: problem+json becomes a :class:`CommandFailure` that says what to do next."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx

from dalang.commands.failures import USAGE, CommandFailure, Unreachable, Usage
from dalang.trust import trusted

PREFIX = "/orchestrator"
PAGE = 200
MAX_SEARCHED = 5_000
"""So many of the newest runs are looked through for a run id's beginning."""
LATEST = "latest"
TRANSFER = httpx.Timeout(300.0, connect=5.0)
"""Between two pieces of a file."""
ATTEMPTS = 4
"""Reads are repeated while the API is busy or restarting; nothing that changes something is, but for its own key."""


class ApiClient:
    """A connection to one API with one token."""

    def __init__(self, url: str, token: str | None, *, home: Path, seconds: float = 60.0) -> None:
        self.url = url
        self._token = token
        self._home = home
        host = urlsplit(url).hostname
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(seconds, connect=5.0),
            # A proxy of the environment is for the world outside, not for this machine.
            trust_env=host not in ("127.0.0.1", "localhost", "::1"),
            verify=trusted(),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON that ``GET /orchestrator<path>`` answers; query values of None are left out."""
        return self.request("GET", path, params=_query(query)).json()

    def text(self, path: str, **query: Any) -> str:
        """Return the text that ``GET`` answers."""
        return self.request("GET", path, params=_query(query)).text

    def post(self, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None) -> Any:
        """Return the JSON that ``POST`` answers; ``body`` is sent as JSON."""
        return self.request("POST", path, json={} if body is None else body, headers=dict(headers or {})).json()

    def post_bytes(self, path: str, body: bytes, media_type: str) -> tuple[int, Any]:
        """Send a document as it is; return the status and the JSON of the answer."""
        answer = self.request("POST", path, content=body, headers={"Content-Type": media_type})
        return answer.status_code, answer.json()

    def upload(self, path: str, file: Path, media_type: str, **query: Any) -> Any:
        """Send a file as it is; return the JSON of the answer."""
        with file.open("rb") as content:
            headers = {"Content-Type": media_type, "Content-Length": str(file.stat().st_size)}
            options = {"content": content, "headers": headers, "params": _query(query), "timeout": TRANSFER}
            return self.request("POST", path, **options).json()

    def download(self, path: str) -> Iterator[bytes]:
        """Go through what ``GET`` answers, however much it is.

        Raises:
            CommandFailure: there is no answer, it is no success, or it breaks off.
        """
        try:
            with self._http.stream("GET", PREFIX + path, timeout=TRANSFER) as answer:
                if not answer.is_success:
                    answer.read()
                    raise self.refused(answer)
                yield from answer.iter_bytes()
        except httpx.TransportError as error:
            raise self.unreachable(error) from None

    def pages(self, path: str, by: str = "cursor", /, *, limit: int, **query: Any) -> dict[str, Any]:
        """Return up to ``limit`` items as ``{items, next}``, read page by page; ``by`` takes what ``next`` says."""
        items: list[Any] = []
        following = None
        for page in self.each_page(path, by, limit=limit, **query):
            items += page["items"]
            following = page.get("next")
        return {"items": items, "next": following}

    def each_page(
        self, path: str, by: str = "cursor", /, *, limit: int, size: int = PAGE, **query: Any
    ) -> Iterator[dict[str, Any]]:
        """Go through the pages of a list, of ``size`` items each, until there are ``limit`` of them."""
        left = limit
        while True:
            page = self.get(path, limit=min(size, left), **query)
            yield page
            left -= len(page["items"])
            query[by] = page.get("next")
            if query[by] is None or left <= 0 or not page["items"]:
                return

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request below ``/orchestrator``.

        Raises:
            CommandFailure: there is no answer, or it is no success.
        """
        repeatable = method == "GET" or "Idempotency-Key" in options.get("headers", {})
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = self._http.request(method, PREFIX + path, **options)
            except httpx.TransportError as error:
                # Refused at once, nothing listens: waiting would only hide it.
                if isinstance(error, httpx.ConnectError) or not repeatable or attempt == ATTEMPTS:
                    raise self.unreachable(error) from None
            else:
                if answer.status_code not in (429, 502, 503, 504) or not repeatable or attempt == ATTEMPTS:
                    break
            time.sleep(0.25 * 2**attempt)
        if answer.is_success:
            return answer
        raise self.refused(answer)

    def events(self, run_id: str, after: str | None) -> Iterator[tuple[str, str]]:
        """Read a run's stream once: pairs of event id and JSON, until the server ends it.

        Raises:
            httpx.TransportError: the connection is lost, or there is none.
            CommandFailure: the API refuses.
        """
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        timeout = httpx.Timeout(45.0, connect=5.0)
        address = f"{PREFIX}/runs/{run_id}/events/stream"
        with self._http.stream("GET", address, headers=headers, timeout=timeout) as answer:
            if not answer.is_success:
                answer.read()
                raise self.refused(answer)
            yield from server_sent(answer.iter_bytes())

    def run_id(self, text: str) -> str:
        """Return the run id that ``text`` means: an id, the unique beginning of one, or ``latest``."""
        try:
            return str(UUID(text))
        except ValueError:
            pass
        hint = "`dalang list` shows the runs."
        if text == LATEST:
            items = self.get("/runs", limit=1)["items"]
            if not items:
                raise CommandFailure("NO_RUN", "There is no run yet.", hint="`dalang run PLAN` starts one.")
            return str(items[0]["runId"])
        start = text.lower()
        if not start or set(start) - set("0123456789abcdef-"):
            raise Usage(f"{text!r} is no run id: a UUID, the beginning of one, or `{LATEST}`.", hint=hint)
        known = self.pages("/runs", limit=MAX_SEARCHED, children="true")["items"]
        found = [run for run in known if run["runId"].startswith(start)]
        if len(found) == 1:
            return str(found[0]["runId"])
        if not found:
            raise CommandFailure("NO_RUN", f"No run begins with {text!r}.", hint=hint)
        listed = ", ".join(run["runId"] for run in found[:5]) + (" ..." if len(found) > 5 else "")
        raise Usage(f"{len(found)} runs begin with {text!r}: {listed}", hint="Give more characters.", code="AMBIGUOUS")

    def plan_id(self, text: str) -> str:
        """Return the planId of the stored plan with this id or exact name."""
        try:
            return str(UUID(text))
        except ValueError:
            pass
        items = self.pages("/plans", limit=1_000, name=text)["items"]
        found = [plan for plan in items if plan["name"] == text]
        if len(found) == 1:
            return str(found[0]["planId"])
        if found:
            listed = ", ".join(plan["planId"] for plan in found)
            raise Usage(f"{len(found)} plans have the name {text!r}.", hint=f"Give the id: {listed}", code="AMBIGUOUS")
        hint = "`dalang plan list` shows the stored plans."
        if items:
            hint = f"Did you mean {items[0]['name']!r}? {hint}"
        raise CommandFailure(
            "NO_PLAN", f"There is neither a file nor a stored plan {text!r}.", hint=hint, exit_code=USAGE
        )

    def unreachable(self, error: Exception) -> Unreachable:
        """Return what to tell about an API that does not answer."""
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            hint = "Name the certificate of your authority in SSL_CERT_FILE, and the server as the certificate does."
            return Unreachable(f"The certificate of {self.url} is not trusted.", hint=hint)
        reason = (
            "nothing listens there" if isinstance(error, httpx.ConnectError) else f"{error}" or type(error).__name__
        )
        hint = "Start the stack with `dalang up`, or set DALANG_API_URL (or --home) to where it runs."
        return Unreachable(f"The API at {self.url} does not answer ({reason}).", hint=hint)

    def refused(self, answer: httpx.Response) -> CommandFailure:
        """Return what an answer that is no success means."""
        try:
            body = answer.json()
        except ValueError:
            body = {}
        body = body if isinstance(body, dict) else {}
        status = answer.status_code
        detail = str(body.get("detail") or body.get("title") or f"HTTP status {status}")
        problems = [one for one in body.get("problems") or () if isinstance(one, dict)]
        if status == 401:
            return CommandFailure("UNAUTHENTICATED", detail, hint=self._token_hint())
        hint: str | None
        if status == 403:
            hint = "Use a token with that role: `dalang token create --role ...` on the server's side."
            hint = hint if "roles" in detail else None
            return CommandFailure("FORBIDDEN", detail, hint=hint)
        if status == 404:
            hint = "`dalang list` shows the runs." if "run" in detail else None
            return CommandFailure("NOT_FOUND", detail, hint=hint)
        if status == 409:
            return CommandFailure("CONFLICT", detail)
        if status in (400, 413, 415, 422):
            return CommandFailure("INVALID", detail, exit_code=USAGE, problems=problems)
        if status in (502, 503, 504):
            return Unreachable(detail, hint=f"{self.url}/health/ready says which part is away.")
        hint = f"The API's log has it under the request id {body['requestId']}." if "requestId" in body else None
        return CommandFailure("SERVER", f"The API failed: {detail}", hint=hint)

    def _token_hint(self) -> str:
        if self._token is None:
            return f"There is no token in {self._home}: set DALANG_TOKEN, or DALANG_HOME to the folder of `dalang up`."
        return "Set DALANG_TOKEN to a valid one; `dalang token create` makes one on the server's side."


def _query(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}


def server_sent(chunks: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Read Server-Sent Events: (id, data) of each message that has data.

    Lines end with LF, CRLF or CR and with nothing else: texts of strangers may hold U+2028 and the like.
    """
    identity = ""
    data: list[str] = []
    for line in _lines(chunks):
        if not line:
            if data:
                yield identity, "\n".join(data)
            data = []
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "id":
                identity = value
            elif name == "data":
                data.append(value)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        whole = rest + chunk
        # The LF of a CRLF may come with the next chunk.
        held = b"\r" if whole.endswith(b"\r") else b""
        *lines, rest = whole.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        rest += held
        for line in lines:
            yield line.decode("utf-8", "replace")
