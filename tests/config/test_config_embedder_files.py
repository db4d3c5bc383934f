"""An embedder's files: found by name or folder, hashed, and read for what the model really takes in."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib.config import embedder_files
from lib.platform.errors import ConfigInvalid, Unavailable
from lib.platform.workspace import Workspace

MakeModel = Callable[..., Path]
_CONFIG = {"model_type": "bert", "hidden_size": 8, "max_position_embeddings": 64}


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """Writes a small model folder; keyword arguments change its ``config.json``."""

    def make(name: str = "model", **config: Any) -> Path:
        folder = tmp_path / name
        (folder / "1_Pooling").mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({**_CONFIG, **config}))
        (folder / "tokenizer.json").write_text('{"model": {}}')
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "modules.json").write_text(
            '[{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}]'
        )
        (folder / "1_Pooling" / "config.json").write_text("{}")
        return folder

    return make


# the embedded model


def test_the_embedded_model_is_read_as_far_as_its_position_table_goes(workspace: Workspace) -> None:
    found = embedder_files.find(workspace, "all-MiniLM-L6-v2")
    assert found.name == "all-MiniLM-L6-v2"
    assert found.dimension == 384
    assert (found.max_sequence_length, found.position_table) == (512, 512)
    assert (found.query_prompt, found.document_prompt) == ("", "")
    assert found.tokenizer_name == "nreimers/MiniLM-L6-H384-uncased"


def test_the_embedded_models_hashes_are_those_of_its_files(workspace: Workspace) -> None:
    found = embedder_files.find(workspace, "all-MiniLM-L6-v2")
    settings = ("config.json", "config_sentence_transformers.json", "modules.json", "sentence_bert_config.json")
    names = ("1_Pooling/config.json", "model.safetensors", *settings)
    digests = {name: hashlib.sha256((found.folder / name).read_bytes()).hexdigest() for name in names}
    listing = json.dumps(digests, sort_keys=True, separators=(",", ":"))
    assert found.weights_hash == hashlib.sha256(listing.encode()).hexdigest()
    assert found.tokenizer_hash == hashlib.sha256((found.folder / "tokenizer.json").read_bytes()).hexdigest()


# lengths and dimensions


@pytest.mark.parametrize(
    ("config", "declared", "in_registry", "length"),
    [
        ({}, None, None, 64),
        ({}, 32, None, 32),
        ({}, 32, 48, 48),
        ({}, 32, 100, 64),
        ({}, 100, None, 64),
        ({"model_type": "roberta"}, None, None, 62),
        ({"model_type": "xlm-roberta"}, 64, None, 62),
        ({"model_type": "mpnet"}, None, 64, 62),
        ({"max_position_embeddings": 0}, 4096, None, 4096),
    ],
)
def test_a_model_reads_what_is_declared_but_never_more_than_its_positions(
    config: dict[str, Any],
    declared: int | None,
    in_registry: int | None,
    length: int,
    workspace: Workspace,
    make_model: MakeModel,
) -> None:
    folder = make_model(**config)
    if declared:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": declared}))
    limit = f"\n  max_sequence_length: {in_registry}" if in_registry else ""
    _register(workspace, f"mine:\n  model_path: {folder}{limit}\n")
    assert embedder_files.find(workspace, "mine").max_sequence_length == length


def test_a_dense_layer_decides_the_width_of_the_vectors(workspace: Workspace, make_model: MakeModel) -> None:
    folder = make_model()
    assert embedder_files.find(workspace, str(folder)).dimension == 8
    modules = json.loads((folder / "modules.json").read_text())
    modules += [{"path": "2_Dense", "type": "x.Dense"}, {"path": "3_Normalize", "type": "x.Normalize"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "config.json").write_text('{"in_features": 8, "out_features": 3}')
    assert embedder_files.find(workspace, str(folder)).dimension == 3


def test_prompts_come_from_the_list_of_embedders(workspace: Workspace, make_model: MakeModel) -> None:
    prompts = 'query_prompt: "query: "\n  document_prompt: "passage: "'
    _register(workspace, f"mine:\n  model_path: {make_model()}\n  {prompts}\n")
    found = embedder_files.find(workspace, "mine")
    assert (found.query_prompt, found.document_prompt) == ("query: ", "passage: ")


# hashes


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "model-00002-of-00002.safetensors",
        "pytorch_model.bin",
        "config.json",
        "modules.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
        "2_Dense/pytorch_model.bin",
        "config_sentence_transformers.json",
    ],
)
def test_each_file_that_decides_a_vector_decides_the_weights_hash(
    name: str, workspace: Workspace, make_model: MakeModel
) -> None:
    folder = make_model()
    before = embedder_files.find(workspace, str(folder))
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((path.read_bytes() if path.exists() else b"{}") + b" ")
    after = embedder_files.find(workspace, str(folder))
    assert after.weights_hash != before.weights_hash
    assert after.tokenizer_hash == before.tokenizer_hash


def test_the_tokenizers_file_decides_the_tokenizer_hash_alone(workspace: Workspace, make_model: MakeModel) -> None:
    folder = make_model()
    before = embedder_files.find(workspace, str(folder))
    (folder / "tokenizer.json").write_text('{"model": {"x": 1}}')
    after = embedder_files.find(workspace, str(folder))
    assert after.tokenizer_hash == hashlib.sha256(b'{"model": {"x": 1}}').hexdigest()
    assert after.tokenizer_hash != before.tokenizer_hash
    assert after.weights_hash == before.weights_hash


def test_neither_the_place_nor_the_readme_changes_a_hash(workspace: Workspace, make_model: MakeModel) -> None:
    folder = make_model()
    moved = shutil.copytree(folder, folder.parent / "moved")
    (moved / "README.md").write_text("about")
    here, there = (embedder_files.find(workspace, str(path)) for path in (folder, moved))
    assert (here.weights_hash, here.tokenizer_hash) == (there.weights_hash, there.tokenizer_hash)


# what is no embedder


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
def test_a_folder_without_weights_or_tokenizer_is_no_model(
    missing: str, workspace: Workspace, make_model: MakeModel
) -> None:
    folder = make_model()
    (folder / missing).unlink()
    with pytest.raises(ConfigInvalid, match=f"{folder} is not a sentence-transformers model"):
        embedder_files.find(workspace, str(folder))


def test_a_config_without_a_width_is_no_model(workspace: Workspace, make_model: MakeModel) -> None:
    folder = make_model()
    (folder / "config.json").write_text("{}")
    with pytest.raises(ConfigInvalid, match="is not a sentence-transformers model"):
        embedder_files.find(workspace, str(folder))


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "sentence_bert_config.json",
        "tokenizer_config.json",
        "modules.json",
    ],
)
def test_a_damaged_file_is_named(name: str, workspace: Workspace, make_model: MakeModel) -> None:
    folder = make_model()
    (folder / name).write_text('{"cut off')
    with pytest.raises(ConfigInvalid, match=f"{folder}/{name} is not JSON"):
        embedder_files.find(workspace, str(folder))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "[]"),
        ("config.json", '{"hidden_size": "wide", "max_position_embeddings": 64}'),
        ("config.json", '{"hidden_size": 8, "max_position_embeddings": null}'),
        ("sentence_bert_config.json", '{"max_seq_length": "long"}'),
        ("tokenizer_config.json", "[]"),
        ("modules.json", "5"),
        ("modules.json", '[{"path": "2_Dense"}]'),
        ("modules.json", '[{"path": "2_Dense", "type": "x.Dense"}]'),
    ],
)
def test_a_file_that_holds_something_else_is_no_crash(
    name: str, text: str, workspace: Workspace, make_model: MakeModel
) -> None:
    folder = make_model()
    (folder / name).write_text(text)
    with pytest.raises(ConfigInvalid, match=f"{folder} is not a sentence-transformers model"):
        embedder_files.find(workspace, str(folder))


def test_an_unknown_name_lists_the_known_ones(workspace: Workspace) -> None:
    with pytest.raises(ConfigInvalid, match="unknown embedder 'no-such'") as caught:
        embedder_files.find(workspace, "no-such")
    assert "all-MiniLM-L6-v2, BAAI/bge-large-en-v1.5" in caught.value.detail


@pytest.mark.parametrize("name", ["/no/such/folder", "./no/such/folder"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_a_hub(name: str, workspace: Workspace) -> None:
    with pytest.raises(ConfigInvalid, match="unknown embedder"):
        embedder_files.find(workspace, name)


def test_a_model_path_that_is_not_there_is_named(workspace: Workspace) -> None:
    _register(workspace, "mine:\n  model_path: /no/such/folder\n")
    with pytest.raises(Unavailable, match="no model in /no/such/folder") as caught:
        embedder_files.find(workspace, "mine")
    assert "model_path of mine" in caught.value.hint


def test_a_package_that_is_not_installed_is_named(workspace: Workspace) -> None:
    _register(workspace, "mine:\n  package: no_such_package_at_all\n")
    with pytest.raises(Unavailable, match="the package of the embedder mine is not installed"):
        embedder_files.find(workspace, "mine")


def test_a_model_of_the_hub_that_is_not_here_is_unavailable_offline(tmp_path: Path, workspace: Workspace) -> None:
    code = (
        "import sys; from pathlib import Path; from lib.config import embedder_files; from lib.platform import cli\n"
        "from lib.platform.workspace import Workspace\n"
        "cli.run(lambda: embedder_files.find(Workspace(Path(sys.argv[1])), 'nobody/no-such-model') and 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(workspace.root)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 13
    assert "error: the embedder nobody/no-such-model is not on this machine and could not be fetched" in done.stderr


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("mine:\n  model_pat: /x\n", r"configs/embedders\.yaml:2: unknown key 'model_pat' \(did you mean model_path\?\)"),
        ("mine:\n  model_path: /x\n  max_sequence_length: 7\n", r"configs/embedders\.yaml:3: .* must be at least 8, not 7"),
        ("mine: /x\n", r"configs/embedders\.yaml:1: mine must be of type object"),
    ],
)
def test_a_mistake_in_the_list_of_embedders_is_named_with_its_line(text: str, complaint: str, workspace: Workspace) -> None:
    _register(workspace, text)
    with pytest.raises(ConfigInvalid, match=complaint):
        embedder_files.find(workspace, "mine")


def test_an_embedder_without_a_source_is_refused(workspace: Workspace) -> None:
    _register(workspace, "mine:\n  max_sequence_length: 512\n")
    with pytest.raises(ConfigInvalid):
        embedder_files.find(workspace, "mine")


@pytest.mark.parametrize("by", ["name", "model_path"])
def test_a_relative_folder_is_one_of_the_project(
    by: str, workspace: Workspace, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model("model")
    assert folder.parent == workspace.root
    monkeypatch.chdir("/")
    _register(workspace, "mine:\n  model_path: model\n")
    found = embedder_files.find(workspace, "mine" if by == "model_path" else "./model")
    assert found.dimension == 8


# embedders behind a service

_REMOTE = (
    "mine:\n  provider: http\n  url: http://127.0.0.1:1/v1/embeddings\n  model: small\n  dimension: 16\n"
    "  max_sequence_length: 100\n  tokenizer: counts\n"
)


@pytest.fixture
def remote(workspace: Workspace, make_model: MakeModel) -> Workspace:
    make_model("counts")
    _register(workspace, _REMOTE)
    return workspace


def test_a_remote_embedder_is_what_its_entry_declares(remote: Workspace) -> None:
    found = embedder_files.find(remote, "mine")
    assert (found.dimension, found.max_sequence_length, found.position_table) == (16, 100, 100)
    assert found.folder == remote.root / "counts"
    assert found.tokenizer_hash == hashlib.sha256(b'{"model": {}}').hexdigest()
    assert found.remote == embedder_files.RemoteSettings("http", "small", "http://127.0.0.1:1/v1/embeddings")
    assert found.remote.requests_per_second == 10.0


@pytest.mark.parametrize(
    ("old", "new", "another"),
    [
        ("model: small", "model: large", True),
        ("dimension: 16", "dimension: 17", True),
        ("127.0.0.1:1", "127.0.0.1:2", True),
        ("max_sequence_length: 100", "max_sequence_length: 100\n  requests_per_second: 1.5\n  batch_size: 3", False),
        ("max_sequence_length: 100", "max_sequence_length: 100\n  api_key_variable: MY_KEY\n  timeout_s: 1", False),
    ],
)
def test_what_a_remote_embedder_is_decides_its_hash_and_how_it_is_asked_does_not(
    old: str, new: str, another: bool, remote: Workspace
) -> None:
    before = embedder_files.find(remote, "mine").weights_hash
    _register(remote, _REMOTE.replace(old, new))
    assert (embedder_files.find(remote, "mine").weights_hash != before) == another


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("  model: small\n", "", r"embedders\.yaml:1: mine\.model is missing"),
        ("  dimension: 16\n", "", r"mine\.dimension is missing"),
        ("  tokenizer: counts\n", "", r"mine\.tokenizer is missing"),
        ("  url: http://127.0.0.1:1/v1/embeddings\n", "", r"mine\.url is missing"),
        ("provider: http", "provider: bedrock", r"mine\.region is missing"),
        ("provider: http", "provider: grpc", r"embedders\.yaml:2: mine\.provider must be one of"),
        ("url: http://127", "url: ftp://127", r"embedders\.yaml:3: mine\.url must match"),
        ("dimension: 16", "dimension: 0", r"embedders\.yaml:5: mine\.dimension must be at least 1"),
        ("dimension: 16", "dimension: 16\n  batch_size: 0", r"mine\.batch_size must be at least 1"),
        ("http://127", "http://me:secret@127", r"mine\.url holds a password or key"),
    ],
)
def test_a_mistake_in_a_remote_embedder_is_named(old: str, new: str, complaint: str, remote: Workspace) -> None:
    _register(remote, _REMOTE.replace(old, new))
    with pytest.raises(ConfigInvalid, match=complaint) as caught:
        embedder_files.find(remote, "mine")
    assert "secret" not in f"{caught.value} {caught.value.detail}"


def test_a_remote_embedder_counts_with_a_tokenizer_that_is_here(remote: Workspace, make_model: MakeModel) -> None:
    _register(remote, _REMOTE.replace("tokenizer: counts", "tokenizer: local") + "local:\n  model_path: counts\n")
    assert embedder_files.find(remote, "mine").folder == remote.root / "counts"
    _register(remote, _REMOTE.replace("tokenizer: counts", "tokenizer: nowhere"))
    with pytest.raises(Unavailable, match=r"no tokenizer\.json in nowhere"):
        embedder_files.find(remote, "mine")
    _register(remote, _REMOTE.replace("tokenizer: counts", "tokenizer: mine"))
    with pytest.raises(ConfigInvalid, match="the tokenizer of the embedder mine is no model in files"):
        embedder_files.find(remote, "mine")


@pytest.mark.parametrize("runtime", ["torch", "openvino", "openvino_int8", "remote"])
def test_a_runtime_runs_either_files_or_a_service(runtime: str, remote: Workspace) -> None:
    behind = embedder_files.runtime_problem(embedder_files.find(remote, "mine"), runtime)
    in_files = embedder_files.runtime_problem(embedder_files.find(remote, "./counts"), runtime)
    if runtime == "remote":
        assert (behind, in_files is None) == (None, False)
        assert "is a model in files: embedder_runtime must be torch, openvino or openvino_int8" in str(in_files)
    else:
        assert in_files is None
        assert behind == f"embedder mine is behind http: embedder_runtime must be remote, not {runtime}"


def test_the_remote_embedders_that_come_with_the_project_are_whole(workspace: Workspace) -> None:
    named = [name for name, entry in embedder_files.registry(workspace).items() if "provider" in entry]
    found = {name: embedder_files.find(workspace, name) for name in named}
    assert set(found) == {"amazon.titan-embed-text-v2", "cohere.embed-english-v3"}
    assert {files.dimension for files in found.values()} == {1024}


def _register(workspace: Workspace, text: str) -> None:
    (workspace.configs / "embedders.yaml").write_text(text)
