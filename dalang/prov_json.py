"""Provenance as W3C PROV-JSON (https://www.w3.org/submissions/prov-json/): for whoever reads PROV rather than Dalang.

An execution is an activity; its inputs and its outputs are an entity each, known by digest. Plans, code and secrets are
entities that it used; workers, agents, models and people are agents that it is associated with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from dalang.provenance_walk import givers, sources_of

NAMESPACE = "urn:dalang:prov#"
_PERSON, _SOFTWARE, _PLAN = "prov:Person", "prov:SoftwareAgent", "prov:Plan"
Json = dict[str, Any]


def prov_document(told: Mapping[str, Any], executions: Sequence[Mapping[str, Any]]) -> Json:
    """Return the PROV-JSON document of a run: ``told`` is what is known of the run, ``executions`` all of its own."""
    put_out = {one["id"] for one in executions if one.get("outputs") is not None}
    document = Whole(put_out)
    document.records["prefix"] = prefixes(told["runId"])
    document.run(told)
    for execution in executions:
        document.execution(execution)
    document.end(told)
    return document.records


def prefixes(run_id: str) -> Json:
    """Return the namespaces of a run's document."""
    return {"dalang": NAMESPACE, "run": f"urn:dalang:run:{run_id}#", "plan": "urn:dalang:plan:sha256:"}


class Records(ABC):
    """The records of a document, one after the other; ``put_out`` are the executions that have outputs."""

    def __init__(self, put_out: Collection[str]) -> None:
        self._put_out = put_out

    @abstractmethod
    def put(self, kind: str, name: str, attributes: Mapping[str, Any]) -> str:
        """Take what is known of an entity, an activity or an agent, and return its name."""

    @abstractmethod
    def relate(self, kind: str, **ends: str | None) -> None:
        """Take a relation between some."""

    def _given(self, execution: str) -> str:
        """Return what others took from an execution: its outputs, or its error where it has none."""
        return self.put("entity", self._given_name(execution), {})

    def _given_name(self, execution: str) -> str:
        return f"run:{'outputs' if execution in self._put_out else 'error'}/{_local(execution)}"

    def _agent(self, kind: str, name: str, type_: str, **attributes: Any) -> str:
        more = {f"dalang:{key}": value for key, value in attributes.items()}
        label = {"prov:type": _qualified(type_), "prov:label": name}
        return self.put("agent", f"dalang:{kind}/{_local(name)}", {**label, **more})

    def _value(self, name: str, label: str, value: Mapping[str, Any] | None) -> str:
        digest = (value or {}).get("digest")
        return self.put("entity", name, {"prov:label": label, "dalang:digest": digest})

    def _plan(self, digest: str) -> str | None:
        return self.put("entity", f"plan:{digest}", {"prov:type": _qualified(_PLAN)}) if digest else None

    def run(self, told: Mapping[str, Any]) -> None:
        """Take what is known of the run when it began."""
        times = {"prov:startTime": told.get("startedAt"), "prov:endTime": told.get("completedAt")}
        name = self.put("activity", "run:run", {"prov:label": told.get("planName"), **times})
        self._value("run:inputs", "inputs of the run", told.get("inputs"))
        self.relate("used", activity=name, entity="run:inputs")
        if told.get("createdBy"):
            person = self._agent("person", told["createdBy"], _PERSON)
            self.relate("wasAssociatedWith", activity=name, agent=person, plan=self._plan(told.get("plan", "")))
        above = told.get("parent") or {}
        for run, node in ((above.get("runId"), above.get("nodeId")), (told.get("redriveOf"), None)):
            if run:
                other = f"dalang:run/{run}" + (f"/{_local(node)}" if node else "")
                self.put("activity", other, {"prov:label": f"run {run}"})
                self.relate("wasInformedBy", informed=name, informant=other)

    def execution(self, one: Mapping[str, Any]) -> None:
        """Take an execution."""
        name = _activity(one["id"])
        self.put(
            "activity",
            name,
            {
                "prov:startTime": one.get("startedAt"),
                "prov:endTime": one.get("endedAt"),
                "prov:label": one["nodeId"],
                "dalang:status": one.get("status"),
                "dalang:kind": one["kind"],
                "dalang:nodeType": one.get("type"),
            },
        )
        self.relate("wasInformedBy", informed=name, informant="run:run")
        if one.get("inputs") is not None:
            self._inputs(name, one)
        for part, label in (("outputs", "outputs"), ("error", "error")):
            if one.get(part) is not None:
                entity = self._value(f"run:{part}/{_local(one['id'])}", f"{label} of {one['nodeId']}", one[part])
                self.relate("wasGeneratedBy", entity=entity, activity=name)
                if one.get("keptFrom"):
                    before = f"dalang:run/{one['keptFrom']}/{_local(one['nodeId'])}/{part}"
                    self.put("entity", before, {"prov:label": f"{label} of {one['nodeId']} in run {one['keptFrom']}"})
                    self.relate("wasDerivedFrom", generatedEntity=entity, usedEntity=before)
        self._agents(name, one)

    def _inputs(self, name: str, one: Mapping[str, Any]) -> None:
        entity = self._value(f"run:inputs/{_local(one['id'])}", f"inputs of {one['nodeId']}", one["inputs"])
        self.relate("used", activity=name, entity=entity)
        sources = sources_of(one)
        for giver in givers(sources):
            given = self._given(giver)
            self.relate("wasDerivedFrom", generatedEntity=entity, usedEntity=given)
            self.relate("wasInformedBy", informed=name, informant=_activity(giver))
        if any(read["of"] in ("inputs", "index") for source in sources for read in source.get("reads", ())):
            self.relate("wasDerivedFrom", generatedEntity=entity, usedEntity="run:inputs")
        plan = self._plan(one.get("plan", ""))
        if plan and any(source["from"] in ("literal", "default", "expression") for source in sources):
            self.relate("wasDerivedFrom", generatedEntity=entity, usedEntity=plan)
        for secret in dict.fromkeys(secret for source in sources for secret in source.get("secrets", ())):
            used = self.put("entity", f"dalang:secret/{_local(secret)}", {"prov:label": f"secret {secret}"})
            self.relate("used", activity=name, entity=used)
        for person in dict.fromkeys(source.get("operator") for source in sources):
            if person:
                given_by = self._agent("person", person, _PERSON)
                self.relate("wasAttributedTo", entity=entity, agent=given_by)

    def _agents(self, name: str, one: Mapping[str, Any]) -> None:
        plan = self._plan(one.get("plan", ""))
        found = []
        if one.get("worker"):
            found.append(self._agent("worker", one["worker"], _SOFTWARE, build=one.get("build")))
        if one.get("agent"):
            found.append(self._agent("agent", one["agent"], _SOFTWARE))
        model = one.get("model") or {}
        if model.get("name"):
            version = model.get("version")
            label = f"{model['name']} {version}" if version else model["name"]
            found.append(self._agent("model", label, _SOFTWARE, provider=model.get("provider"), version=version))
        found += [self._agent("person", person, _PERSON) for person in one.get("people", ())]
        for agent in found:
            self.relate("wasAssociatedWith", activity=name, agent=agent, plan=plan)
        code = one.get("implementation") or {}
        if code.get("coordinate"):
            coordinate, digest = code["coordinate"], code.get("digest")
            attributes = {"prov:label": coordinate, "dalang:digest": digest, "dalang:type": code.get("type")}
            used = self.put("entity", f"dalang:code/{_local(digest or coordinate)}", attributes)
            self.relate("used", activity=name, entity=used)

    def end(self, told: Mapping[str, Any]) -> None:
        """Take what the run came to, after all executions."""
        outputs = told.get("outputs")
        if outputs is None:
            return
        entity = self._value("run:outputs", "outputs of the run", outputs)
        self.relate("wasGeneratedBy", entity=entity, activity="run:run")
        for giver in givers(outputs["sources"]):
            given = self._given(giver)
            self.relate("wasDerivedFrom", generatedEntity=entity, usedEntity=given)


class Whole(Records):
    """All records at once."""

    def __init__(self, put_out: Collection[str]) -> None:
        super().__init__(put_out)
        self.records: Json = {}

    def put(self, kind: str, name: str, attributes: Mapping[str, Any]) -> str:
        """Take what is known of an entity, an activity or an agent, and return its name."""
        record = self.records.setdefault(kind, {}).setdefault(name, {})
        record |= {key: value for key, value in attributes.items() if value is not None and key not in record}
        return name

    def relate(self, kind: str, **ends: str | None) -> None:
        """Take a relation between some."""
        records = self.records.setdefault(kind, {})
        records[f"_:{kind}{len(records) + 1}"] = {f"prov:{end}": name for end, name in ends.items() if name}


def _activity(execution: str) -> str:
    return f"run:node/{_local(execution)}"


def _local(name: str) -> str:
    return quote(name, safe="@")


def _qualified(name: str) -> Json:
    return {"$": name, "type": "prov:QUALIFIED_NAME"}
