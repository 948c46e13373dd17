"""Policies before a run and before each node: rules of a file, OPA, the seeds' policy service."""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dalang import watched_file
from dalang.enforcement import Enforcer
from dalang.errors import Denied
from dalang.settings import Settings, SettingsError
from tests.api.test_schedules import created, stored, trigger, until
from tests.api.world import Api, chain, problem

RULES = """
rules:
  - {name: night, applies: run, when: inputs.?hour.orValue(12) < 6, effect: deny, message: Nothing starts at night.}
  - {name: viewers, applies: run, when: '!("operator" in roles) && plan.name == "secret"', effect: deny}
  - {name: echo-is-fine, applies: node, when: node.type == "api-test-echo" && node.id == "n1", effect: allow}
  - {name: no-flaky, applies: node, when: node.type == "api-test-flaky", effect: deny, message: Not this one.}
"""
REGO = """package dalang

decision := {"allow": false, "rule": "night", "reason": "Nothing starts at night."} if {
    input.applies == "run"
    input.inputs.hour < 6
}

decision := {"allow": false, "rule": "no-flaky"} if {
    input.applies == "node"
    input.node.type == "api-test-flaky"
}

decision := true if {
    input.applies == "node"
    input.node.type == "api-test-echo"
}

decision := true if {
    input.applies == "run"
    not input.inputs.hour < 6
}
"""
SUBJECT: dict[str, Any] = {"tenant": "t", "plan": {"id": "p", "name": "n"}, "requester": "kim", "inputs": {}}
NODE: dict[str, Any] = {**SUBJECT, "node": {"id": "a", "type": "noop"}}
Answer = Callable[[str, Any], tuple[int, Any]]


def by_hand(path: str, body: Any) -> tuple[int, Any]:
    """Answer as OPA does with the rules of REGO."""
    asked = body["input"]
    if path != "/v1/data/dalang/decision":
        return 200, {}
    if asked["applies"] == "run":
        late = asked["inputs"].get("hour", 12) < 6
        denied = {"allow": False, "rule": "night", "reason": "Nothing starts at night."}
        return 200, {"result": denied if late else True}
    kind = asked["node"]["type"]
    known = {"api-test-flaky": {"allow": False, "rule": "no-flaky"}, "api-test-echo": True}
    return 200, {"result": known[kind]} if kind in known else {}


def by_opa() -> Answer:
    """Answer with the real Open Policy Agent, where its library is installed."""
    opa = importlib.import_module("opa_bindings")
    rules = opa.OpaEngine()
    rules.add_policy("dalang.rego", REGO)

    def answer(path: str, body: Any) -> tuple[int, Any]:
        try:
            return 200, {"result": rules.eval_document(path.removeprefix("/v1/data/").replace("/", "."), body["input"])}
        except opa.OpaUndefinedError:
            return 200, {}

    return answer


class Service:
    """A policy service on loopback; ``answer`` says what it answers, ``seen`` what it was asked."""

    def __init__(self) -> None:
        self.answer: Answer = by_hand
        self.seen: list[tuple[str, Any]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                service.seen.append((self.path, body))
                status, answer = service.answer(self.path, body)
                encoded = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(encoded)))
                self.end_headers()
                self.wfile.write(encoded)

            def log_message(self, *words: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.close()


@pytest.fixture(params=["file", "opa-by-hand", "opa"])
def source(request: pytest.FixtureRequest, service: Service, tmp_path: Path) -> dict[str, str]:
    """The settings of one source of the same rules."""
    if request.param == "file":
        file = tmp_path / "policy.yaml"
        file.write_text(RULES)
        return {"policy_file": str(file)}
    if request.param == "opa":
        pytest.importorskip("opa_bindings", reason="the library that embeds OPA is not installed (dev extra)")
        service.answer = by_opa()
    return {"opa_url": f"{service.address}/v1/data/dalang/decision"}


@pytest.fixture
def settings(settings: Settings, source: dict[str, str]) -> Settings:
    """The settings of the test, with the policy."""
    return settings.model_copy(update=source)


async def test_a_run_and_a_node_are_denied_by_name(api: Api, working: None) -> None:
    """The run with 403 and without a trace, the node before its handler begins, with the rule's name in its event."""
    response = await api("POST", "/orchestrator/execute", json={"plan": chain("noop"), "inputs": {"hour": 3}})
    told = problem(response, 403)
    assert (told["type"], told["rule"]) == ("urn:dalang:problem:policy-violation", "night")
    assert told["errorType"] == "POLICY_VIOLATION"
    assert "at night" in told["detail"]
    assert (await api.get("/orchestrator/runs"))["items"] == []

    run_id = await api.execute(chain("api-test-echo", "api-test-flaky"), inputs={"hour": 12})
    run = await api.ended(run_id)
    assert run["status"] == "FAILED"
    assert run["error"]["type"] == "POLICY_VIOLATION"
    assert run["error"]["retryable"] is False
    assert run["error"]["noEffect"] is True
    assert run["error"]["details"]["rule"] == "no-flaky"
    events = (await api.get(f"/orchestrator/runs/{run_id}/events"))["items"]
    failed = next(one for one in events if one["type"] == "NODE_FAILED")
    assert failed["data"]["policy"] == {"effect": "deny", "rule": "no-flaky"}
    done = next(one for one in events if one["type"] == "NODE_COMPLETED")
    assert done["data"]["policy"]["effect"] == "allow"


async def test_a_schedule_tells_what_denied_its_run(api: Api, working: None) -> None:
    """There is no run that could show it."""
    plan = await stored(api, "noop")
    address = await created(api, plan, inputs={"hour": 1})
    await trigger(api, address)
    found = await until(api, address, lambda one: one["lastError"])
    assert found["lastError"]["type"] == "POLICY_VIOLATION"
    assert "night" in found["lastError"]["message"]


# -- the enforcer alone ------------------------------------------------------------------------------------------------


def enforcer(**values: Any) -> Enforcer:
    return Enforcer(Settings(policy_timeout_seconds=values.pop("seconds", 5), **values))


async def test_nothing_configured_asks_nothing() -> None:
    """And lets everything through."""
    assert not enforcer().active
    assert (await enforcer().check_node({})).data() == {"effect": "allow", "rule": None}


async def test_an_undefined_decision_of_opa_denies(service: Service) -> None:
    """OPA answers an empty object where the document has no value."""
    asking = enforcer(opa_url=f"{service.address}/v1/data/other")
    with pytest.raises(Denied) as denied:
        await asking.check_run(SUBJECT)
    assert (denied.value.rule, denied.value.away) == ("opa-undefined", False)
    assert not (await asking.check_node(NODE)).allowed
    await asking.close()


@pytest.mark.parametrize("answer", [(500, {}), (200, b"{oops"), (200, []), (404, {"result": True})])
async def test_what_is_no_answer_denies(service: Service, answer: tuple[int, Any]) -> None:
    """For nodes the setting decides, for runs nothing does."""
    service.answer = lambda path, body: answer
    for when_away, allowed in (("deny", False), ("allow", True)):
        asking = enforcer(opa_url=service.address, policy_when_away=when_away)
        with pytest.raises(Denied) as denied:
            await asking.check_run(SUBJECT)
        assert denied.value.away
        decision = await asking.check_node(NODE)
        assert decision.allowed is allowed
        assert decision.data()["away"] is True
        await asking.close()


async def test_a_service_that_is_gone_denies(service: Service) -> None:
    """Nobody listens any more."""
    service.close()
    asking = enforcer(policy_url=service.address)
    with pytest.raises(Denied):
        await asking.check_run(SUBJECT)
    assert not (await asking.check_node(NODE)).allowed
    await asking.close()


async def test_the_policy_service_of_the_seeds(service: Service) -> None:
    """Its two addresses, what it is asked, and its reason."""
    service.answer = lambda path, body: (
        200,
        {"allowed": path.endswith("execution"), "reason": "No.", "metadata": None},
    )
    asking = enforcer(policy_url=service.address + "/")
    assert (await asking.check_run(SUBJECT)).rule == "policy-service"
    decision = await asking.check_node(NODE)
    assert (decision.allowed, decision.message) == (False, "No.")
    (run_path, run), (node_path, node) = service.seen
    assert (run_path, node_path) == ("/policy/validate/execution", "/policy/validate/node")
    assert (run["tenantId"], run["planId"], run["context"]["requester"]) == ("t", "p", "kim")
    assert (node["nodeId"], node["nodeType"]) == ("a", "noop")
    await asking.close()


async def test_all_that_are_configured_must_allow(service: Service, tmp_path: Path) -> None:
    """What the file denies is asked of nobody; what it allows OPA may still deny."""
    file = tmp_path / "policy.yaml"
    file.write_text("rules: [{name: kim, when: requester == 'kim', effect: allow}, {name: rest, effect: deny}]")
    asking = enforcer(policy_file=str(file), opa_url=service.address)
    with pytest.raises(Denied, match="rest"):
        await asking.check_run({**SUBJECT, "requester": "lee"})
    assert service.seen == []
    with pytest.raises(Denied, match="opa-undefined"):
        await asking.check_run(SUBJECT)
    await asking.close()


async def test_a_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change for the worse leaves the rules as they are."""
    monkeypatch.setattr(watched_file, "LOOK_SECONDS", 0.0)
    file = tmp_path / "policy.yaml"
    file.write_text("rules: []")
    asking = enforcer(policy_file=str(file))
    assert (await asking.check_node(NODE)).allowed
    file.write_text("default: deny\nrules: []")
    assert not (await asking.check_node(NODE)).allowed
    file.write_text("default: [")
    assert not (await asking.check_node(NODE)).allowed
    file.unlink()
    assert not (await asking.check_node(NODE)).allowed
    file.write_text("rules: []  # as at first")
    assert (await asking.check_node(NODE)).allowed


def test_problems_of_the_file_end_the_start(tmp_path: Path) -> None:
    """All of them are named, with the file."""
    file = tmp_path / "policy.yaml"
    file.write_text("default: maybe\nrules: [{name: a, effect: deny, when: 'a b'}]")
    with pytest.raises(SettingsError) as told:
        enforcer(policy_file=str(file))
    assert "/default" in str(told.value)
    assert "/rules/0/when" in str(told.value)
    with pytest.raises(SettingsError, match="cannot be read"):
        enforcer(policy_file=str(tmp_path / "none.yaml"))


def test_allowing_nodes_nobody_was_asked_about_is_not_for_production() -> None:
    """The seeds' default is a setting for trying out."""
    with pytest.raises(SettingsError, match="production"):
        Settings.of({"production": True, "policy_when_away": "allow"})
    assert Settings.of({"production": True}).policy_when_away == "deny"
