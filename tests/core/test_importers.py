"""Importers: WfFormat instances and agent plans become plans; what is wrong is told with pointers."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalang.errors import InvalidDocument
from dalang.formats import load_document
from dalang.importers import IMPORTERS, import_plans
from dalang.overview import overview
from dalang.plan import Plan
from tests.harness import requires_shared, shared_dir


def problems(format_name: str, document: Any, **options: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidDocument) as caught:
        import_plans(format_name, document, **options)
    return [(problem.pointer, problem.code) for problem in caught.value.problems]


def wfformat(tasks: list[Any], records: list[Any] | None = None) -> dict[str, Any]:
    workflow: dict[str, Any] = {"specification": {"tasks": tasks, "files": []}}
    if records is not None:
        workflow["execution"] = {"makespanInSeconds": 7, "tasks": records, "machines": []}
    return {"name": "small", "schemaVersion": "1.5", "workflow": workflow}


def test_wfformat_tasks_become_sleeps_of_their_run_time() -> None:
    """Names, scaled durations, resources and the union of parents and children are taken over."""
    tasks = [
        {"id": "a_1", "name": "a", "parents": [], "children": ["b 2"]},
        {"id": "b 2", "name": "b", "parents": ["a_1"], "children": ["c"]},
        {"id": "c", "name": "c", "parents": ["a_1"], "children": []},
    ]
    records = [
        {"id": "a_1", "runtimeInSeconds": 1.5, "coreCount": 2.0, "memoryInBytes": 3 * 2**20},
        {"id": "b 2", "runtimeInSeconds": 0.0001},
    ]
    (plan,) = import_plans("wfformat", wfformat(tasks, records), time_scale=0.1)
    assert plan["name"] == "small"
    assert plan["metadata"]["makespanInSeconds"] == 7
    assert plan["nodes"][0] == {
        "nodeId": "a_1",
        "name": "a",
        "type": "sleep",
        "inputs": {"duration": "150ms"},
        "requirements": {"estimatedDuration": "150ms", "resources": {"cpuCores": 2, "memoryMb": 3.0}},
    }
    assert [node["inputs"]["duration"] for node in plan["nodes"]] == ["150ms", "0s", "0s"]
    assert [(edge["sourceNodeId"], edge["targetNodeId"]) for edge in plan["edges"]] == [
        ("a_1", "b 2"),
        ("b 2", "c"),
        ("a_1", "c"),
    ]
    Plan.model_validate(plan)


def test_older_wfformat_names_parents_by_name() -> None:
    """Schema 1.3 keeps everything under workflow.tasks, with parents by name."""
    tasks = [
        {"name": "first", "id": "ID1", "runtime": 2, "cores": 1, "parents": [], "children": ["second"]},
        {"name": "second", "id": "ID2", "runtime": 3, "parents": ["first"], "children": []},
    ]
    (plan,) = import_plans("wfformat", {"name": "old", "workflow": {"tasks": tasks}})
    assert [node["inputs"]["duration"] for node in plan["nodes"]] == ["2s", "3s"]
    assert plan["edges"] == [{"sourceNodeId": "ID1", "targetNodeId": "ID2"}]


def test_the_oldest_wfformat_has_jobs_and_kilobytes() -> None:
    """Schemas 1.0 to 1.2 list workflow.jobs without ids; memory is in kB until 1.4."""
    jobs = [{"name": "first", "runtime": 2, "memory": 2048.0, "parents": []}, {"name": "then", "parents": ["first"]}]
    (plan,) = import_plans("wfformat", {"name": "old", "workflow": {"makespan": 9, "jobs": jobs}})
    assert plan["nodes"][0]["requirements"]["resources"] == {"memoryMb": 1.953}
    assert plan["edges"] == [{"sourceNodeId": "first", "targetNodeId": "then"}]
    assert plan["metadata"]["makespanInSeconds"] == 9


@pytest.mark.parametrize("before_15", [False, True])
def test_where_only_files_tell_the_order_they_do(before_15: bool) -> None:
    """A task comes after the first that wrote what it reads; changing a file in place is no cycle."""
    files = {"a": ([], ["f"]), "b": (["f"], ["f", "g"]), "c": (["f", "g", "given"], [])}
    tasks: list[dict[str, Any]] = []
    for name, (reads, writes) in files.items():
        links = [{"link": "input", "name": one} for one in reads] + [{"link": "output", "name": one} for one in writes]
        tasks.append({"id": name, **({"files": links} if before_15 else {"inputFiles": reads, "outputFiles": writes})})
    (plan,) = import_plans("wfformat", {"workflow": {"tasks": tasks}} if before_15 else wfformat(tasks))
    found = [(edge["sourceNodeId"], edge["targetNodeId"]) for edge in plan["edges"]]
    assert found == [("a", "b"), ("a", "c"), ("b", "c")]


def test_what_contradicts_itself_in_wfformat_is_told_with_pointers() -> None:
    """A cycle, a name that several tasks have, records of no task and of one task twice."""
    base = "/workflow/specification/tasks"
    circle = [{"id": "a", "parents": ["c"]}, {"id": "b", "parents": ["a"]}, {"id": "c", "parents": ["b"]}]
    assert problems("wfformat", wfformat(circle)) == [(f"{base}/0", "CYCLE")]
    tasks = [{"id": "1", "name": "x"}, {"id": "2", "name": "x"}, {"id": "3", "parents": ["x", "3"]}]
    records = [{"id": "1", "runtimeInSeconds": 1}, {"id": "1", "runtimeInSeconds": 2}, {"id": "4"}]
    assert problems("wfformat", wfformat(tasks, records)) == [
        ("/workflow/execution/tasks/1/id", "DUPLICATE_ID"),
        ("/workflow/execution/tasks/2/id", "UNKNOWN_TASK"),
        (f"{base}/2/parents/0", "UNKNOWN_TASK"),
        (f"{base}/2/parents/1", "CYCLE"),
    ]


def test_ids_too_long_for_a_plan_are_shortened_and_stay_different() -> None:
    """Two ids that agree in their first 200 characters remain two nodes, and edges find them."""
    one, two = "x" * 250 + "1", "x" * 250 + "2"
    (plan,) = import_plans("wfformat", wfformat([{"id": one, "children": [two]}, {"id": two}]))
    ids = [node["nodeId"] for node in plan["nodes"]]
    assert len(set(ids)) == 2
    assert all(len(node_id) == 200 for node_id in ids)
    assert plan["edges"] == [{"sourceNodeId": ids[0], "targetNodeId": ids[1]}]


def test_wfformat_mistakes_are_told_with_pointers() -> None:
    """Every mistake of an instance is told at once, where it stands."""
    tasks = [
        {"id": "a", "children": ["nobody"], "parents": "a"},
        {"id": "a"},
        {"name": ""},
        "task",
        {"id": "b", "parents": [3]},
    ]
    records = [{"id": "a", "runtimeInSeconds": -1}, {"runtimeInSeconds": 1}, {"id": "b", "runtimeInSeconds": 1e300}]
    base = "/workflow/specification/tasks"
    assert problems("wfformat", wfformat(tasks, records)) == [
        ("/workflow/execution/tasks/1", "NO_ID"),
        ("/workflow/execution/tasks/0/runtimeInSeconds", "BAD_NUMBER"),
        (f"{base}/1/id", "DUPLICATE_ID"),
        (f"{base}/2", "NO_ID"),
        (f"{base}/3", "WRONG_TYPE"),
        ("/workflow/execution/tasks/2", "BAD_RUNTIME"),
        (f"{base}/0/parents", "WRONG_TYPE"),
        (f"{base}/0/children/0", "UNKNOWN_TASK"),
        (f"{base}/4/parents/0", "UNKNOWN_TASK"),
    ]


@pytest.mark.parametrize("document", [{}, {"workflow": 3}, {"workflow": {"specification": []}}, {"workflow": {}}])
def test_what_is_no_wfformat_is_refused(document: dict[str, Any]) -> None:
    """Another document is told apart from a broken instance."""
    assert problems("wfformat", document)[0][1] == "NOT_WFFORMAT"


def test_unknown_formats_and_options_are_refused() -> None:
    """The registry says what there is; an option that is None was not given."""
    assert problems("airflow", {}) == [("", "UNKNOWN_FORMAT")]
    assert problems("wfformat", wfformat([{"id": "a"}]), select="x") == [("", "UNKNOWN_OPTION")]
    assert problems("wfformat", wfformat([{"id": "a"}]), time_scale=-1) == [("", "BAD_TIME_SCALE")]
    assert import_plans("wfformat", wfformat([{"id": "a"}]), select=None)


AGENT_TASK = {
    "id": "t1",
    "task": "Find ${x}",
    "toolNames": ["getWeather", "CLICK(Env, Query)", "Finish"],
    "nodes": [
        {"nodeId": "n1", "name": "Use get weather to look. " + "word " * 30},
        {"nodeId": "task", "name": "CLICK on ${it}"},
        {"nodeId": "n1", "name": "a remainder"},
    ],
    "edges": [{"sourceNodeId": "task", "sourcePort": "success", "targetNodeId": "n1", "targetPort": "in"}],
}


def test_agent_plans_become_plans_of_agents() -> None:
    """Each subtask keeps its text as an input, with the tool it names; expressions in it are only text."""
    (plan,) = import_plans("agent-plans", {"tasks": [AGENT_TASK]})
    assert (plan["name"], plan["description"]) == ("t1", "Find ${x}")
    first, second = plan["nodes"]
    assert first["inputs"]["goal"] == "Find $${x}"
    assert first["inputs"]["tool"] == "getWeather"
    assert len(first["name"]) <= 80
    assert second["inputs"] == {"task": "CLICK on $${it}", "goal": "Find $${x}", "tool": "CLICK(Env, Query)"}
    assert plan["metadata"]["leftOut"] == [{"nodeId": "n1", "name": "a remainder"}]
    assert plan["edges"] == [{"sourceNodeId": "task", "targetNodeId": "n1", "targetPort": "from_task"}]
    Plan.model_validate(plan)


def test_agent_plans_are_selected_by_id() -> None:
    """One id, or several in their order; an id that is not there is refused."""
    tasks = [{**AGENT_TASK, "id": name} for name in ("a", "b", "c")]
    assert [plan["name"] for plan in import_plans("agent-plans", {"tasks": tasks}, select="b")] == ["b"]
    assert [plan["name"] for plan in import_plans("agent-plans", {"tasks": tasks}, select=["c", "a"])] == ["c", "a"]
    assert problems("agent-plans", {"tasks": tasks}, select="z") == [("/tasks", "UNKNOWN_TASK")]


def test_agent_plan_mistakes_are_told_with_pointers() -> None:
    """Tasks without an id, nodes without a text and edges to nowhere are told where they stand."""
    task = {"id": "a", "nodes": [{"nodeId": "n"}], "edges": [{"sourceNodeId": "n", "targetNodeId": 3}, 1]}
    assert problems("agent-plans", {"tasks": [{}, task, {"id": "b"}]}) == [
        ("/tasks/0", "NO_ID"),
        ("/tasks/1/nodes/0", "WRONG_TYPE"),
        ("/tasks/1/edges/0/sourceNodeId", "UNKNOWN_NODE"),
        ("/tasks/1/edges/0/targetNodeId", "UNKNOWN_NODE"),
        ("/tasks/1/edges/1", "WRONG_TYPE"),
        ("/tasks/2/nodes", "NO_NODES"),
    ]
    assert problems("agent-plans", {}) == [("/tasks", "NOT_AGENT_PLANS")]


_KEYS = ["id", "name", "workflow", "tasks", "specification", "execution", "parents", "children", "runtimeInSeconds"]
_AGENT_KEYS = ["nodes", "edges", "nodeId", "task", "toolNames", "sourceNodeId", "targetNodeId", "makespanInSeconds"]
odd = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.sampled_from(["", "a", "b"]),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(_KEYS + _AGENT_KEYS), children, max_size=5)
    ),
    max_leaves=15,
)


@given(st.sampled_from(sorted(IMPORTERS)), odd | st.fixed_dictionaries({"workflow": odd, "tasks": st.lists(odd)}))
def test_no_document_makes_an_importer_raise_anything_else(format_name: str, document: Any) -> None:
    """An importer answers with plans or with problems."""
    with contextlib.suppress(InvalidDocument):
        assert isinstance(import_plans(format_name, document), list)


@requires_shared
@pytest.mark.parametrize(
    ("name", "nodes", "edges", "depth", "seconds"),
    [
        ("srasearch-chameleon-10a-001", 22, 30, 3, 1005.858),
        ("blast-chameleon-small-001", 43, 120, 3, 10.413),
        ("soykb-chameleon-10fastq-20ch-001", 156, 354, 11, 7869.049),
        ("rnaseq-dirt02-001", 197, 451, 10, 759.454),
        ("1000genome-chameleon-22ch-250k-001", 902, 1166, 3, 313.98),
        ("epigenomics-chameleon-ilmn-5seq-50k-001", 1397, 1737, 9, 221.329),
    ],
)
def test_real_instances_have_the_figures_of_their_source(
    name: str, nodes: int, edges: int, depth: int, seconds: float
) -> None:
    """Nodes, edges, depth and critical path are those that SOURCES.md gives."""
    folder = shared_dir()
    assert folder is not None
    (document,) = import_plans("wfformat", load_document((folder / "instances" / f"{name}.json").read_bytes()))
    plan = Plan.model_validate(document)
    seen = overview(plan)
    assert (seen.nodes, seen.edges, seen.depth) == (nodes, edges, depth)
    assert seen.estimated_duration / 1000 == pytest.approx(seconds, abs=0.05)


@requires_shared
def test_the_collected_agent_plans_are_all_imported() -> None:
    """Every one of the 25 plans becomes a plan with the edges that it had."""
    folder = shared_dir()
    assert folder is not None
    document = load_document((folder / "agent-plans.json").read_bytes())
    plans = import_plans("agent-plans", document)
    assert [plan["name"] for plan in plans] == [task["id"] for task in document["tasks"]]
    for plan, task in zip(plans, document["tasks"], strict=True):
        assert len(plan["edges"]) == task["figures"]["edges"]
        assert len(plan["nodes"]) + len(plan["metadata"].get("leftOut", [])) == task["figures"]["nodes"]
        overview(Plan.model_validate(plan))
    assert sum("tool" in node["inputs"] for plan in plans for node in plan["nodes"]) >= 10
