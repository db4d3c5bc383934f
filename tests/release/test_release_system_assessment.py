"""A system of one's own, started, evaluated and gated as a user would; and what is refused before anything is asked."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lib.evaluation import results, system_settings
from lib.evaluation import settings as evaluation_settings
from lib.index.documents import scan_folder
from lib.platform.errors import ConfigInvalid, GoliveError, NotFound, Refused, Unavailable
from lib.platform.workspace import Workspace
from lib.release import report, system_assessment
from lib.release.assessment import Assessment
from tests.conftest import PROJECT

EXAMPLES = PROJECT / "eval" / "examples"
CASES: list[dict[str, Any]] = [
    {
        "query_id": "backup-proof",
        "query": "How is a backup proven?",
        "gt_answer": "A backup is proven by restoring it into fresh tables.",
        "answerable": True,
        "gold": [{"doc_id": "backups.md", "quote": "A backup is proven by restoring it into fresh tables."}],
    },
    {
        "query_id": "chunk-size",
        "query": "Which chunk of tokens with overlap is the validated default?",
        "gt_answer": "450 tokens with an overlap of ten percent.",
        "answerable": True,
        "gold": [{"doc_id": "chunking.md", "quote": "A chunk of 450 tokens"}],
    },
    {
        "query_id": "rollback-speed",
        "query": "How does a rollback move the pointer back?",
        "gt_answer": "A rollback moves the pointer back in milliseconds.",
        "answerable": True,
        "gold": [{"doc_id": "pointer.md", "quote": "A rollback moves the pointer back in milliseconds"}],
    },
    {
        "query_id": "bread",
        "query": "Which oven suits sourdough?",
        "gt_answer": "The corpus does not say.",
        "answerable": False,
        "gold": [],
    },
]


@pytest.fixture
def service(workspace: Workspace) -> Iterator[str]:
    """The address of the example service over the workspace's corpus; it asks for a key."""
    command = [sys.executable, str(EXAMPLES / "rag_http.py"), "--port", "0", "--corpus", str(workspace.default_corpus)]
    environment = {**os.environ, "RAG_EXAMPLE_KEY": "the-key-of-the-example"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        yield process.stdout.readline().strip()
        process.terminate()


@pytest.fixture(autouse=True)
def small_gates(workspace: Workspace) -> None:
    gates = yaml.safe_load((workspace.configs / "gates.yaml").read_text(encoding="utf-8"))
    gates |= {"min_cases": 2, "min_documents": 2}
    for limits in gates["metrics"].values():
        if "floor" in limits:
            limits["floor"] = 0.0
    (workspace.configs / "gates.yaml").write_text(yaml.safe_dump(gates), encoding="utf-8")


def test_the_example_service_is_evaluated_and_compared_with_itself(
    workspace: Workspace, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAG_EXAMPLE_KEY", "the-key-of-the-example")
    first = assess(workspace, url=service, key_variable="RAG_EXAMPLE_KEY", name="first")
    assert (first.verdict, first.content["baseline_release"]) == ("PASS", None)
    assert first.content["reasons"] == ["no baseline was given to compare with; every absolute limit is met"]
    values = {item["metric"]: item["value"] for item in first.content["metrics"]}
    assert (values["oracle_hit_rate"], values["filter_hit_rate"], values["recall"]) == (1.0, 1.0, 1.0)
    assert "avg_snapshot_size" not in values and "avg_snapshot_size" in first.content["warnings"][0]
    second = assess(workspace, url=service, key_variable="RAG_EXAMPLE_KEY", name="second", baseline=first.folder)
    assert (second.verdict, second.content["baseline_release"]) == ("PASS", "first")
    for name in ("case_results.jsonl", "ragchecker.json"):
        assert (first.folder / "evaluation" / name).read_bytes() == (second.folder / "evaluation" / name).read_bytes()
    written = b"".join(path.read_bytes() for path in workspace.root.rglob("*") if path.is_file())
    assert b"the-key-of-the-example" not in written


def test_the_command_gives_what_the_service_gives_and_a_worse_one_fails(workspace: Workspace) -> None:
    corpus = scan_folder(workspace.default_corpus, "corpus").documents
    command = f"{sys.executable} {EXAMPLES / 'rag_command.py'} --corpus {workspace.default_corpus}"
    good = assess(workspace, command=command, name="good", documents=corpus)
    assert good.verdict == "PASS"
    assert good.content["inputs"]["gold_corpus_digest"]
    (workspace.root / "mute.py").write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    print(json.dumps({'query_id': json.loads(line)['query_id'], 'answer': '', 'contexts': []}), flush=True)\n"
    )
    bad = assess(workspace, command=f"{sys.executable} mute.py", name="bad", documents=corpus, baseline=good.folder)
    assert bad.verdict in ("FAIL", "INCONCLUSIVE", "ERROR")  # three cases prove no harm; an answer's noise has no value
    assert "no answer came with a snapshot: oracle_hit_rate looks at the contexts" in " ".join(bad.content["warnings"])


def test_the_script_exits_with_the_verdict_and_a_system_that_fails_on_some_never_passes(
    workspace: Workspace, run_script: Any
) -> None:
    write_cases(workspace, CASES)
    (workspace.root / "flaky.py").write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    asked = json.loads(line)\n"
        "    more = {'error': 'no index'} if 'rollback' in asked['query'] else {'answer': 'a', 'contexts': []}\n"
        "    print(json.dumps({'query_id': asked['query_id'], **more}), flush=True)\n"
    )
    command = [
        "--command",
        shlex.join([sys.executable, "flaky.py"]),
        "--name",
        "flaky",
        "--cases",
        workspace_cases(workspace),
    ]
    tried = run_script("evaluate_system", *command, "--dry-run", "--json")
    assert (tried.code, tried.json["cases"], tried.json["answer"]) == (0, 4, "a")
    assert not (workspace.root / "metrics" / "systems").exists()
    done = run_script("evaluate_system", *command, "--json")
    assert done.json["verdict"]["cases"]["unscored"] == 1
    assert (done.json["verdict"]["verdict"], done.code) in (("ERROR", 13), ("INCONCLUSIVE", 4), ("FAIL", 3))
    folder = workspace.root / "metrics" / "systems" / "flaky"
    assert json.loads((folder / "verdict.json").read_text()) == done.json["verdict"]
    assert done.json["report"] == "metrics/systems/flaky/report.html"
    assert {name for name in report.FILES if (folder / name).exists()} == set(report.FILES)
    rows = [json.loads(line) for line in (folder / "evaluation" / "case_results.jsonl").read_text().splitlines()]
    assert {row["query_id"]: row["unscored"] for row in rows if row["unscored"]} == {
        "rollback-speed": "system: it reports an error: no index"
    }


def test_too_few_cases_and_unanswerable_ones_alone_decide_nothing(workspace: Workspace) -> None:
    command = f"{sys.executable} {EXAMPLES / 'rag_command.py'} --corpus {workspace.default_corpus}"
    only = assess(workspace, command=command, name="few", cases=CASES[:1])
    assert only.verdict == "INCONCLUSIVE"
    assert "1 answerable cases, at least 2 are needed" in only.content["reasons"]
    none = assess(workspace, command=command, name="none", cases=CASES[3:])
    assert none.verdict in ("INCONCLUSIVE", "ERROR")


def test_no_case_at_all_is_named_before_anything_is_asked(workspace: Workspace) -> None:
    with pytest.raises(ConfigInvalid, match="cases needs at least 1 entries"):
        assess(workspace, command="nothing-is-started", cases=[])


def test_gold_that_was_deleted_from_the_corpus_is_named_before_anything_is_asked(workspace: Workspace) -> None:
    (workspace.default_corpus / "pointer.md").unlink()
    documents = scan_folder(workspace.default_corpus, "corpus").documents
    with pytest.raises(ConfigInvalid, match="1 quotes do not stand in the corpus") as caught:
        assess(workspace, command="nothing-is-started", documents=documents)
    assert "rollback-speed: no document pointer.md" in caught.value.detail


@pytest.mark.parametrize("changed", ["cases", "corpus", "settings", "same folder"])
def test_a_baseline_that_was_measured_otherwise_is_refused(workspace: Workspace, changed: str) -> None:
    (workspace.root / "echo.py").write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    print(json.dumps({'query_id': json.loads(line)['query_id'], 'answer': 'a', 'contexts': []}), flush=True)\n"
    )
    command = f"{sys.executable} echo.py"
    documents = scan_folder(workspace.default_corpus, "corpus").documents
    baseline = assess(workspace, command=command, name="before", documents=documents).folder
    if changed == "settings":
        path = workspace.configs / "evaluation.yaml"
        path.write_text(path.read_text(encoding="utf-8").replace("least_held: 0.6", "least_held: 0.5"))
    with pytest.raises(Refused, match="measured otherwise: another" if changed != "same folder" else "written over"):
        assess(
            workspace,
            command=command,
            name="before" if changed == "same folder" else "after",
            cases=CASES[:3] if changed == "cases" else CASES,
            documents=[] if changed == "corpus" else documents,
            baseline=baseline,
        )


def test_a_fresh_judging_and_a_judge_without_a_temperature_are_passed_on(workspace: Workspace) -> None:
    write_cases(workspace, CASES)
    path = workspace.configs / "evaluation.yaml"
    text = path.read_text(encoding="utf-8").replace("send_temperature: true", "send_temperature: false")
    path.write_text(text, encoding="utf-8")
    planned = system_assessment.plan(
        workspace,
        evaluation_settings.load(workspace, use_bedrock=True),
        cases_path=Path(workspace_cases(workspace)),
        documents=[],
        baseline=None,
        folder=workspace.root / "out",
        fresh_judging=True,
    )
    assert planned.request.fresh_judging
    found = results.Evaluation({"system": {"answers_with_a_snapshot": 1}}, [])
    assert sum("is sent no temperature" in line for line in system_assessment._remarks(planned, found)) == 1


def test_another_system_is_compared_under_equal_settings(workspace: Workspace) -> None:
    before = evaluation_settings.load(workspace).digest
    path = workspace.configs / "evaluation.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("127.0.0.1:8000", "rag.example:9000"))
    assert evaluation_settings.load(workspace).digest == before


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({}, "no system of your own is named"),
        ({"command": "  "}, "system.command is empty"),
        ({"command": "'"}, "--command cannot be read"),
        ({"url": "ftp://x"}, "system.url"),
        ({"url": "http://me:secret@host/x"}, "system.url"),
        ({"url": "http://host/x?key=secret"}, "system.url"),
        ({"url": "http://host/x", "name": "../up"}, "system.name"),
    ],
)
def test_what_names_no_system_is_refused(workspace: Workspace, named: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigInvalid, match=message):
        choose(workspace, **named)


def test_a_file_names_a_system_over_the_config_and_flags_over_the_file(workspace: Workspace) -> None:
    example = choose(workspace, file=str(EXAMPLES / "system.yaml"))
    assert (example["kind"], example["name"]) == ("command", "example")
    assert example["timeout_s"] == choose(workspace, url="http://host/x")["timeout_s"], "what it leaves out is the config's"
    assert choose(workspace, file=str(EXAMPLES / "system.yaml"), name="mine")["name"] == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: http", "must hold a system: block and nothing else"),
        ("system: {kind: http}\nreader: {}", "must hold a system: block and nothing else"),
        ("system: {kind: http, adress: http://host/x}", "adress"),
        ("system: [", "not valid YAML"),
    ],
)
def test_a_file_that_names_no_system_is_refused(workspace: Workspace, text: str, message: str) -> None:
    (workspace.root / "system.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigInvalid, match=message):
        choose(workspace, file=str(workspace.root / "system.yaml"))


@pytest.mark.parametrize(
    ("command", "kind"), [("./nowhere", NotFound), (f"{sys.executable} -c 'import sys; sys.exit(3)'", Unavailable)]
)
def test_a_system_that_never_answers_is_an_error_and_leaves_nothing(
    workspace: Workspace, command: str, kind: type[GoliveError]
) -> None:
    many = [{**CASES[3], "query_id": f"q{number:02d}"} for number in range(25)]
    with pytest.raises(kind):
        assess(workspace, command=command, name="away", cases=many)
    assert not list((workspace.root / "metrics").rglob("*.*"))


def choose(workspace: Workspace, **named: Any) -> dict[str, Any]:
    settings = evaluation_settings.load(workspace)
    return system_settings.chosen(settings, **{"url": None, "command": None, "name": None, **named})


def assess(
    workspace: Workspace,
    *,
    cases: list[dict[str, Any]] = CASES,
    documents: Any = (),
    baseline: Path | None = None,
    key_variable: str = "",
    **named: Any,
) -> Assessment:
    values = {**choose(workspace, **named), "key_variable": key_variable, "attempts": 1}
    write_cases(workspace, cases)
    planned = system_assessment.plan(
        workspace,
        evaluation_settings.load(workspace),
        cases_path=Path(workspace_cases(workspace)),
        documents=list(documents),
        baseline=baseline,
        folder=workspace.root / "metrics" / "systems" / values["name"],
    )
    system = system_settings.make_system(workspace, values)
    try:
        return system_assessment.assess(workspace, system, planned)
    finally:
        system.close()


def workspace_cases(workspace: Workspace) -> str:
    return str(workspace.root / "cases.json")


def write_cases(workspace: Workspace, cases: list[dict[str, Any]]) -> None:
    Path(workspace_cases(workspace)).write_text(json.dumps({"schema_version": 1, "cases": cases}), encoding="utf-8")
