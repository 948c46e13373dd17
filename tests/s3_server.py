"""A small server that speaks S3 as far as a store of files needs it: objects, parts, signatures, errors in XML."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

SIGNATURE = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/\d{8}/(?P<region>[^/]+)/s3/aws4_request, ?"
    r"SignedHeaders=[^,]*\bhost\b[^,]*\bx-amz-content-sha256\b[^,]*\bx-amz-date\b[^,]*, ?Signature=[0-9a-f]{64}"
)


class S3(ThreadingHTTPServer):
    """One bucket; ``objects`` by key. ``failing`` answers 503."""

    def __init__(self, bucket: str, key: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bucket, self.key = bucket, key
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.failing = False

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        _, bucket, *rest = unquote(parts.path).split("/", 2)
        key, query = (rest or [""])[0], parse_qs(parts.query, keep_blank_values=True)
        body = self._body()
        found = SIGNATURE.fullmatch(self.headers.get("authorization", ""))
        if self.server.failing:
            self._answer(503, b"<Error><Code>SlowDown</Code></Error>")
        elif found is None or found["key"] != self.server.key:
            self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        elif bucket != self.server.bucket:
            self._answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        else:
            getattr(self, f"_{self.command.lower()}")(key, query, body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("content-length", 0)))
        declared = self.headers.get("x-amz-content-sha256", "")
        assert declared in ("UNSIGNED-PAYLOAD", hashlib.sha256(data).hexdigest()), declared
        return data

    def _put(self, key: str, query: dict[str, list[str]], body: bytes) -> None:
        if "uploadId" in query:
            self.server.parts[query["uploadId"][0]][int(query["partNumber"][0])] = body
        else:
            self.server.objects[key] = body
        self._answer(200, b"", ETag=f'"{hashlib.md5(body).hexdigest()}"')

    def _post(self, key: str, query: dict[str, list[str]], body: bytes) -> None:
        if "uploads" in query:
            upload = f"upload-{len(self.server.parts)}"
            self.server.parts[upload] = {}
            text = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
        elif "uploadId" in query:
            parts = self.server.parts.pop(query["uploadId"][0])
            assert len(parts) == body.count(b"<PartNumber>")
            self.server.objects[key] = b"".join(parts[number] for number in sorted(parts))
            text = '<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>'
        else:
            assert "delete" in query
            keys = re.findall(r"<Key>(.*?)</Key>", body.decode())
            for one in keys:
                self.server.objects.pop(one, None)
            deleted = "".join(f"<Deleted><Key>{one}</Key></Deleted>" for one in keys)
            text = f"<DeleteResult>{deleted}</DeleteResult>"
        self._answer(200, text.encode())

    def _get(self, key: str, query: dict[str, list[str]], body: bytes) -> None:
        if key not in self.server.objects:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        headers = {"ETag": '"x"', "Last-Modified": "Sun, 22 Nov 2026 10:00:00 GMT"}
        self._answer(200, self.server.objects[key], **headers)

    _head = _get

    def _delete(self, key: str, query: dict[str, list[str]], body: bytes) -> None:
        self.server.objects.pop(key, None)
        self._answer(204, b"")

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


@contextmanager
def s3_server(bucket: str = "files", key: str = "AKIDEXAMPLE") -> Iterator[S3]:
    """Serve a bucket."""
    with S3(bucket, key) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()
