"""Documents in and out: what is read, what is refused and where, and the forms of the seeds."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalang import formats
from dalang.canonical import digest
from dalang.errors import InvalidDocument
from dalang.formats import dump_json, dump_yaml, load_document, to_plan_document
from dalang.plan import Plan, with_derived_ids

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def refusal(data: bytes | str, name: str | None = None) -> tuple[str, str]:
    with pytest.raises(InvalidDocument) as caught:
        load_document(data, name=name)
    (problem,) = caught.value.problems
    return problem.code, problem.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01T10:00:00Z", "2026-01-01T10:00:00Z"),
        ("1_000", "1_000"),
        ("0123", 123),
        ("0o17", 15),
        ("0x1F", 31),
        ("-7", -7),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("true", True),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("~", None),
        ("", None),
        ("'true'", "true"),
        ("!!str 12", "12"),
        ("[a, on, 1]", ["a", "on", 1]),
        ("=", "="),
    ],
)
def test_yaml_is_read_by_the_core_schema_of_1_2(text: str, value: Any) -> None:
    """No text becomes a boolean, a date or a number of base 60 by surprise."""
    assert load_document(f"a: {text}") == {"a": value}


def test_keys_are_texts() -> None:
    """Keys that look like booleans, numbers or null stay the text they are."""
    assert load_document("on: 1\nyes: 2\n404: 3\n~: 4\ntrue: 5") == {"on": 1, "yes": 2, "404": 3, "~": 4, "true": 5}


def test_anchors_and_merge_keys_work() -> None:
    """An alias repeats a value, a merge key gives defaults which later keys override, the first source first."""
    text = "base: &b {a: 1, z: 9}\nmore: &m {a: 2, y: 8}\nx: {<<: [*b, *m], z: 0}\nagain: *b"
    assert load_document(text) == {
        "base": {"a": 1, "z": 9},
        "more": {"a": 2, "y": 8},
        "x": {"a": 1, "z": 0, "y": 8},
        "again": {"a": 1, "z": 9},
    }


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        ("a: 1\nb: 2\na: 3", "DUPLICATE_KEY", "Line 3, column 1"),
        ('{"a": 1,\n "b": {"a": 1},\n "a": 2}', "DUPLICATE_KEY", "Line 3, column 2"),
        ('{"x": "{\\"a\\": [", "a": 1, "\\u0061": 2}', "DUPLICATE_KEY", "Line 1, column 28"),
        ("a: 1\n---\nb: 2", "MULTIPLE_DOCUMENTS", "Line 2, column 1"),
        ("a: [1", "MALFORMED_YAML", "Line"),
        ("a: b: c", "MALFORMED_YAML", "Line 1, column 5"),
        ("a: *missing", "MALFORMED_YAML", "Line 1, column 4"),
        ("a: \x07", "MALFORMED_YAML", ""),
        ('{"a": 1]', "MALFORMED_JSON", "Line 1, column 8"),
        ('{"a": NaN}', "NOT_JSON", "NaN"),
        ("a: .inf", "NOT_JSON", "Line 1, column 4"),
        ("a: !!bool yes", "NOT_JSON", "Line 1, column 4"),
        ("a: !!python/object/apply:os.system [ls]", "UNSUPPORTED_TAG", "Line 1, column 4"),
        ("a: !!binary aGk=", "UNSUPPORTED_TAG", "Line 1, column 4"),
        ("a: !!timestamp 2026-01-01", "UNSUPPORTED_TAG", "Line 1, column 4"),
        ("? [a]\n: 1", "MALFORMED_YAML", "Line 1, column 3"),
        ("a: {<<: 1}", "MALFORMED_YAML", "Line 1, column 5"),
        ("- 1", "NOT_AN_OBJECT", "a list"),
        ("hello", "NOT_AN_OBJECT", "a text"),
        ("", "EMPTY_DOCUMENT", ""),
        ("# nothing", "EMPTY_DOCUMENT", ""),
        ("a\x00", "NOT_TEXT", "Line 1, column 2"),
        ('a: "\\0"', "NOT_JSON", "U+0000"),
        ("a: 9007199254740993", "NOT_JSON", "2^53"),
        ('{"a": ' + "9" * 5000 + "}", "NOT_JSON", "too many digits"),
        ('{"a":' * 100 + "1" + "}" * 100, "TOO_DEEP", "64"),
        ('{"a":' * 200_000, "TOO_DEEP", "64"),
        ("a: " + "[" * 100 + "]" * 100, "TOO_DEEP", "64"),
        ("a: &a [*a]", "TOO_DEEP", "64"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, code: str, place: str) -> None:
    """A refusal has a stable code, and a line and column where there is one."""
    found, message = refusal(text)
    assert found == code
    assert place in message


def test_json_by_name_is_json_only() -> None:
    """A flow mapping of YAML passes without a name, not as a .json file."""
    assert load_document("{name: x}") == {"name": "x"}
    assert refusal("{name: x}", name="plan.JSON")[0] == "MALFORMED_JSON"


def test_what_is_not_utf8_is_refused_with_its_line() -> None:
    """Bytes are UTF-8, with or without a byte order mark; the offending line is named."""
    assert load_document("\ufeffa: ä".encode()) == {"a": "ä"}
    assert refusal(b"a: 1\nb: \xff") == ("NOT_TEXT", "Line 2: the document is not UTF-8 (byte 8 is 0xff).")
    assert refusal("a: \ud800")[0] == "NOT_TEXT"
    assert refusal("a: 1".encode("utf-16"))[0] == "NOT_TEXT"


def test_size_is_checked_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document over the limit is refused unread, counted in bytes."""
    monkeypatch.setattr(formats, "MAX_BYTES", 100)
    assert load_document("a: " + "x" * 97)
    assert refusal("[" * 101)[0] == "TOO_LARGE"
    assert refusal("a: " + "ä" * 60)[0] == "TOO_LARGE"
    assert refusal(b"\xff" * 101)[0] == "TOO_LARGE"


def test_an_alias_bomb_is_refused() -> None:
    """A billion laughs stop at the limit of repeated values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert refusal("\n".join(lines))[0] == "ALIAS_LIMIT"


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_nothing_but_invalid_document_comes_out_of_arbitrary_data(data: bytes | str) -> None:
    """Whatever is read, the answer is an object or InvalidDocument."""
    with contextlib.suppress(InvalidDocument):
        assert isinstance(load_document(data), dict)


yaml_pieces = st.sampled_from([*"-:?[]{},#&*!|>'\"%@`~<=.+ \n\t\\abn01", "<<", "&a ", "*a", "---", "- ", ": "])


@given(st.lists(yaml_pieces, max_size=40).map("".join))
def test_nothing_but_invalid_document_comes_out_of_what_looks_like_yaml(text: str) -> None:
    """As above, for texts made of the characters that mean something."""
    with contextlib.suppress(InvalidDocument):
        load_document(text)


texts = st.text(max_size=30) | st.sampled_from(
    [
        "on",
        "1e3",
        "0o7",
        "012",
        "1:30",
        "<<",
        "=",
        "~",
        "",
        "null",
        "True",
        "2026-01-01",
        " a\n b",
        "a\n\n",
        "a \nb\n",
        "#x",
    ]
)
safe_texts = texts.filter(lambda text: "\x00" not in text and not re.search("[\ud800-\udfff]", text))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | safe_texts,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(safe_texts, children, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(safe_texts, values, min_size=1, max_size=5))
def test_what_is_written_is_read_back_with_the_same_digest(document: dict[str, Any]) -> None:
    """YAML and JSON are equal: a document survives both with its digest."""
    assert digest(load_document(dump_yaml(document))) == digest(document)
    assert digest(load_document(dump_json(document), name="plan.json")) == digest(document)


def test_yaml_is_written_for_people() -> None:
    """Order is kept, lines of text become a block, and readers of YAML 1.1 see the same values."""
    document = {"name": "x", "a": {"on": "yes", "text": "one\ntwo\n", "list": [1, "1e3"]}, "empty": []}
    assert dump_yaml(document) == (
        "name: x\na:\n  'on': 'yes'\n  text: |\n    one\n    two\n  list:\n  - 1\n  - '1e3'\nempty: []\n"
    )


def test_a_hundred_thousand_nodes_in_json_are_read() -> None:
    """The largest plan fits the size limit in JSON."""
    nodes = [{"nodeId": f"n{n}", "type": "noop"} for n in range(100_000)]
    assert len(load_document(json.dumps({"name": "x", "nodes": nodes}))["nodes"]) == 100_000


def test_wayang_hints_in_metadata_count_where_nothing_else_is_said() -> None:
    """metadata.resources and metadata.priority fill requirements and priority, and stay metadata."""
    metadata = {"resources": {"cpu": 4, "memory": 1024, "gpu": 1}, "priority": 7}
    nodes = [
        {"nodeId": "a", "type": "noop", "metadata": metadata},
        {
            "nodeId": "b",
            "type": "noop",
            "priority": 1,
            "requirements": {"resources": {"cpuCores": 2}},
            "metadata": metadata,
        },
        {"nodeId": "c", "type": "noop", "metadata": {"resources": "many", "priority": "some"}},
    ]
    plan = Plan.model_validate(to_plan_document({"name": "w", "nodes": nodes}))
    first, second, third = plan.nodes
    assert first.requirements.resources is not None
    assert first.requirements.resources.model_dump() == {"cpu_cores": 4, "memory_mb": 1024, "gpu": 1}
    assert (first.priority, first.metadata) == (7, metadata)
    assert second.requirements.resources is not None
    assert (second.requirements.resources.cpu_cores, second.priority) == (2, 1)
    assert (third.requirements.resources, third.priority) == (None, None)


def test_axon_means_the_same_as_dalang() -> None:
    """The seed's feature workflow in Axon's form and in Dalang's has one digest."""
    digests = {
        with_derived_ids(Plan.model_validate(to_plan_document(load_document((EXAMPLES / name).read_bytes())))).digest()
        for name in ("axon-feature.json", "feature-development.yaml")
    }
    assert len(digests) == 1


def axon(task: dict[str, Any], **more: Any) -> dict[str, Any]:
    requirements = {"capabilities": ["Testing"]}
    return {"name": "w", "tasks": [{"id": "t", "name": "T", "requirements": requirements, **task}], **more}


@pytest.mark.parametrize(
    "task",
    [
        {"task_type": {"Testing": {"test_type": "Unit", "coverage_threshold": 0.5}}},
        {"taskType": {"testing": {"testType": "unit", "coverageThreshold": 0.5}}},
        {"task_type": {"type": "Testing", "test_type": "UNIT", "coverage_threshold": 0.5}},
        {"type": "testing", "test_type": "unit", "coverage_threshold": 0.5},
    ],
)
def test_axon_task_types_are_read_in_every_spelling_of_serde(task: dict[str, Any]) -> None:
    """Tagged outside, inside or beside, in snake, camel and Pascal case: one meaning."""
    (node,) = to_plan_document(axon(task))["nodes"]
    assert node == {
        "nodeId": "t",
        "name": "T",
        "type": "agent",
        "inputs": {"task": "T", "test_type": "unit", "coverage_threshold": 0.5},
        "metadata": {"taskType": "Testing"},
        "requirements": {
            "capabilities": ["testing"],
            "estimatedDuration": "5m",
            "resources": {"cpuCores": 1, "memoryMb": 512, "gpu": 0},
        },
    }


def test_axon_settings_durations_and_custom_tasks() -> None:
    """Durations are {secs, nanos}, seconds or texts; gpu_required is one gpu; max_retries 0 is one attempt."""
    task = {
        "task_type": {"Custom": {"handler": "h", "config": {"a": 1}}},
        "input": {"x": 1},
        "requirements": {
            "capabilities": ["CodeGeneration", {"Custom": "my thing"}],
            "estimatedDuration": {"secs": 1, "nanos": 500_000_000},
            "resources": {"cpuCores": 2, "memory_mb": 10, "gpu_required": True},
        },
    }
    document = axon(task, metadata={"priority": "Critical", "timeout": 90, "max_retries": 0, "created_by": "me"})
    plan = to_plan_document(document)
    (node,) = plan["nodes"]
    assert (node["handler"], node["inputs"]) == ("h", {"task": "T", "config": {"a": 1}, "x": 1})
    assert node["requirements"] == {
        "capabilities": ["code-generation", "my-thing"],
        "estimatedDuration": "1s500ms",
        "resources": {"cpuCores": 2, "memoryMb": 10, "gpu": 1},
    }
    assert (plan["timeout"], plan["maxRetries"], plan["priority"]) == ("1m30s", 1, "Critical")
    assert plan["metadata"] == {"created_by": "me"}
    assert Plan.model_validate(plan).priority == 2


def test_axon_dependencies_point_from_a_task_to_what_it_needs() -> None:
    """{implement: [design]} is an edge from design to implement; a name will do where no other task has it."""
    tasks = [
        {"name": name, "task_type": "Review", "requirements": {"capabilities": ["x"]}} for name in ("Design", "Code it")
    ]
    plan = to_plan_document({"name": "w", "tasks": tasks, "dependencies": {"Code it": ["Design", "design"]}})
    assert [node["nodeId"] for node in plan["nodes"]] == ["design", "code_it"]
    assert plan["edges"] == [{"sourceNodeId": "design", "targetNodeId": "code_it"}]


def test_axon_problems_are_all_told() -> None:
    """Axon refuses empty capabilities and 0 cores; these and every other mistake are told at once."""
    document = {
        "name": "w",
        "tasks": [
            {"id": "a", "task_type": "Review", "requirements": {"resources": {"cpu_cores": 0}}},
            {"id": "b", "task_type": "Magic", "requirements": {"capabilities": ["x"], "estimated_duration": -1}},
            {"id": "c", "task_type": "Custom", "requirements": {"capabilities": [1]}},
            "d",
        ],
        "dependencies": {"a": ["nobody"], "ghost": ["a"], "b": "a"},
    }
    with pytest.raises(InvalidDocument) as caught:
        to_plan_document(document)
    assert [(problem.pointer, problem.code) for problem in caught.value.problems] == [
        ("/tasks/0/requirements/capabilities", "NO_CAPABILITIES"),
        ("/tasks/0/requirements/resources/cpu_cores", "NO_CORES"),
        ("/tasks/1/task_type", "UNKNOWN_TASK_TYPE"),
        ("/tasks/1/requirements/estimated_duration", "BAD_DURATION"),
        ("/tasks/2/task_type", "MISSING_HANDLER"),
        ("/tasks/2/requirements/capabilities", "WRONG_TYPE"),
        ("/tasks/3", "WRONG_TYPE"),
        ("/dependencies/a/0", "UNKNOWN_TASK"),
        ("/dependencies/ghost", "UNKNOWN_TASK"),
        ("/dependencies/b", "WRONG_TYPE"),
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)
_FIELDS = ["id", "name", "task_type", "requirements", "input", "capabilities", "estimated_duration", "resources"]
axon_values = st.dictionaries(st.sampled_from(_FIELDS), json_values | st.sampled_from(["Review", "Custom"]), max_size=6)


@given(
    st.fixed_dictionaries(
        {"tasks": st.lists(axon_values | json_values, max_size=3) | json_values},
        optional={"dependencies": json_values, "metadata": json_values, "name": json_values, "id": json_values},
    )
)
def test_axon_conversion_raises_nothing_but_invalid_document(document: dict[str, Any]) -> None:
    """However odd an Axon document is, the answer is a document or a list of problems."""
    with contextlib.suppress(InvalidDocument):
        assert "nodes" in to_plan_document(document)


def test_a_wfformat_instance_is_recognised_as_one_to_import() -> None:
    """Loading what has to be imported says so."""
    with pytest.raises(InvalidDocument, match="IMPORT_NEEDED"):
        to_plan_document({"name": "x", "workflow": {"specification": {}}})


FOREIGN = {
    "Argo": {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "spec": {}},
    "Tekton": {"apiVersion": "tekton.dev/v1", "kind": "Pipeline", "spec": {}},
    "Kubernetes": {"apiVersion": "batch/v1", "kind": "Job"},
    "Step Functions": {"StartAt": "A", "States": {"A": {"Type": "Succeed"}}},
    "Serverless": {"document": {"dsl": "1.0.0"}, "do": []},
    "GitHub": {"name": "CI", "on": ["push"], "jobs": {"build": {"steps": []}}},
    "Conductor": {"name": "x", "tasks": [{"taskReferenceName": "a", "type": "SIMPLE"}]},
    "Kestra": {"id": "x", "namespace": "a.b", "tasks": [{"id": "a", "type": "io.kestra.plugin.core.log.Log"}]},
    "n8n": {"name": "x", "nodes": [{"name": "a", "type": "n8n-nodes-base.set"}], "connections": {}},
    "Compose": {"services": {"db": {}}},
    "Airflow": {"my_dag": {"default_args": {}, "tasks": {"a": {"operator": "airflow.operators.bash.BashOperator"}}}},
}


@pytest.mark.parametrize("system", FOREIGN)
def test_a_document_of_another_system_is_called_by_its_name(system: str) -> None:
    """Who hands in a workflow of another system is told so, and not which of its fields a plan does not have."""
    with pytest.raises(InvalidDocument) as caught:
        to_plan_document(FOREIGN[system])
    [problem] = caught.value.problems
    assert problem.code == "FOREIGN_FORMAT"
    assert system in problem.message


def test_what_holds_plans_says_how_they_are_had() -> None:
    """A collection of agents' plans, the body of a request, and a program are no plans, and near to one."""
    collection = {"tasks": [{"id": "t", "nodes": [{"nodeId": "a", "name": "do it"}], "edges": []}]}
    with pytest.raises(InvalidDocument, match="import it as agent-plans"):
        to_plan_document(collection)
    with pytest.raises(InvalidDocument, match="give what stands in `plan`"):
        to_plan_document({"plan": {"name": "x", "nodes": []}, "inputs": {}})
    with pytest.raises(InvalidDocument, match="let it print"):
        load_document("plan = PlanBuilder('x')", name="plan.py")
