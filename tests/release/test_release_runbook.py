"""The runbook of a locked config: every command in it can be pasted, and names what is really there."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
from pathlib import Path

import pytest

from lib.release import runbook
from lib.release.steps import STEPS

PROJECT = Path(__file__).resolve().parents[2]
SCRIPTS = PROJECT / "scripts"


def test_every_command_runs_a_script_that_is_there_with_flags_that_it_takes(make_config, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    commands = scripts_of(runbook.render(make_config(), PROJECT))
    assert len(commands) >= 8
    for python, script, *arguments in commands:
        assert python == ".venv/bin/python"
        assert (PROJECT / script).is_file(), script
        build_parser = runpy.run_path(str(PROJECT / script))["build_parser"]
        build_parser().parse_args(arguments)  # an unknown flag ends the test
        said = build_parser().format_help()
        assert all(argument in said for argument in arguments if argument.startswith("--"))


def test_the_scripts_of_a_release_stand_in_the_order_of_its_steps(make_config):
    named = [Path(command[1]).name for command in scripts_of(runbook.render(make_config(), PROJECT))]
    after_lock = [step.script for step in STEPS if step.name not in ("sync", "lock")]
    assert [name for name in named if name in after_lock] == after_lock


def test_every_make_target_that_it_names_is_there(make_config):
    named = re.findall(r"`make ([a-z-]+)", runbook.render(make_config(), PROJECT))
    assert "rollback" in named
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= set(targets)


@pytest.mark.parametrize("name", ["project", "a project", "it's $HOME; exit 1", 'say "so"'])
def test_its_environment_can_be_pasted_whatever_the_folder_is_called(make_config, tmp_path, name):
    config = make_config(chunk_size=300, overlap_ratio=0.25, jaccard_threshold=0.9, prefix_policy="B")
    root = tmp_path / name
    (root / "configs").mkdir(parents=True)
    shipped = (PROJECT / "configs" / "deterministic_evaluation.env").read_text(encoding="utf-8")
    (root / "configs" / "deterministic_evaluation.env").write_text(shipped, encoding="utf-8")
    block = blocks_of(runbook.render(config, root))[0]
    show = "python3 -c 'import json, os; print(json.dumps([os.getcwd(), dict(os.environ)]))'"
    done = subprocess.run(["bash", "-euc", f"{block}\n{show}"], capture_output=True, text=True, check=True, cwd="/")
    folder, found = json.loads(done.stdout)
    assert (folder, found["GOLIVE_HOME"]) == (str(PROJECT), str(root))
    expected = {
        "CHUNK_SIZE": "300",
        "OVERLAP_RATIO": "0.25",
        "JACCARD_THRESHOLD": "0.9",
        "PREFIX_POLICY": "B",
        "CHUNK_VERSION": config.chunk_version,
        "INGEST_RUN_ID": config.ingest_run_id,
        "TEMPERATURE": "0",
        "EVAL_DISABLE_CACHE": "1",
        "PROMPT_AUDIT": "1",
        "RANDOM_SEED": "42",
    }
    assert {variable: found.get(variable) for variable in expected} == expected


def test_its_commands_are_where_it_goes(sealed):
    text = runbook.write(sealed.workspace, sealed.release().locked_config).read_text(encoding="utf-8")
    line = f"{blocks_of(text)[0]}\n.venv/bin/python scripts/status.py"
    done = subprocess.run(["bash", "-euc", line], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_command_waits_for_something_to_be_filled_in(make_config):
    text = "\n".join(blocks_of(runbook.render(make_config(), PROJECT)))
    assert not re.search(r"[<>{}]|\.\.\.|TODO", text)


def test_what_was_locked_by_whom_and_when_is_said(make_config):
    config = make_config()
    head = runbook.render(config, PROJECT).split("## ")[0]
    for said in (config.ingest_run_id, "2026-01-02T03:04:05Z", "tester@host", "chunk 450 tokens", "policy A", "MiniLM"):
        assert said in head


def test_the_script_that_locks_writes_it_where_asked(sealed, run_script):
    done = run_script("lock_production_config", "--generate-runbook", "--source", "corpus", "--json")
    assert done.code == 0, done.err
    config = sealed.release().locked_config
    assert done.json["runbook"] == f"configs/locked_configs/runbook-{config.chunk_version}.md"
    written = (sealed.workspace.root / done.json["runbook"]).read_text(encoding="utf-8")
    assert written == runbook.render(config, sealed.workspace.root)


def test_a_dry_run_writes_none(sealed, run_script):
    done = run_script("lock_production_config", "--generate-runbook", "--source", "corpus", "--dry-run")
    assert done.code == 0, done.err
    assert not list(sealed.workspace.locked_configs.glob("runbook*"))


def blocks_of(text: str) -> list[str]:
    """The shell blocks of a Markdown text."""
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def scripts_of(text: str) -> list[list[str]]:
    """The commands that run a script, as words."""
    commands = [shlex.split(line) for block in blocks_of(text) for line in block.splitlines()]
    return [words for words in commands if words and "python" in words[0]]
