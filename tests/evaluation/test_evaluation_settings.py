"""Settings: what a shell would export, what is not reproducible, and a digest that covers all of it."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lib.config import embedder_files
from lib.evaluation import settings
from lib.evaluation.settings import EvaluationSettings
from lib.platform.errors import ConfigInvalid, NotFound
from lib.platform.workspace import Workspace

PROJECT = Path(__file__).resolve().parents[2]
SHIPPED = settings.determinism(Workspace(PROJECT), {})


def test_the_shipped_file_is_read_as_a_shell_reads_it():
    assert settings.environment_file(Workspace(PROJECT)) == exported(PROJECT / "configs" / "deterministic_evaluation.env")


@pytest.mark.parametrize(
    "line",
    [
        "export A=1",
        "export A=",
        'export A="1 2"',
        "export A='1 2'",
        "export A_1=x=y",
        "export A=1,2,3",
        "export A=first\nexport A=second",
        "# export A=1\n\nexport B=2",
        "export A=1 # a comment",
        "export A=1 ",
        "export A=\"it's\"'",
        "export A=1 B=2",
        "export A=$HOME",
        "export A=a\\ b",
        "export A=1;",
    ],
)
def test_a_line_is_read_as_a_shell_reads_it_or_refused(workspace, line):
    path = workspace.configs / "deterministic_evaluation.env"
    path.write_text(f"{line}\n", encoding="utf-8")
    try:
        found = settings.environment_file(workspace)
    except ConfigInvalid:
        return
    assert found == exported(path)


@pytest.mark.parametrize("line", ["A=1", "export a=1", "export A", "  export A=1", "echo hello", "set -e"])
def test_a_line_of_another_form_is_refused_with_its_number(workspace, line):
    path = workspace.configs / "deterministic_evaluation.env"
    path.write_text(f"# head\nexport B=2\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigInvalid, match=r"configs/deterministic_evaluation\.env:3: not of the form export NAME=value"):
        settings.environment_file(workspace)


def test_a_missing_file_is_not_found(workspace):
    (workspace.configs / "deterministic_evaluation.env").unlink()
    with pytest.raises(NotFound, match="deterministic environment"):
        settings.load(workspace)


def test_the_environment_wins_over_the_file_and_is_reported():
    environ = {"TEMPERATURE": "0.7", "RANDOM_SEED": "42", "PATH": "/bin", "FEW_SHOT_IDS": "a,b"}
    assert settings.overridden(Workspace(PROJECT), environ) == {"TEMPERATURE": ("0", "0.7"), "FEW_SHOT_IDS": ("", "a,b")}
    found = settings.determinism(Workspace(PROJECT), environ)
    assert (found.temperature, found.seed, found.few_shot_ids) == (0.7, 42, ("a", "b"))
    assert settings.overridden(Workspace(PROJECT), {}) == {}


def test_loading_sees_the_process_environment(workspace, monkeypatch):
    monkeypatch.setenv("RANDOM_SEED", "7")
    assert settings.load(workspace).determinism.seed == 7


def test_the_shipped_settings_have_no_problem_and_the_documented_values():
    assert SHIPPED.problems() == []
    assert (SHIPPED.temperature, SHIPPED.seed, SHIPPED.max_workers) == (0.0, 42, 3)
    assert (SHIPPED.cache_disabled, SHIPPED.prompt_audit, SHIPPED.chain_of_thought) == (True, True, False)
    assert (SHIPPED.bedrock_max_in_flight, SHIPPED.bedrock_requests_per_second) == (1, 0.12)
    assert (SHIPPED.bedrock_call_timeout_s, SHIPPED.bedrock_text_timeout_s) == (35.0, 25.0)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("TEMPERATURE", "0.1", "TEMPERATURE is 0.1"),
        ("TEMPERATURE", "-1", "TEMPERATURE is -1"),
        ("EVAL_DISABLE_CACHE", "0", "EVAL_DISABLE_CACHE"),
        ("EVAL_DISABLE_CACHE", "", "EVAL_DISABLE_CACHE"),
        ("EVAL_DISABLE_CACHE", "true", "EVAL_DISABLE_CACHE"),
        ("PROMPT_AUDIT", "0", "PROMPT_AUDIT"),
        ("RANDOM_SEED", "43", "RANDOM_SEED is 43"),
        ("MAX_WORKERS", "4", "MAX_WORKERS is 4"),
        ("MAX_WORKERS", "0", "MAX_WORKERS is 0"),
        ("BEDROCK_MAX_IN_FLIGHT", "2", "BEDROCK_MAX_IN_FLIGHT is 2"),
        ("BEDROCK_MAX_IN_FLIGHT", "0", "BEDROCK_MAX_IN_FLIGHT is 0"),
        ("BEDROCK_REQUESTS_PER_SECOND", "0.13", "BEDROCK_REQUESTS_PER_SECOND"),
        ("BEDROCK_REQUESTS_PER_SECOND", "0", "BEDROCK_REQUESTS_PER_SECOND"),
        ("BEDROCK_TEXT_TIMEOUT_S", "36", "BEDROCK_TEXT_TIMEOUT_S"),
        ("BEDROCK_TEXT_TIMEOUT_S", "0", "BEDROCK_TEXT_TIMEOUT_S"),
        ("BEDROCK_CALL_TIMEOUT_S", "24", "BEDROCK_TEXT_TIMEOUT_S"),
    ],
)
def test_each_setting_that_is_not_reproducible_or_safe_is_a_problem(name, value, problem):
    (found,) = settings.determinism(Workspace(PROJECT), {name: value}).problems()
    assert problem in found


def test_all_problems_are_reported_together():
    everything = {
        "TEMPERATURE": "1",
        "EVAL_DISABLE_CACHE": "0",
        "PROMPT_AUDIT": "0",
        "RANDOM_SEED": "1",
        "MAX_WORKERS": "9",
        "BEDROCK_MAX_IN_FLIGHT": "9",
        "BEDROCK_REQUESTS_PER_SECOND": "9",
        "BEDROCK_TEXT_TIMEOUT_S": "99",
    }
    assert len(settings.determinism(Workspace(PROJECT), everything).problems()) == len(everything)


@pytest.mark.parametrize("name", ["TEMPERATURE", "RANDOM_SEED", "MAX_WORKERS", "BEDROCK_CALL_TIMEOUT_S"])
@pytest.mark.parametrize("value", ["warm", "", "1 s", "nan", "inf"])
def test_a_number_that_cannot_be_read_names_its_variable(name, value):
    with pytest.raises(ConfigInvalid, match=f"{name} must be a number, not '{value}'"):
        settings.determinism(Workspace(PROJECT), {name: value})


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_whole_number_that_is_none_names_its_variable(value):
    with pytest.raises(ConfigInvalid, match="RANDOM_SEED"):
        settings.determinism(Workspace(PROJECT), {"RANDOM_SEED": value})


@pytest.mark.parametrize(
    ("name", "value"), [("RANDOM_SEED", "42.9"), ("MAX_WORKERS", "3.9"), ("BEDROCK_MAX_IN_FLIGHT", "1.9")]
)
def test_a_whole_number_is_not_rounded_in_silence(name, value):
    try:
        found = settings.determinism(Workspace(PROJECT), {name: value})
    except ConfigInvalid:
        return
    assert found.problems()


def test_a_setting_that_is_not_finite_is_refused_or_a_problem_but_no_crash(workspace, monkeypatch):
    monkeypatch.setenv("TEMPERATURE", "nan")
    try:
        found = settings.load(workspace)
    except ConfigInvalid:
        return
    assert found.determinism.problems() and found.digest


def test_a_variable_that_the_file_lacks_is_named(workspace):
    path = workspace.configs / "deterministic_evaluation.env"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "RANDOM_SEED" not in line), encoding="utf-8")
    with pytest.raises(ConfigInvalid, match="RANDOM_SEED must be a number, not None"):
        settings.load(workspace)


def test_equal_settings_have_equal_digests(workspace):
    assert settings.load(workspace).digest == settings.load(workspace).digest


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(SHIPPED)])
def test_the_digest_covers_every_deterministic_setting_but_the_number_of_workers(workspace, name):
    loaded = settings.load(workspace)
    value = getattr(loaded.determinism, name)
    changed = (*value, "x") if isinstance(value, tuple) else (not value) if isinstance(value, bool) else value + 1
    replaced = dataclasses.replace(loaded.determinism, **{name: changed})
    assert (dataclasses.replace(loaded, determinism=replaced).digest == loaded.digest) is (name == "max_workers")


def test_the_digest_covers_every_value_of_the_file(workspace):
    path = workspace.configs / "evaluation.yaml"
    shipped = yaml.safe_load(path.read_text(encoding="utf-8"))
    digests = {settings.load(workspace).digest}
    decides_nothing = [("openai", "api_key_variable"), ("stored_replies", "unused_days")]
    elsewhere = ("prompts", "system")  # prompts by their texts; the system under test is no part of how it is judged
    places = [(group, name) for group, values in shipped.items() for name in values if group not in elsewhere]
    for group, name in places:
        path.write_text(yaml.safe_dump({**shipped, group: {**shipped[group], name: other(shipped[group][name])}}))
        digests.add(settings.load(workspace).digest)
    assert len(digests) == len(places) + 1 - len(decides_nothing)


def test_the_digest_says_whether_bedrock_is_used(workspace):
    assert settings.load(workspace, use_bedrock=True).digest != settings.load(workspace).digest


def test_a_services_key_is_in_no_digest(workspace, monkeypatch):
    edit_openai(workspace, "")
    before = settings.load(workspace)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-something")
    assert settings.load(workspace).digest == before.digest


@pytest.mark.parametrize(
    ("use_bedrock", "reader", "judge"),
    [
        (False, "offline", ("openai", "gpt-4o-mini-2024-07-18")),
        (True, "bedrock", ("bedrock", "anthropic.claude-3-haiku-20240307-v1:0")),
    ],
)
def test_the_file_says_who_serves_reader_and_judge_and_the_flag_wins(workspace, use_bedrock, reader, judge):
    edit_openai(workspace, "")
    found = settings.load(workspace, use_bedrock=use_bedrock)
    assert found.service("reader") == reader
    assert (found.service("judge"), found.model("judge")) == judge
    assert (found.model("reader") is None) == (reader == "offline")
    assert (found.reader_embedder is None) == (reader != "offline")


@pytest.mark.parametrize(
    "line",
    [
        "base_url: https://user:password@models.example/v1",
        "base_url: https://models.example/v1?api-key=secret",
        "base_url: ftp://models.example/v1",
        "api_key_variable: sk-the-key-itself",
        "deadline_s: 0",
    ],
)
def test_a_key_does_not_belong_in_the_file_nor_an_address_that_is_none(workspace, line):
    edit_openai(workspace, line)
    with pytest.raises(ConfigInvalid, match=r"openai\."):
        settings.load(workspace)


def test_the_digest_covers_the_offline_readers_weights_and_prompts(workspace, tmp_path, monkeypatch):
    here = embedder_files.find(workspace, "all-MiniLM-L6-v2")
    before, online = settings.load(workspace).digest, settings.load(workspace, use_bedrock=True).digest
    for change in ({"weights_hash": "0" * 64}, {"max_sequence_length": 256}, {"query_prompt": "Q: "}):
        changed = dataclasses.replace(here, **change)
        monkeypatch.setattr(embedder_files, "find", lambda workspace, name, changed=changed: changed)
        assert settings.load(workspace).digest != before
        assert settings.load(workspace, use_bedrock=True).digest == online  # which does not read with it
    monkeypatch.setattr(embedder_files, "find", lambda workspace, name: dataclasses.replace(here, folder=tmp_path))
    assert settings.load(workspace).digest == before  # wherever the same files lie


def test_the_digest_covers_the_prompts_text(workspace, tmp_path, monkeypatch):
    folder = tmp_path / "prompts"
    shutil.copytree(PROJECT / "lib" / "evaluation" / "prompts", folder)
    monkeypatch.setattr(settings, "_PROMPTS", folder)
    before = settings.load(workspace).digest
    (folder / "reader.v1.txt").write_text(settings.prompt_text("reader.v1").replace("three", "four"), encoding="utf-8")
    assert settings.load(workspace).digest != before


def test_a_prompts_hash_is_the_one_that_sha256sum_gives():
    path = PROJECT / "lib" / "evaluation" / "prompts" / "reader.v1.txt"
    assert settings.prompt_hash("reader.v1") == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_environments_file_lies_over_the_base(workspace, monkeypatch):
    (workspace.configs / "evaluation.staging.yaml").write_text("judge:\n  least_held: 0.75\n", encoding="utf-8")
    monkeypatch.setenv("GOLIVE_ENV", "staging")
    found = settings.load(workspace)
    assert found.values["judge"]["least_held"] == 0.75
    assert found.values["reader"]["max_sentences"] == 3


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("least_held: 0.6", "least_held: 0.0", r"evaluation\.yaml:14: judge\.least_held must be over 0"),
        ("max_sentences: 3", "max_sentences: two", r"evaluation\.yaml:6: reader\.max_sentences must be of type integer"),
        ("max_sentences: 3", "max_sentence: 3", r"max_sentence"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_line(workspace, old, new, said):
    path = workspace.configs / "evaluation.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigInvalid, match=said):
        settings.load(workspace)


@hypothesis_settings(deadline=None, derandomize=True, max_examples=30)
@given(st.lists(st.text(alphabet="ab1", min_size=1), max_size=4))
def test_few_shot_ids_are_split_at_commas(names):
    found = settings.determinism(Workspace(PROJECT), {"FEW_SHOT_IDS": ",".join(names)})
    assert found.few_shot_ids == tuple(names)


def test_settings_as_values_name_every_prompt_with_its_hash(workspace):
    loaded = settings.load(workspace)
    assert isinstance(loaded, EvaluationSettings)
    assert loaded.to_dict()["prompt_hashes"] == {"reader.v1": settings.prompt_hash("reader.v1")}


def edit_openai(workspace: Workspace, line: str) -> None:
    """Lets an OpenAI-compatible service judge, and replaces one line of its settings."""
    path = workspace.configs / "evaluation.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["judge"]["served_by"] = "openai"
    values["openai"].update(yaml.safe_load(line) or {})
    path.write_text(yaml.safe_dump(values), encoding="utf-8")


def exported(path: Path) -> dict[str, str]:
    """What a shell has exported after reading the file."""
    command = f"source '{path}'; env -0"
    done = subprocess.run(["env", "-i", "HOME=/root", "bash", "-c", command], capture_output=True, check=True)
    found = dict(item.split("=", 1) for item in done.stdout.decode().split("\0") if item)
    return {name: value for name, value in found.items() if name not in ("HOME", "PWD", "SHLVL", "_", "OLDPWD")}


def other(value: Any) -> Any:
    if isinstance(value, str):
        return {"offline": "openai", "torch": "openvino", "max_tokens": "max_completion_tokens"}.get(value, f"{value}x")
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value / 2
