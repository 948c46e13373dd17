"""The manifests of Kubernetes: read as a cluster would, without one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import jsonschema
import pytest
import yaml

from dalang import __version__
from dalang.settings import PREFIX, Settings
from tests.harness import ROOT

FOLDER = ROOT / "deploy/kubernetes"
NAME = "app.kubernetes.io/name"
VERSIONS = {
    "Namespace": "v1",
    "ServiceAccount": "v1",
    "ConfigMap": "v1",
    "Secret": "v1",
    "Service": "v1",
    "Deployment": "apps/v1",
    "Job": "batch/v1",
    "PodDisruptionBudget": "policy/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "ScaledObject": "keda.sh/v1alpha1",
}


def closed(required: Mapping[str, Any], **optional: Any) -> dict[str, Any]:
    """The schema of an object with these fields and no others: a misspelt field is what a cluster refuses."""
    fields = {**required, **optional}
    return {"type": "object", "required": list(required), "properties": fields, "additionalProperties": False}


TEXT, ANY, MANY = {"type": "string"}, {"type": "object"}, {"type": "array"}
PROBE = closed(
    {},
    httpGet=closed({"path": TEXT, "port": {"enum": ["http", "metrics"]}}),
    exec=closed({"command": {"type": "array", "items": TEXT}}),
    **{name: {"type": "integer", "minimum": 1} for name in ("periodSeconds", "timeoutSeconds", "failureThreshold")},
)
CONTAINER = closed(
    {
        "name": TEXT,
        "image": {"const": "dalang"},
        "args": {"type": "array", "items": TEXT},
        "envFrom": MANY,
        "resources": closed({"requests": closed({"cpu": TEXT, "memory": TEXT}), "limits": closed({"memory": TEXT})}),
        "securityContext": closed(
            {
                "allowPrivilegeEscalation": {"const": False},
                "readOnlyRootFilesystem": {"const": True},
                "capabilities": {"const": {"drop": ["ALL"]}},
            }
        ),
        "volumeMounts": {"type": "array", "items": closed({"name": TEXT, "mountPath": TEXT}, readOnly={"const": True})},
    },
    env={"type": "array", "items": closed({"name": TEXT, "value": TEXT})},
    ports={"type": "array", "items": closed({"name": TEXT, "containerPort": {"type": "integer"}})},
    startupProbe=PROBE,
    livenessProbe=PROBE,
    readinessProbe=PROBE,
    lifecycle=closed({"preStop": closed({"sleep": closed({"seconds": {"type": "integer"}})})}),
)
VOLUME = closed(
    {"name": TEXT},
    emptyDir=closed({"sizeLimit": TEXT}, medium={"const": "Memory"}),
    secret=closed({"secretName": TEXT, "defaultMode": {"const": 0o440}}),
)
POD = closed(
    {
        "serviceAccountName": {"const": "dalang"},
        "automountServiceAccountToken": {"const": False},
        # The variables that Kubernetes makes of services begin with DALANG_, and would be taken for settings.
        "enableServiceLinks": {"const": False},
        "securityContext": closed(
            {
                "runAsNonRoot": {"const": True},
                "runAsUser": {"const": 10001},
                "runAsGroup": {"const": 10001},
                "fsGroup": {"const": 10001},
                "seccompProfile": {"const": {"type": "RuntimeDefault"}},
            }
        ),
        "containers": {"type": "array", "items": CONTAINER, "minItems": 1, "maxItems": 1},
        "volumes": {"type": "array", "items": VOLUME},
    },
    restartPolicy={"const": "OnFailure"},
    terminationGracePeriodSeconds={"type": "integer"},
    topologySpreadConstraints=MANY,
)
SPECS = {
    "Deployment": closed({"replicas": {"minimum": 2}, "selector": ANY, "template": ANY, "strategy": ANY}),
    "Job": closed(
        {"template": ANY},
        **{name: {"type": "integer"} for name in ("backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished")},
    ),
    "Service": closed({"selector": ANY, "ports": MANY}),
    "PodDisruptionBudget": closed({"selector": ANY}, minAvailable={}, maxUnavailable={}),
    "NetworkPolicy": closed({"podSelector": ANY, "policyTypes": MANY}, ingress=MANY, egress=MANY),
}


@cache
def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    found = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        for one in yaml.safe_load_all(path.read_text()) if path.name != "kustomization.yaml" else ():
            found[one["kind"], one["metadata"]["name"]] = one
    return found


def pods() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, labels and spec of each pod."""
    for (kind, name), one in manifests().items():
        if kind in ("Deployment", "Job"):
            template = one["spec"]["template"]
            yield name, template["metadata"]["labels"], template["spec"]


def test_every_manifest_is_of_a_kind_that_clusters_know() -> None:
    """In the version they know it in, with the fields it has; what is applied is each file but the example."""
    for (kind, _), one in manifests().items():
        assert one["apiVersion"] == VERSIONS[kind]
        if kind in SPECS:
            jsonschema.validate(one["spec"], SPECS[kind])
    applied = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml", "secrets.example.yaml"}
    assert set(applied["resources"]) == files
    assert applied["images"][0]["newTag"] == __version__


@pytest.mark.parametrize(("name", "labels", "pod"), list(pods()), ids=lambda one: one if isinstance(one, str) else "")
def test_pods_are_restricted_and_hang_together(name: str, labels: dict[str, str], pod: dict[str, Any]) -> None:
    """No root, no capabilities, nothing writable but its volumes; what they name is there; settings exist."""
    jsonschema.validate(pod, POD)
    assert labels == {NAME: name}
    (container,) = pod["containers"]
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    secrets = [one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one]
    variables = [one["name"] for one in container.get("env", ())]
    for source in container["envFrom"]:
        (kind, reference), *_ = source.items()
        given = manifests()["ConfigMap" if kind == "configMapRef" else "Secret", reference["name"]]
        variables += [*given.get("data", ()), *given.get("stringData", ())]
    assert all(("Secret", one) in manifests() for one in secrets)
    assert {one.removeprefix(PREFIX).lower() for one in variables} <= Settings.model_fields.keys()
    assert ("DALANG_MIGRATION_DATABASE_URL" in variables) == (name == "dalang-migrate")


def test_workers_drain_before_they_are_killed() -> None:
    """The grace of the pod is longer than the worker's own."""
    pod = next(pod for name, _, pod in pods() if name == "dalang-worker")
    env = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
    assert pod["terminationGracePeriodSeconds"] > int(env["DALANG_GRACEFUL_SHUTDOWN_SECONDS"]) + 10
    assert {"startupProbe", "livenessProbe"} <= pod["containers"][0].keys()


def test_selectors_find_pods_and_ports_are_there() -> None:
    """A selector that finds nothing is no error to a cluster, and protects nothing."""
    names = {name for name, *_ in pods()}
    for (kind, name), one in manifests().items():
        spec = one.get("spec", {})
        selector = {"Service": spec.get("selector")}.get(kind, (spec.get("selector") or {}).get("matchLabels"))
        if kind == "NetworkPolicy":
            selector = spec["podSelector"].get("matchLabels")
            for expression in spec["podSelector"].get("matchExpressions", ()):
                assert expression["key"] == NAME
                assert set(expression["values"]) <= names
        if selector:
            assert selector in [{NAME: one} for one in names], name
    (service,) = [one for (kind, _), one in manifests().items() if kind == "Service"]
    api = next(pod for name, _, pod in pods() if name == "dalang-api")
    (port,) = api["containers"][0]["ports"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    assert manifests()["NetworkPolicy", "dalang-api"]["spec"]["ingress"][0]["ports"][0]["port"] == port["containerPort"]
    assert manifests()["NetworkPolicy", "dalang-default"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }


def test_workers_are_scaled_by_the_queue_they_poll() -> None:
    """The scaler asks the Temporal, the namespace and the task queue of the workers."""
    settings = manifests()["ConfigMap", "dalang"]["data"]
    spec = manifests()["ScaledObject", "dalang-worker"]["spec"]
    assert ("Deployment", spec["scaleTargetRef"]["name"]) in manifests()
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "temporal"
    asked = {
        "endpoint": settings["DALANG_TEMPORAL_ADDRESS"],
        "namespace": settings["DALANG_TEMPORAL_NAMESPACE"],
        "taskQueue": settings["DALANG_TASK_QUEUE"],
    }
    assert asked.items() <= trigger["metadata"].items()
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
