"""Files by REST, and in nodes: uploaded, opened by a handler, made by another, downloaded."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from dalang.nodes import NodeContext, node
from dalang.settings import Settings
from dalang.store.engine import system_transaction
from dalang.store.tokens import create_token
from tests.api.world import Api, problem

LIMIT = 300_000


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"artifacts": str(tmp_path / "files"), "artifact_max_bytes": LIMIT})


@node("shout", endpoint="")
def shout(ctx: NodeContext, file: str, path: str) -> dict[str, Any]:
    """A plain function: reads one file, makes others of a text, a path and an open file."""
    with ctx.artifacts.open(file) as content:
        text = content.read().decode().upper()
    Path(path).write_text(text)
    references = [
        ctx.artifacts.put(text, name="shout.txt"),
        ctx.artifacts.put(Path(path), media_type="text/markdown"),
        ctx.artifacts.put(io.BytesIO(text.encode())),
    ]
    assert len(set(references)) == 1
    return {"file": references[0]}


@node("count", endpoint="")
async def count(ctx: NodeContext, file: str) -> dict[str, Any]:
    """A coroutine."""
    with await ctx.artifacts.open_async(file) as content:
        size = len(content.read())
    made = await ctx.artifacts.put_async(b"\0" * size, media_type="application/x-zeros")
    try:
        ctx.artifacts.put(b"x")
    except RuntimeError as error:
        return {"file": made, "size": size, "hint": str(error)}
    raise AssertionError("it would block all coroutines")


async def upload(api: Api, content: bytes, media_type: str = "text/plain", name: str = "", **more: Any) -> Any:
    query = {"name": name} if name else {}
    headers = {"Content-Type": media_type}
    response = await api("POST", "/orchestrator/artifacts", content=content, params=query, headers=headers, **more)
    assert response.status_code == 201, response.text
    return response.json()


async def download(api: Api, reference: str, **more: Any) -> httpx.Response:
    return await api("GET", f"/orchestrator/artifacts/{reference.rpartition('/')[2]}", **more)


async def test_what_is_uploaded_is_downloaded(api: Api) -> None:
    """With headers that keep a browser from taking it for a page; of one's own tenant alone."""
    content = b"<script>alert(1)</script>" * 4_000
    made = await upload(api, content, "text/html", "../page <1>.html")
    assert made["reference"] == f"artifact://sha256/{hashlib.sha256(content).hexdigest()}"
    assert (made["size"], made["name"], made["createdBy"]) == (len(content), "page _1_.html", "operator@acme")
    got = await download(api, made["reference"], as_=("acme", "viewer"))
    assert (got.status_code, got.content) == (200, content)
    assert got.headers["content-type"].startswith("text/html")
    assert got.headers["content-disposition"] == "attachment; filename*=UTF-8''page%20_1_.html"
    assert got.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["content-length"] == str(len(content))
    problem(await download(api, made["reference"], as_=("globex", "admin")), 404)
    problem(await api("DELETE", f"/orchestrator/artifacts/{made['digest']}", as_=("globex", "admin")), 404)
    problem(await api("DELETE", f"/orchestrator/artifacts/{made['digest']}"), 403)
    assert (await api.get("/orchestrator/artifacts", as_=("globex", "viewer")))["items"] == []


async def test_what_cannot_be_kept_is_refused(api: Api, settings: Settings) -> None:
    """Too large, told before or found out; without a role; what is no digest."""
    path = "/orchestrator/artifacts"
    problem(await api("POST", path, content=b"x" * (LIMIT + 1)), 413)

    async def endless() -> Any:
        for _ in range(LIMIT // 10_000 + 1):
            yield b"x" * 10_000

    problem(await api("POST", path, content=endless()), 413)
    problem(await api("POST", path, content=b"x", as_=("acme", "viewer")), 403)
    problem(await api("POST", path, content=b"x", as_=None), 401)
    for name in ("0" * 63, "0" * 64, "A" * 64, ".."):
        assert (await api("GET", f"{path}/{name}")).status_code == 404
    assert [one for one in Path(settings.artifacts).rglob("*") if one.is_file()] == []


async def test_an_agent_outside_opens_and_brings_files(app: FastAPI, api: Api) -> None:
    """References are what it is given; it lists and deletes nothing."""
    async with system_transaction(app.state.services.engine) as conn:
        plain, _ = await create_token(conn, "acme", "ada", ["agent"])
    made = await upload(api, b"for ada")
    path, headers = "/orchestrator/artifacts", {"Authorization": f"Bearer {plain}"}
    got = await api("GET", f"{path}/{made['digest']}", as_=None, headers=headers)
    assert got.content == b"for ada"
    brought = await api("POST", path, as_=None, headers=headers, content=b"by ada")
    assert (brought.status_code, brought.json()["createdBy"]) == (201, "ada")
    problem(await api("GET", path, as_=None, headers=headers), 403)
    problem(await api("DELETE", f"{path}/{made['digest']}", as_=None, headers=headers), 403)


async def test_a_damaged_file_is_not_handed_out(api: Api, settings: Settings) -> None:
    """A small one is an error, the end of a large one does not come."""
    made = await upload(api, b"precious")
    (path,) = [one for one in Path(settings.artifacts).rglob(made["digest"]) if one.is_file()]
    path.write_bytes(b"worthless")
    assert (await download(api, made["reference"])).status_code == 500
    path.unlink()
    problem(await download(api, made["reference"]), 404)
    assert (await upload(api, b"precious"))["createdAt"] == made["createdAt"]
    assert (await download(api, made["reference"])).content == b"precious"


async def test_nodes_open_and_make_files(api: Api, working: None, tmp_path: Path) -> None:
    """What travels is the reference; each new file says which node made it."""
    made = await upload(api, b"be quiet\n")
    nodes = [
        {"nodeId": "shout", "type": "shout", "inputs": {"file": made["reference"], "path": str(tmp_path / "x")}},
        {"nodeId": "count", "type": "count", "inputs": {"file": "${nodes.shout.outputs.file}"}},
        {"nodeId": "wrong", "type": "count", "inputs": {"file": "artifact://sha256/" + "0" * 64}},
        {"nodeId": "worse", "type": "count", "inputs": {"file": "/etc/passwd"}},
    ]
    edges = [{"sourceNodeId": "shout", "targetNodeId": "count", "mapping": {}}]
    run_id = await api.execute({"name": "files", "nodes": nodes, "edges": edges, "failurePolicy": "continue"})
    await api.ended(run_id)
    outputs = (await api.get(f"/orchestrator/runs/{run_id}/nodes/count"))["outputs"]
    assert outputs["size"] == 9
    assert "put_async" in outputs["hint"]
    assert (await download(api, outputs["file"])).content == b"\0" * 9
    items = (await api.get(f"/orchestrator/artifacts?runId={run_id}&limit=1"))["items"]
    assert [(one["nodeId"], one["mediaType"]) for one in items] == [("count", "application/x-zeros")]
    (shouted,) = (await api.get(f"/orchestrator/artifacts?runId={run_id}&nodeId=shout"))["items"]
    assert (shouted["name"], shouted["mediaType"]) == ("shout.txt", "text/plain; charset=utf-8")
    assert (await download(api, shouted["reference"])).content == b"BE QUIET\n"
    for name in ("wrong", "worse"):
        error = (await api.get(f"/orchestrator/runs/{run_id}/nodes/{name}"))["error"]
        assert (error["type"], error["retryable"], error["attempt"]) == ("VALIDATION_ERROR", False, 1)


async def test_what_is_not_used_is_deleted(api: Api) -> None:
    """By an admin; the list has pages."""
    for number in range(3):
        await upload(api, b"%d" % number)
    first = await api.get("/orchestrator/artifacts?limit=2")
    rest = await api.get(f"/orchestrator/artifacts?limit=2&cursor={first['next']}")
    assert len({one["digest"] for one in first["items"] + rest["items"]}) == 3
    assert rest["next"] is None
    path, admin = "/orchestrator/artifacts", ("acme", "admin")
    assert (await api("DELETE", f"{path}?unusedSince=2026-01-01T00:00:00Z", as_=admin)).json()["deleted"] == 0
    assert (await api("DELETE", f"{path}/{first['items'][0]['digest']}", as_=admin)).status_code == 204
    gone = await api("DELETE", f"{path}?unusedSince=2999-01-01T00:00:00Z", as_=admin)
    assert gone.json() == {"deleted": 2, "more": True}
    assert (await api.get(path))["items"] == []
