"""``dalang provenance``: where a node's inputs came from, back to the run's, and where its outputs went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dalang.commands.runs import RunArgument
from dalang.commands.session import Session, online

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

app = typer.Typer()
PAGE, AROUND = 500, 2_000


class Form(StrEnum):
    """Forms in which it can be written."""

    TREE = "tree"
    PROV = "prov"
    OPENLINEAGE = "openlineage"


@app.command()
@online
def provenance(
    session: Session,
    run: RunArgument,
    node: Annotated[str | None, typer.Argument(help="A node; without one, the outputs of the run.")] = None,
    form: Annotated[
        Form, typer.Option("--format", help="tree, or the whole run for others: prov (W3C PROV-JSON), openlineage.")
    ] = Form.TREE,
) -> None:
    """Show where values came from: from a node, or the run's outputs, back to its inputs, and forward."""
    from dalang.commands.output import write_json_list, write_text

    run_id = session.client.run_id(run)
    address = f"/runs/{run_id}/provenance"
    if form is Form.PROV:
        write_text(session.client.download(f"{address}/prov"))
        return
    if form is Form.OPENLINEAGE:
        write_json_list(_all(session, f"{address}/openlineage", "events"))
        return
    if node is None and session.json:
        found = session.client.get(address, limit=1)
        write_json_list(_all(session, address, "executions"), within=found, key="executions")
        return
    if node is None:
        _show_run(session, session.client.get(address, limit=1))
        return
    found = _of_node(session, run_id, node)
    session.emit(found, lambda: _show_node(session, found))


def _all(session: Session, path: str, part: str) -> Iterator[dict[str, Any]]:
    cursor: str | None = None
    while True:
        page = session.client.get(path, limit=PAGE, cursor=cursor)
        yield from page[part]
        cursor = page["next"]
        if cursor is None:
            return


def _show_run(session: Session, found: Mapping[str, Any]) -> None:
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(f"outputs of run {found['runId']}", style="bold"))
    if found["outputs"] is None:
        tree.add(Text("none: the run has not succeeded", style="dim"))
    else:
        sources = found["outputs"]["sources"]
        _add_sources(tree, sources, _behind(session, found["runId"], sources), set())
    session.out.print(tree)
    _origins(session, found)


def _behind(session: Session, run_id: str, sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return by id the executions that sources name, and those that fed them; not all of a run, which may be large."""
    from dalang.provenance_walk import givers

    known: dict[str, Any] = {}
    for execution in givers(sources):
        if execution not in known:
            found = _of_node(session, run_id, execution.rpartition("@")[0])
            known |= {one["id"]: one for one in (*found["back"], *found["executions"])}
    return known


def _of_node(session: Session, run_id: str, node: str) -> dict[str, Any]:
    from urllib.parse import quote

    path = f"/runs/{run_id}/nodes/{quote(node, safe='')}/provenance"
    return dict(session.client.get(path, limit=AROUND))


def _show_node(session: Session, found: Mapping[str, Any]) -> None:
    from rich.text import Text
    from rich.tree import Tree

    known = {one["id"]: one for one in (*found["back"], *found["executions"], *found["forward"])}
    if not found["executions"]:
        session.out.print("It was not executed.")
    for execution in found["executions"]:
        tree = Tree(_title(execution))
        back = tree.add(Text("from", style="dim"))
        _add_sources(back, (execution.get("inputs") or {}).get("sources", ()), known, {execution["id"]})
        takers = [one for one in found["forward"] if execution["id"] in _givers(one)]
        forward = tree.add(Text("to", style="dim"))
        _add_takers(forward, takers, found["forward"], {execution["id"]})
        if not forward.children:
            forward.add(Text("nothing", style="dim"))
        session.out.print(tree)
    if found["reachesOutputs"]:
        session.out.print("The outputs of the run are made of it.")
    if found["truncated"]:
        session.note("There is more than is shown.")
    _origins(session, found["run"])


def _add_sources(tree: Tree, sources: Sequence[Mapping[str, Any]], known: Mapping[str, Any], shown: set[str]) -> None:
    """Add what each value came from, and below that where it came from; what was shown already is only named."""
    for source in sources:
        branch = tree.add(_source(source))
        for giver in _named(source):
            execution = known.get(giver)
            below = branch.add(_title(execution) if execution else _plain(giver))
            if execution is None or giver in shown:
                continue
            shown.add(giver)
            _add_sources(below, (execution.get("inputs") or {}).get("sources", ()), known, shown)


def _add_takers(
    tree: Tree, takers: Sequence[Mapping[str, Any]], all_: Sequence[Mapping[str, Any]], shown: set[str]
) -> None:
    for one in takers:
        branch = tree.add(_title(one))
        if one["id"] not in shown:
            shown.add(one["id"])
            _add_takers(branch, [other for other in all_ if one["id"] in _givers(other)], all_, shown)


def _givers(execution: Mapping[str, Any]) -> list[str]:
    from dalang.provenance_walk import givers, sources_of

    return givers(sources_of(execution))


def _named(source: Mapping[str, Any]) -> list[str]:
    from dalang.provenance_walk import givers

    return givers([source])


def _source(source: Mapping[str, Any]) -> Text:
    """Say on one line where a value came from."""
    from rich.text import Text

    from dalang.commands.output import safe

    kind = source["from"]
    said = {
        "literal": "written in the plan",
        "default": "default of the plan",
        "edge": f"edge {source.get('edgeId')} from port {source.get('port')}",
        "operator": f"changed by {source.get('operator')}",
        "undone": f"{source.get('part')} of what is undone",
        "before": "as recorded in the run before",
        "elements": "results of all elements",
        "unknown": "not known any more",
    }.get(kind, "")
    parts = [said] if said else []
    parts += [f"${{{one}}}" for one in source.get("expressions", ())]
    parts += [f"secret {one}" for one in source.get("secrets", ())]
    if source.get("condition"):
        parts.append(f"if {source['condition']}")
    if source.get("certain") is False:
        parts.append("(uncertain: values are gone)")
    reads = [f"{one['of']}{one.get('path', '')}" for one in source.get("reads", ()) if "execution" not in one]
    if reads:
        parts.append(f"reads {', '.join(reads)}")
    return Text.assemble((safe(source["pointer"] or "/"), "bold"), "  ", safe(", ".join(parts)))


def _title(execution: Mapping[str, Any]) -> Text:
    """Say on one line what an execution was, and what made it."""
    from rich.text import Text

    from dalang.commands.output import safe, styled

    made = [execution.get("type", "")]
    made += [f"{name} {execution[name]}" for name in ("agent", "build") if execution.get(name)]
    model, code = execution.get("model") or {}, execution.get("implementation") or {}
    if model:
        made.append(f"model {model.get('name')} {model.get('version', '')}".strip())
    if code:
        made.append(f"{code.get('coordinate')} {str(code.get('digest', ''))[:19]}".strip())
    made += [f"by {person}" for person in execution.get("people", ())]
    if execution.get("keptFrom"):
        made.append(f"kept from run {execution['keptFrom']}")
    made += [f"run {child}" for child in execution.get("childRuns", ())[:3]]
    return Text.assemble(
        (safe(execution["id"]), "bold cyan"), " ", styled(execution["status"]), "  ", safe(", ".join(made))
    )


def _plain(name: str) -> Text:
    from rich.text import Text

    from dalang.commands.output import safe

    return Text(safe(name))


def _origins(session: Session, run: Mapping[str, Any]) -> None:
    """Say where the run itself comes from, and how to look further."""
    above = run.get("parent")
    if above:
        session.note(f"The run is below another: dalang provenance {above['runId']} {above['nodeId']}")
    if run.get("redriveOf"):
        session.note(f"What was kept came to be before: dalang provenance {run['redriveOf']}")
