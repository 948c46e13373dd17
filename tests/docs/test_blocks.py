"""What the documentation tells people to type is typed here, on one real stack; what it shows as plans is validated.

Shell and Python blocks of a file run in order in one shell, in a folder like a checkout: ``examples/`` and the
``.dalang`` of a running stack, where the addresses of the documentation (127.0.0.1:8400 and Temporal's) are led to that
stack's. Each file has a tenant of its own, so that files run side by side and ``latest`` is their own run.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import yaml

from dalang.activities.mcp.servers import read_servers
from dalang.identity_providers import read_providers
from dalang.llm_models import read_models
from dalang.loading import load_plan
from dalang.patching import OPERATIONS
from dalang.plan import Edge, Node
from dalang.policies import read_policy
from dalang.redaction import Redaction
from dalang.rehearsal import load_options
from dalang.settings import Settings
from dalang.stack.private_files import make_home, write_private
from dalang.stack.supervisor import on_free_ports, stack
from dalang.store.engine import create_engine, system_transaction
from dalang.store.tokens import ensure_token
from tests.docs.markdown import Block, blocks, documents
from tests.forking import forking
from tests.harness import LOOPBACK_ALLOWED, ROOT

NOT_RUN = {
    ("README.md", "make demo", "starts a stack of its own; tests/cli runs it"),
    ("README.md", ".venv/bin/dalang up --node-modules dalang.demo", "runs until Ctrl-C"),
    ("CONTRIBUTING.md", "python -m tests.replay.record", "records histories that are missing; there should be none"),
    ("CONTRIBUTING.md", "python -m dalang.reference", "writes into the checkout; tests hold the files up to date"),
    (
        "docs/decisions.md",
        'temporal workflow update execute --workflow-id run-$RUN --name retry_node --input \'{"nodeId": "charge"}\'',
        "the run above has ended",
    ),
    (
        "docs/replanning.md",
        "temporal workflow update execute --workflow-id run-$RUN --name replan --input "
        """'{"patch": {"set": {"maxInFlight": 5}}, "operator": "kim"}'""",
        "the run above has ended",
    ),
    (
        "docs/waiting.md",
        "temporal workflow signal --workflow-id run-$RUN --name external_event \\",
        "the run above has ended",
    ),
    (
        "docs/waiting.md",
        'curl -X POST "$CALLBACK_URL" -H "Content-Type: application/json" \\',
        "the address is a secret of the service",
    ),
    (
        "docs/encryption.md",
        "RUN=$(dalang start examples/hello.yaml)",
        "needs the codec server on its port; tests/api/test_codec.py runs it",
    ),
    ("docs/encryption.md", "DALANG_ENCRYPTION_KEYS_FILE=keys.json dalang up", "runs until Ctrl-C"),
    ("docs/tenancy.md", "dalang tenant erase acme --cancel --to certificate.json", "erases everything"),
    ("docs/tenancy.md", "dalang retention run --dry-run", "deletes"),
    ("docs/egress.md", "DALANG_EGRESS_ALLOW=127.0.0.1 dalang up", "runs until Ctrl-C; the suite allows the same"),
    ("docs/performance.md", "python benchmarks/startup.py --save", "measures for an hour"),
    ("docs/scale.md", "python benchmarks/costs.py --save", "measures for minutes"),
    ("docs/local-nodes.md", '@node("price", light=True)', "only a sketch"),
    ("docs/operations.md", "dalang up --node-modules my_nodes", "runs until Ctrl-C"),
    ("docs/operations.md", "cp .env.example .env", "needs docker"),
    (
        "docs/events.md",
        "SECRET=whsec_... python examples/webhook_receiver.py 8599",
        "receives until Ctrl-C; tests/publishing runs it on a free port",
    ),
    (
        "docs/events.md",
        "DALANG_KAFKA_URL='kafka://dalang:password@broker-1:9093,broker-2:9093?tls=true' dalang worker",
        "needs a broker; tests/publishing runs one",
    ),
    (
        "docs/events.md",
        "nats stream add DALANG --subjects 'dalang.events.>' --defaults",
        "needs a server; tests/publishing runs one",
    ),
    (
        "docs/llm.md",
        "python examples/model_server.py &",
        "starts a stack of its own; tests/docs/test_llm_examples.py runs the plans",
    ),
    (
        "docs/a2a.md",
        "RUN=$(dalang start examples/a2a.yaml)",
        "needs the agent on its port; tests/docs/test_a2a_example.py runs it",
    ),
    (
        "examples/README.md",
        "python examples/service.py",
        "the service runs until Ctrl-C; tests/docs/test_examples.py runs it on a free port",
    ),
    (
        "examples/README.md",
        "dalang run examples/http.yaml --input item=lamp",
        "needs the service on its port; tests/docs/test_examples.py runs it",
    ),
    ("docs/backup.md", "# 1. Workers and API servers are stopped: nothing may write meanwhile.", "needs a production"),
    ("docs/backup.md", 'pg_dump --format=custom --file=dalang.dump "$OWNER_URL"', "needs a production"),
    (
        "docs/changing-the-workflow.md",
        "export DALANG_WORKER_DEPLOYMENT=dalang DALANG_BUILD_ID=2026-11-22.1",
        "needs versioned workers",
    ),
    (
        "docs/kubernetes.md",
        "docker build -t registry.example.org/dalang:0.1.0 . && docker push registry.example.org/dalang:0.1.0",
        "needs a cluster",
    ),
    ("docs/observability.md", "pip install 'dalang[otel]'", "needs a collector"),
    (
        "docs/provenance.md",
        "dalang subscriptions create marquez --url https://marquez.example.org/api/v1/lineage --format openlineage",
        "needs a receiver",
    ),
    ("docs/provenance.md", "publish@1 SUCCESS  noop, build 0.1.0", "what it says"),
    (
        "docs/temporal-cloud.md",
        "export DALANG_TEMPORAL_PROFILE=cloud DALANG_TEMPORAL_CONFIG_FILE=$PWD/temporal.toml",
        "needs Temporal Cloud",
    ),
    ("docs/peers.md", "python benchmarks/peers/run.py --install", "installs packages, measures for minutes"),
}
"""Blocks that no test runs: file, first line, reason."""

ALL = [block for path in documents() for block in blocks(path)]
RUNNABLE = [block for block in ALL if block.language in ("sh", "python") and not {"not run", "file"} & set(block.marks)]
if shutil.which("curl") is None:
    warnings.warn("there is no curl here: the blocks that need it are not run", stacklevel=1)
    RUNNABLE = [block for block in RUNNABLE if not re.search(r"\bcurl ", block.text)]
SECONDS = 400
"""For one file, on a machine that has much else to do: a bound for what hangs, not what is expected."""
AT_ONCE = 3


def test_what_is_not_run_is_listed() -> None:
    """Whoever adds such a block says so here, and why."""
    marked = {
        (str(block.path.relative_to(ROOT)), block.text.split("\n")[0], block.marks["not run"])
        for block in ALL
        if "not run" in block.marks
    }
    assert marked == NOT_RUN


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "yaml"], ids=str)
def test_yaml_is_a_plan_or_a_part_of_one(block: Block) -> None:
    """Plans validate without a warning; parts have the shape of what they are a part of."""
    if "a node" in block.marks:
        Node.model_validate(yaml.safe_load(block.text))
    elif "edges" in block.marks:
        assert [Edge.model_validate(one) for one in yaml.safe_load(block.text)]
    elif "rehearsal file" in block.marks:
        load_options(yaml.safe_load(block.text))
    elif "patch" in block.marks:
        assert set(yaml.safe_load(block.text)) <= set(OPERATIONS)
    elif str(block.marks.get("file", "")).endswith("policy.yaml"):
        read_policy(block.text)
    elif str(block.marks.get("file", "")).endswith("servers.yaml"):
        read_servers(block.text)
    elif block.marks.get("file") == "redaction.yaml":
        assert Redaction.read(yaml.safe_load(block.text))
    elif str(block.marks.get("file", "")).endswith("models.yaml"):
        assert read_models(block.text).models
    elif str(block.marks.get("file", "")).endswith("providers.yaml"):
        assert read_providers(block.text).providers
    elif not str(block.marks.get("file", "")).startswith("bad"):
        report = load_plan(block.text.encode(), name="plan.yaml")
        assert [str(one) for one in report.problems] == []


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "json"], ids=str)
def test_json_is_json(block: Block) -> None:
    """Shown documents can be parsed."""
    json.loads(block.text)


def test_python_compiles() -> None:
    """Also what is not run."""
    for block in ALL:
        if block.language == "python":
            compile(block.text, str(block), "exec")


async def test_what_the_documentation_says_to_type_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block ends as it should and prints what stands below it."""
    folder = make_home(Path(tempfile.mkdtemp(prefix="dalang-docs-")))
    modules = folder / "modules"
    modules.mkdir()
    names = [block.marks["file"] for block in ALL if block.language == "python" and "file" in block.marks]
    for path in documents():
        _write_files(path, modules)
    # This checkout before one that may be installed, too.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (modules, modules / "examples", ROOT))))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    settings = on_free_ports(
        Settings(
            home=folder / "home",
            node_modules=("dalang.demo", *(Path(name).stem for name in names)),
            egress_allow=LOOPBACK_ALLOWED,
            mcp_servers_file=str(ROOT / "examples" / "mcp-servers.yaml"),
        )
    )
    try:
        async with (
            stack(settings, durable=False) as running,
            forking(folder / "forking", dict(os.environ)) as programs,
        ):
            monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
            slots = asyncio.Semaphore(AT_ONCE)
            paths = list(dict.fromkeys(block.path for block in RUNNABLE))
            paths.sort(key=lambda path: -sum(block.path == path for block in RUNNABLE))
            told = await asyncio.gather(*(_run(path, folder, running.settings, slots) for path in paths))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    failures = [line for lines in told for line in lines]
    assert not failures, "\n\n".join(failures)


def _write_files(path: Path, folder: Path) -> None:
    for block in blocks(path):
        if "file" in block.marks:
            target = folder / block.marks["file"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")


async def _run(path: Path, folder: Path, settings: Settings, slots: asyncio.Semaphore) -> list[str]:
    """Run the blocks of one file; return what went wrong."""
    name = str(path.relative_to(ROOT)).replace("/", "-").removesuffix(".md").lower()
    place = folder / "work" / name
    await _prepare(path, place, name, settings)
    own = [block for block in RUNNABLE if block.path == path]
    script = ["set -eEuo pipefail", "trap 'echo $block >failed' ERR"]
    for block in own:
        (place / f"{block.line}.py").write_text(block.text, encoding="utf-8")
        body = block.text if block.language == "sh" else f"python {block.line}.py\n"
        expected = block.marks.get("exit", "0")
        quoted = shlex.quote(body)
        script += [f"block={block.line}"]
        if expected == "0":
            script += ["{", body, f"}} >{block.line}.out 2>{block.line}.err"]
        else:
            script += [f"set +e; bash -c {quoted} >{block.line}.out 2>{block.line}.err; code=$?; set -e"]
            script += [f"test $code = {expected}"]
    async with slots:
        bash = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            "\n".join(script),
            cwd=place,
            env=_environment(place, settings),
            stdin=asyncio.subprocess.DEVNULL,
        )
        try:
            await asyncio.wait_for(bash.wait(), SECONDS)
        except TimeoutError:
            bash.kill()
            await bash.wait()
            return [f"{path.relative_to(ROOT)} did not end within {SECONDS} s"]
    failures = []
    if bash.returncode != 0:
        at = (place / "failed").read_text().strip() if (place / "failed").exists() else "?"
        said = [(place / f"{at}.{end}").read_text() for end in ("out", "err") if (place / f"{at}.{end}").exists()]
        failures.append(f"{path.relative_to(ROOT)}:{at} failed\n" + "".join(said))
    return failures + _wrong_outputs(path, place)


async def _prepare(path: Path, place: Path, tenant: str, settings: Settings) -> None:
    (place / "curl").mkdir(parents=True)
    api = settings.api_url.removeprefix("http://")
    (place / "curl" / ".curlrc").write_text(f'connect-to = "127.0.0.1:8400:{api}"\nsilent\nshow-error\nmax-time = 30\n')
    shutil.copytree(ROOT / "examples", place / "examples")
    _write_files(path, place)
    home = make_home(place / ".dalang")
    shutil.copy(settings.home / "stack.json", home / "stack.json")
    token = f"dalang_token_of_the_documentation_{tenant}"
    write_private(home / "token", token + "\n")
    engine = create_engine(settings.database_url, pooled=False)
    async with system_transaction(engine) as conn:
        await ensure_token(conn, token, tenant, "local", ["admin"])
    await engine.dispose()


def _environment(place: Path, settings: Settings) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("DALANG_")},
        "CURL_HOME": str(place / "curl"),
        "HOME": str(place),
        "TEMPORAL_ADDRESS": settings.temporal_address,
        "NO_COLOR": "1",
        "no_proxy": "*",
    }


def _wrong_outputs(path: Path, place: Path) -> list[str]:
    failures = []
    before: Block | None = None
    for block in blocks(path):
        if "output" not in block.marks:
            before = block
            continue
        assert before is not None, block
        printed = place / f"{before.line}.out"
        if not printed.exists():
            continue  # a block before it failed
        actual = printed.read_text(encoding="utf-8")
        if not re.fullmatch(_pattern(block.text), _plain(actual)):
            failures.append(f"{block} shows\n{block.text}\nbut it is\n{actual}")
    return failures


_CHANGING = (
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<id>"),
    (r"\b[0-9a-f]{64}\b", "<hash>"),
    (r"\b(?=[0-9a-f]*\d)[0-9a-f]{8}\b", "<id>"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?", "<time>"),
    (r"\d\d:\d\d:\d\d\.\d+", "<time>"),
    (r"\b\d+(\.\d+)?s\b", "<span>"),
    (r"127\.0\.0\.1:\d+", "<address>"),
)


def _plain(text: str) -> str:
    """Return a text without what differs from run to run, and without the widths of columns."""
    for pattern, name in _CHANGING:
        text = re.sub(pattern, name, text)
    lines = (re.sub(r"\s+", " ", line).strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def _pattern(shown: str) -> str:
    """Return what matches a shown output: a line of three dots stands for any lines."""
    return "\n".join("(?s:.*)" if line == "..." else re.escape(line) for line in _plain(shown).split("\n"))
