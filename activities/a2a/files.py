"""Files in messages: those that an agent sends become artifacts, and artifacts that it is sent become bytes.

No agent can read a reference to an artifact, and no outputs should hold a file.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from dalang.artifact_references import is_reference
from dalang.nodes import InvalidInput, NodeContext, ToolError

MAX_SENT_BYTES = 8 * 1024 * 1024
"""Files of this size at most travel in a message; of larger ones an agent gets an address."""


async def kept_files(ctx: NodeContext, outputs: dict[str, Any]) -> dict[str, Any]:
    """Return what an agent put out with references in place of the bytes of files."""
    files = outputs.get("files")
    if not isinstance(files, list):
        return outputs
    return {**outputs, "files": [await _kept(ctx, one) for one in files]}


async def _kept(ctx: NodeContext, file: Any) -> Any:
    if not isinstance(file, dict) or not isinstance(file.get("base64"), str):
        return file
    try:
        content = base64.b64decode(file["base64"], validate=True)
    except (binascii.Error, ValueError):
        raise ToolError("the agent sent a file that is not base64") from None
    reference = await ctx.artifacts.put_async(content, media_type=file.get("mediaType"), name=file.get("name"))
    return {**{name: value for name, value in file.items() if name != "base64"}, "url": reference}


async def sent_files(ctx: NodeContext, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the parts of a message with the content of artifacts in place of references to them."""
    return [await _sent(ctx, part) if is_reference(part.get("url")) else part for part in parts]


async def _sent(ctx: NodeContext, part: dict[str, Any]) -> dict[str, Any]:
    with await ctx.artifacts.open_async(part["url"]) as file:
        content = file.read(MAX_SENT_BYTES + 1)
    if len(content) > MAX_SENT_BYTES:
        raise InvalidInput(f"{part['url']} has more than the {MAX_SENT_BYTES:,} bytes that a message carries")
    raw = base64.b64encode(content).decode("ascii")
    return {**{name: value for name, value in part.items() if name != "url"}, "raw": raw}
