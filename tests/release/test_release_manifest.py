"""The run manifest: it names what an evaluation depends on, reads back as written, and tells each thing that changed."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lib.evaluation import settings as evaluation_settings
from lib.platform import signing
from lib.platform.errors import ConfigInvalid, NotFound
from lib.release import manifest, receipts
from tests.conftest import HANDBOOK
from tests.release.staged import CASES, Project, files_below, sync, write_cases

UNCOMPARED = {"generated_at", "generated_by"}
json_leaves = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=12)


def test_what_decides_an_evaluation_stands_in_it(sealed):
    release, found = sealed.release(), build(sealed)
    assert (found["release_id"], found["config_hash"]) == (release.release_id, release.config_hash)
    assert found["chunking"] == {
        "chunk_size": 450,
        "overlap_ratio": 0.1,
        "jaccard_threshold": 0.8,
        "prefix_policy": "A",
    }
    assert {role: model["id"] for role, model in found["models"].items()} == {
        "embedder": "all-MiniLM-L6-v2",
        "reranker": "score_combination",
        "reader": "extractive(all-MiniLM-L6-v2)",
        "judge": "support(all-MiniLM-L6-v2, 0.6, 0.6, 0.5)",
    }
    assert found["models"]["embedder"]["weights_hash"] == release.locked_config.embedder_weights_hash
    assert found["corpus"] == {"sources": ["corpus"], "digest": release.corpus_digest}
    assert found["index"] == {"table": release.table_name, "content_digest": release.content_digest, "rows": 3}
    assert (found["cases"]["file"], found["cases"]["count"]) == ("eval/test_cases.json", 2)
    assert (found["seed"], found["few_shot_ids"], found["chain_of_thought"]) == (42, [], False)
    assert (found["evaluation"]["temperature"], found["evaluation"]["cache_disabled"]) == (0, True)
    assert found["thresholds"]["min_cases"] == 30
    assert found["prompts"] == {"reader.v1": evaluation_settings.prompt_hash("reader.v1")}
    assert found["packages"]["ragchecker"] != "missing"


@pytest.mark.parametrize("form", manifest.FORMATS)
def test_it_reads_back_as_it_was_written(sealed, tmp_path, form):
    found = build(sealed)
    path = manifest.write(tmp_path / "evidence", found, form)
    assert path.name == f"manifest.{form}"
    assert manifest.read(path) == found
    assert manifest.differences(manifest.read(path), build(sealed)) == []


@given(st.dictionaries(st.text(min_size=1, max_size=8), json_leaves | st.lists(json_leaves, max_size=3), max_size=4))
@hypothesis_settings(deadline=None, derandomize=True, max_examples=60)
def test_any_text_or_number_reads_back_from_both_forms(tmp_path_factory, extra):
    folder = tmp_path_factory.mktemp("manifest")
    written = {**minimal(), "extra": extra}
    read_back = [manifest.read(manifest.write(folder, written, form)) for form in manifest.FORMATS]
    assert read_back == [written, written]
    assert {manifest.digest(found) for found in read_back} == {manifest.digest(written)}


@pytest.mark.parametrize("number", [0.00001, 1e16, 1e22])
def test_small_and_large_numbers_read_back_from_yaml(tmp_path, number):
    written = {**minimal(), "extra": number}
    assert manifest.read(manifest.write(tmp_path, written, "yaml")) == written


def test_the_script_writes_a_small_limit(sealed, run_script):
    edit("gates.yaml", "max_unscored_share: 0.02", "max_unscored_share: 0.00001")(sealed)
    done = run_script("eval_manifest_generator")
    assert done.code == 0, done.err


def test_who_made_it_and_when_change_neither_digest_nor_comparison(sealed):
    found = build(sealed)
    other = {**found, "generated_at": "2031-01-01T00:00:00Z", "generated_by": "somebody@else"}
    assert manifest.digest(other) == manifest.digest(found)
    assert manifest.differences(found, other) == []


def test_an_uncommitted_change_elsewhere_in_the_checkout_is_told_and_keeps_the_digest(sealed):
    found = build(sealed)
    other = {**found, "code": {**found["code"], "git_dirty": not found["code"]["git_dirty"]}}
    assert manifest.digest(other) == manifest.digest(found)
    assert fields(found, other) == ["code.git_dirty"]


def test_every_single_field_that_changes_is_named_and_gives_another_digest(sealed):
    found = build(sealed)
    leaves = dict(leaves_of(found))
    assert len(leaves) > 60
    for place in leaves.keys() - UNCOMPARED - {"code.git_dirty"}:
        changed = copy.deepcopy(found)
        set_leaf(changed, place, "changed by a test")
        assert manifest.differences(found, changed) == [{"field": place, "then": leaves[place], "now": "changed by a test"}]
        assert manifest.digest(changed) != manifest.digest(found), place
        tied = manifest.evaluated_digest(changed) != manifest.evaluated_digest(found)
        assert tied is (place != "code.git_commit"), place


def test_a_field_that_came_or_went_is_a_difference(sealed):
    found = build(sealed)
    more = {**found, "packages": {**found["packages"], "another": "1.0"}}
    assert manifest.differences(found, more) == [{"field": "packages.another", "then": None, "now": "1.0"}]
    assert manifest.differences(more, found) == [{"field": "packages.another", "then": "1.0", "now": None}]


def edit(name: str, old: str, new: str) -> Callable[[Project], None]:
    def do(project: Project) -> None:
        path = project.workspace.configs / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return do


def set_variable(name: str, old: str, new: str) -> Callable[[Project], None]:
    return edit("deterministic_evaluation.env", f"export {name}={old}\n", f"export {name}={new}\n")


ONE_CASE = {**CASES, "cases": CASES["cases"][:1]}


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        pytest.param(change, changed, id=name)
        for name, change, changed in [
            (
                "one case less",
                lambda p: write_cases(p.workspace.default_cases, ONE_CASE),
                ["cases.count", "cases.digest"],
            ),
            (
                "one word in the cases",
                lambda p: write_cases(p.workspace.default_cases, {**CASES, "about": "x"}),
                ["cases.digest"],
            ),
            (
                "documents",
                lambda p: sync(p, {**HANDBOOK, "more.md": "# More\n\nOne more page.\n"}),
                ["corpus.digest"],
            ),
            (
                "a limit",
                edit("gates.yaml", "min_cases: 30", "min_cases: 29"),
                ["thresholds.digest", "thresholds.min_cases"],
            ),
            (
                "a metric's floor",
                edit("gates.yaml", "floor: 0.45, margin: 0.05", "floor: 0.46, margin: 0.05"),
                ["thresholds.digest", "thresholds.metrics.oracle_hit_rate.floor"],
            ),
            ("the reader", edit("evaluation.yaml", "max_sentences: 3", "max_sentences: 2"), ["evaluation.settings_digest"]),
            (
                "the seed",
                set_variable("RANDOM_SEED", "42", "43"),
                ["evaluation.seed", "evaluation.settings_digest", "seed"],
            ),
            (
                "workers",
                set_variable("MAX_WORKERS", "3", "2"),
                ["evaluation.max_workers"],
            ),
            (
                "few-shot examples",
                set_variable("FEW_SHOT_IDS", "", "a,b"),
                ["evaluation.settings_digest", "few_shot_ids"],
            ),
            (
                "chain of thought",
                set_variable("CHAIN_OF_THOUGHT", "0", "1"),
                ["chain_of_thought", "evaluation.chain_of_thought", "evaluation.settings_digest"],
            ),
        ]
    ],
)
def test_what_was_changed_since_is_noticed_and_nothing_else(sealed, change, changed):
    before = build(sealed)
    change(sealed)
    after = build(sealed)
    assert fields(before, after) == changed
    assert manifest.digest(after) != manifest.digest(before)


def test_a_variable_of_the_shell_is_noticed_like_one_of_the_file(sealed, monkeypatch):
    before = build(sealed)
    monkeypatch.setenv("TEMPERATURE", "0.5")
    assert fields(before, build(sealed)) == ["evaluation.settings_digest", "evaluation.temperature"]


def test_an_environments_layer_is_noticed(sealed, monkeypatch):
    before = build(sealed)
    monkeypatch.setenv("GOLIVE_ENV", "staging")
    found = manifest.differences(before, build(sealed))
    assert {"field": "thresholds.min_cases", "then": 30, "now": 20} in found


def test_the_same_cases_from_another_file_are_told(sealed, tmp_path):
    before = build(sealed)
    write_cases(tmp_path / "eval" / "others.json")
    after = build(sealed, cases_path=tmp_path / "eval" / "others.json")
    assert manifest.differences(before, after) == [
        {"field": "cases.file", "then": "eval/test_cases.json", "now": "eval/others.json"}
    ]


def test_with_bedrock_its_models_are_named(sealed):
    offline = build(sealed)
    settings = evaluation_settings.load(sealed.workspace, use_bedrock=True)
    online = build(sealed, settings=settings)
    assert online["models"]["reader"]["id"] == settings.values["bedrock"]["reader_model"]
    assert online["models"]["judge"]["id"] == settings.values["bedrock"]["judge_model"]
    assert fields(offline, online) == [
        "evaluation.settings_digest",
        "evaluation.use_bedrock",
        "models.judge.id",
        "models.reader.id",
    ]


def test_two_releases_differ_in_what_was_locked(second):
    first = build(second, release_id=second.live_id())
    found = {item["field"]: (item["then"], item["now"]) for item in manifest.differences(first, build(second))}
    assert found["chunking.chunk_size"] == (450, 20)
    assert {"release_id", "config_hash", "index.table", "index.content_digest", "index.rows"} <= found.keys()
    assert not found.keys() & {"corpus.digest", "cases.digest", "thresholds.digest", "seed"}


def test_the_commit_and_whether_the_checkout_differs_from_it(sealed):
    root = sealed.workspace.root
    assert (build(sealed)["code"]["git_commit"], build(sealed)["code"]["git_dirty"]) == (None, None)
    git(root, "init", "-q")
    git(root, "add", "configs/gates.yaml")
    git(root, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", "gates")
    (root / ".git" / "info" / "exclude").write_text("*\n")
    clean = build(sealed)["code"]
    assert (clean["git_commit"], clean["git_dirty"]) == (git(root, "rev-parse", "HEAD"), False)
    edit("gates.yaml", "min_cases: 30", "min_cases: 29")(sealed)
    assert build(sealed)["code"]["git_dirty"] is True


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.yaml", "- 1\n", "not a mapping"),
        ("a.yaml", "seed: 42\nseed: 43\n", "duplicate key 'seed'"),
        ("a.yaml", "seed: 42\n", "is missing"),
        ("a.json", "{", "is not JSON"),
        ("a.json", "[]", "must be of type object"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigInvalid, match=said):
        manifest.read(tmp_path / name)


def test_a_manifest_of_a_later_version_is_refused(tmp_path):
    path = manifest.write(tmp_path, {**minimal(), "manifest_version": 2}, "json")
    with pytest.raises(ConfigInvalid, match="manifest_version must be 1"):
        manifest.read(path)


def test_a_manifest_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        manifest.read(tmp_path / "manifest.yaml")


def test_without_cases_there_is_no_manifest(sealed, tmp_path):
    with pytest.raises(NotFound, match="case file"):
        build(sealed, cases_path=tmp_path / "none.json")


@pytest.mark.parametrize("form", manifest.FORMATS)
def test_the_script_verifies_what_it_wrote_and_names_what_changed_since(sealed, run_script, form):
    release_id = sealed.release().release_id
    written = run_script("eval_manifest_generator", "--format", form)
    assert (written.code, written.out.splitlines()[0]) == (0, f"manifest: metrics/golive/{release_id}/manifest.{form}")
    assert written.out.splitlines()[1].startswith("UNSIGNED: no signing key")
    path = sealed.workspace.evidence(release_id) / f"manifest.{form}"
    receipt = receipts.read(sealed.workspace, release_id, "manifest")
    assert receipt is not None
    assert receipt.inputs["manifest_digest"] == manifest.digest(manifest.read(path))
    edit("gates.yaml", "min_cases: 30", "min_cases: 29")(sealed)
    files = files_below(sealed.workspace.root)
    changed = run_script("eval_manifest_generator", "--verify", str(path))
    assert changed.code == 14
    assert "thresholds.min_cases: was 30, is 29" in changed.out.splitlines()
    assert files_below(sealed.workspace.root) == files


def test_the_script_signs_with_the_key_it_is_given_and_checks_the_signature(sealed, run_script):
    root = sealed.workspace.root
    keyid = signing.write_pair(root / "release.pem", root / "configs" / "signing" / "release.pub", "")
    path = sealed.workspace.evidence(sealed.release().release_id) / "manifest.yaml"
    signed = run_script("eval_manifest_generator", "--json", GOLIVE_SIGNING_KEY_FILE=str(root / "release.pem"))
    assert (signed.code, signed.json["signed_by"]) == (0, keyid), signed.err
    checked = run_script("eval_manifest_generator", "--verify", str(path))
    assert (checked.code, checked.out.splitlines()[-1]) == (0, f"signed by key {keyid[:12]}")
    (path.parent / "manifest.intoto.json").write_text("{}")
    bad = run_script("eval_manifest_generator", "--verify", str(path))
    assert (bad.code, "the signature of" in bad.err) == (14, True)
    unsigned = run_script("eval_manifest_generator")  # without a key, what was signed for the file before is taken away
    assert (unsigned.code, (path.parent / "manifest.intoto.json").exists()) == (0, False)


@pytest.mark.parametrize(("first", "then"), [("yaml", "json"), ("json", "yaml")])
def test_a_release_has_one_manifest_in_one_form(sealed, first, then):
    folder = sealed.workspace.evidence(sealed.release().release_id)
    manifest.write(folder, build(sealed), first)
    path = manifest.write(folder, build(sealed), then)
    assert manifest.find(sealed.workspace, sealed.release().release_id) == path
    assert [other.name for other in folder.glob("manifest.*")] == [f"manifest.{then}"]


def test_the_script_says_when_nothing_has_changed(ready, run_script):
    path = ready.workspace.evidence(ready.release().release_id) / "manifest.yaml"
    done = run_script("eval_manifest_generator", "--verify", str(path), "--json")
    assert (done.code, done.json["changed"]) == (0, [])


def test_a_dry_run_writes_nothing(sealed, run_script):
    files = files_below(sealed.workspace.root)
    done = run_script("eval_manifest_generator", "--dry-run", "--json")
    assert (done.code, done.json["applied"]) == (0, False)
    assert done.json["manifest"]["release_id"] == sealed.release().release_id
    assert files_below(sealed.workspace.root) == files


def build(project: Project, *, release_id: str | None = None, **changes: Any) -> dict[str, Any]:
    values = {
        "cases_path": project.workspace.default_cases,
        "settings": evaluation_settings.load(project.workspace),
        **changes,
    }
    return manifest.build(project.workspace, project.connection, project.release(release_id), **values)


def fields(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [item["field"] for item in manifest.differences(then, now)]


def leaves_of(value: Any, place: str = "") -> list[tuple[str, Any]]:
    """Every value of a tree that is no filled mapping, with its dotted place."""
    if not (isinstance(value, dict) and value):
        return [(place, value)]
    return [leaf for key, inner in value.items() for leaf in leaves_of(inner, f"{place}.{key}".lstrip("."))]


def set_leaf(tree: dict[str, Any], place: str, value: Any) -> None:
    """Puts a value at a place that ``leaves_of`` gave; a key may hold dots itself."""
    for key, inner in tree.items():
        if key == place:
            tree[key] = value
            return
        if isinstance(inner, dict) and place.startswith(f"{key}."):
            set_leaf(inner, place[len(key) + 1 :], value)
            return
    raise AssertionError(place)


def minimal() -> dict[str, Any]:
    """The least that is a manifest."""
    digest = "0" * 64
    return {
        "manifest_version": 1,
        "generated_at": "2026-01-02T03:04:05Z",
        "release_id": "2026-01-02-030405-v1-01234567",
        "chunk_version": "2026-01-02-030405-v1",
        "ingest_run_id": "2026-01-02-030405-v1-01234567",
        "config_hash": digest,
        "models": {role: {"id": role} for role in ("embedder", "reranker", "reader", "judge")},
        **{name: {} for name in ("retrieval", "rerank", "filter", "evaluation", "prompts", "packages", "platform")},
        "thresholds": {"digest": digest, "metrics": {}},
        "few_shot_ids": [],
        "chain_of_thought": False,
        "seed": 42,
        "corpus": {"sources": [], "digest": digest},
        "cases": {"digest": digest, "count": 1},
        "index": {"table": "t", "content_digest": digest},
        "code": {"digest": digest, "git_commit": None, "git_dirty": None},
    }


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
