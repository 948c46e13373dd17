"""The function of `session.yaml`: it writes a note where its node works apart."""

from __future__ import annotations

from pathlib import Path

from dalang.nodes import InvalidInput, NodeContext, node


@node("write-note")
def write_note(ctx: NodeContext, topic: str) -> dict[str, str]:
    """Write a note, and what was written before under such a name."""
    if ctx.session is None or ctx.session.path is None:
        raise InvalidInput("the plan gives this node no worktree: memory.session.repository")
    before = [f"- {one['name']}: {one['outcome']}\n" for one in ctx.episodes]
    path = Path(ctx.session.path) / "notes" / f"{topic}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"# {topic}\n\n{''.join(before)}", encoding="utf-8")
    return {"note": f"notes/{topic}.md"}
