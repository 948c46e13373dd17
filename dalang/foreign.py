"""Documents of other systems that somebody hands in as plans, known by what only they have: told, not taken apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def foreign_format(document: Mapping[str, Any]) -> str | None:
    """Return what ``document`` is, such as "an Argo workflow"; None where it may be meant as a plan of Dalang."""
    if isinstance(document.get("apiVersion"), str) and isinstance(document.get("kind"), str):
        return _of_kubernetes(document["apiVersion"], document["kind"])
    if "StartAt" in document and isinstance(document.get("States"), Mapping):
        return "a state machine of AWS Step Functions"
    head = document.get("document")
    if (isinstance(head, Mapping) and "dsl" in head) or ("specVersion" in document and "states" in document):
        return "a Serverless Workflow"
    if "nodes" in document and isinstance(document.get("connections"), Mapping):
        return "a workflow of n8n"
    tasks = document.get("tasks")
    if isinstance(tasks, list) and any(isinstance(one, Mapping) and "taskReferenceName" in one for one in tasks):
        return "a workflow of Conductor"
    if isinstance(tasks, list) and isinstance(document.get("namespace"), str):
        return "a flow of Kestra"
    jobs = document.get("jobs")
    if isinstance(jobs, Mapping) and any(isinstance(job, Mapping) and "steps" in job for job in jobs.values()):
        return "a workflow of GitHub Actions"
    if "services" in document and "nodes" not in document:
        return "a file of Docker Compose"
    if any(_is_airflow(value) for value in document.values()):
        return "a DAG of Airflow (dag-factory)"
    return None


def _of_kubernetes(version: str, kind: str) -> str:
    if version.startswith("argoproj.io/"):
        return "an Argo workflow"
    return "a Tekton pipeline" if version.startswith("tekton.dev/") else f"an object of Kubernetes ({kind[:40]})"


def _is_airflow(dag: Any) -> bool:
    tasks = dag.get("tasks") if isinstance(dag, Mapping) else None
    listed = tasks.values() if isinstance(tasks, Mapping) else tasks if isinstance(tasks, list) else ()
    return any(isinstance(task, Mapping) and "operator" in task for task in listed)
