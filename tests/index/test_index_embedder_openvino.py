"""The OpenVINO runtimes: the model's own vectors, the same bits whatever they are embedded with, graphs made once."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from lib.config import embedder_files
from lib.index import openvino_graphs, openvino_int8
from lib.index.embedder import BadVector, Embedder, load_embedder, sentence_transformer
from lib.index.embedder_openvino import OpenVinoEmbedder, openvino_embedder
from lib.platform.errors import ConfigInvalid, IntegrityMismatch

PROJECT = Path(__file__).resolve().parents[2]
RUNTIMES = ("openvino", "openvino_int8")
_WORDS = ["a", "backup", "is", "proven", "by", "restoring", "it", "chunks", "overlap", "the", "kitchen", "at", "noon"]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of graphs that these tests share, so that the embedded model is converted once a runtime."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module", params=RUNTIMES)
def fast(request: pytest.FixtureRequest, graphs: Path, model_files: embedder_files.EmbedderFiles) -> OpenVinoEmbedder:
    """The embedded model on each runtime."""
    return openvino_embedder(model_files, request.param, graphs)


@pytest.fixture(scope="module")
def texts(corpus_texts: dict[str, str]) -> list[str]:
    """Real texts of many lengths: one word, sentences, and more than the model reads."""
    whole = "\n".join(corpus_texts.values())
    pieces = [whole[start * 900 : start * 900 + 30 * start] for start in range(1, 11)]
    return ["word", "日本語 😀", "", *pieces, whole[:4_000]]


@pytest.fixture(scope="module")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A small BERT with random weights, as a sentence-transformers folder."""

    def make(hidden: int = 32, pooling: str = "mean_tokens", dense: int = 0) -> Path:
        import torch
        from transformers import BertConfig, BertModel, BertTokenizerFast

        folder = tmp_path_factory.mktemp("model")
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(_WORDS), *"abcdefghij"[1:]]
        (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
        BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
        torch.manual_seed(42)
        shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64}
        BertModel(BertConfig(vocab_size=len(vocabulary), hidden_size=hidden, **shape)).save_pretrained(folder)
        modules = [("", "Transformer"), ("1_Pooling", "Pooling")] + ([("2_Dense", "Dense")] if dense else [])
        listed = [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(modules)
        ]
        write(folder / "modules.json", listed)
        write(folder / "sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": False})
        modes = {
            f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
        }
        write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden, **modes})
        if dense:
            identity = "torch.nn.modules.linear.Identity"
            widths = {"in_features": hidden, "out_features": dense, "bias": True, "activation_function": identity}
            write(folder / "2_Dense" / "config.json", widths)
            draw = np.random.default_rng(42).normal(size=(dense, hidden + 1)).astype(np.float32)
            layer = {"linear.weight": draw[:, 1:].copy(), "linear.bias": draw[:, 0].copy()}
            save_file(layer, folder / "2_Dense" / "model.safetensors")
        return folder

    return make


@pytest.fixture(scope="module")
def reference(embedder: Embedder, texts: list[str]) -> np.ndarray:
    """What sentence-transformers gives on torch."""
    return embedder.embed_documents(texts)


def test_float32_gives_the_vectors_of_sentence_transformers(graphs, model_files, reference, texts):
    ours = openvino_embedder(model_files, "openvino", graphs).embed_documents(texts)
    assert ours.dtype == np.float32
    assert cosines(ours, reference).min() > 0.99999


def test_int8_stays_near_them(graphs, model_files, reference, texts):
    found = cosines(openvino_embedder(model_files, "openvino_int8", graphs).embed_documents(texts), reference)
    assert found.mean() > 0.985
    assert found.min() > 0.95


def test_a_vector_has_the_same_bits_whatever_it_is_embedded_with(fast, texts):
    together = fast.embed_documents(texts)
    order = random.Random(42).sample(range(len(texts)), len(texts))
    assert np.array_equal(fast.embed_documents([texts[index] for index in order]), together[order])
    for size in (1, 7):
        batches = [fast.embed_documents(texts[start : start + size]) for start in range(0, len(texts), size)]
        assert np.array_equal(np.concatenate(batches), together)


@pytest.mark.parametrize("streams", [1, 3])
def test_the_number_of_streams_changes_no_bit(fast, graphs, model_files, texts, streams):
    runtime = next(name for name in RUNTIMES if openvino_embedder(model_files, name, graphs) is fast)
    assert np.array_equal(
        OpenVinoEmbedder(model_files, runtime, graphs, streams).embed_documents(texts), fast.embed_documents(texts)
    )


def test_threads_that_share_a_model_get_their_own_vectors(fast, texts):
    expected = fast.embed_documents(texts[:12])
    with ThreadPoolExecutor(6) as pool:
        queries = list(pool.map(fast.embed_query, texts[:12]))
        batches = list(pool.map(fast.embed_documents, [texts[:12]] * 3))
    assert np.array_equal(np.stack(queries), expected)
    assert all(np.array_equal(batch, expected) for batch in batches)


def test_a_text_beyond_the_locked_length_is_cut_there(fast, graphs, model_files):
    start = "word " * 260
    whole = fast.embed_documents([start + "backup", start + "kitchen"])
    runtime = next(name for name in RUNTIMES if openvino_embedder(model_files, name, graphs) is fast)
    short = openvino_embedder(replace(model_files, max_sequence_length=256), runtime, graphs)
    cut = short.embed_documents([start + "backup", start + "kitchen"])
    assert not np.array_equal(whole[0], whole[1])
    assert np.array_equal(cut[0], cut[1])


def test_prompts_stand_before_questions_and_documents(graphs, model_files):
    plain = openvino_embedder(model_files, "openvino", graphs)
    prompted = openvino_embedder(replace(model_files, query_prompt="q: ", document_prompt="d: "), "openvino", graphs)
    assert np.array_equal(prompted.embed_query("why?"), plain.embed_query("q: why?"))
    assert np.array_equal(prompted.embed_documents(["why?"])[0], plain.embed_query("d: why?"))


def test_token_vectors_are_the_models_without_its_special_tokens(graphs, model_files, embedder):
    asked = ["how do I know that a backup works?", "", "one [SEP] two", "word " * 600]
    ours = openvino_embedder(model_files, "openvino", graphs).embed_tokens(asked)
    reference = embedder.embed_tokens(asked)
    assert [len(vectors) for vectors in ours] == [len(vectors) for vectors in reference]
    assert [len(vectors) for vectors in ours[:2]] == [9, 0]
    assert len(ours[3]) == 510
    for found, wanted in zip(ours, reference, strict=True):
        assert np.allclose(found, wanted, atol=1e-4)
        assert np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)


def test_no_texts_give_no_vectors(fast):
    assert fast.embed_documents([]).shape == (0, 384)
    assert fast.embed_tokens([]) == []


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token", "lasttoken", "max_tokens"])
def test_pooling_is_the_models_own(workspace, graphs, make_model, pooling):
    files = embedder_files.find(workspace, str(make_model(pooling=pooling)))
    assert_like_torch(files, graphs)


def test_a_dense_layer_after_the_pooling_counts(workspace, graphs, make_model):
    files = embedder_files.find(workspace, str(make_model(dense=12)))
    assert files.dimension == 12
    assert_like_torch(files, graphs)


def test_a_model_of_1024_dimensions_runs_on_every_runtime(workspace, graphs, make_model):
    files = embedder_files.find(workspace, str(make_model(hidden=1024)))
    assert files.dimension == 1024
    assert_like_torch(files, graphs)
    small = openvino_embedder(files, "openvino_int8", graphs)
    assert cosines(small.embed_documents(_WORDS), sentence_transformer(files).embed_documents(_WORDS)).min() > 0.97


def test_a_vector_that_is_not_finite_stops_with_the_text_it_is_for(graphs, model_files, poisoned_model):
    broken = openvino_embedder(replace(model_files, folder=poisoned_model, weights_hash="1" * 64), "openvino", graphs)
    with pytest.raises(BadVector, match="all-MiniLM-L6-v2 gave a vector that is not finite") as caught:
        broken.embed_documents(["a sound text", "another", "a text with poison in it"])
    assert caught.value.position == 2
    assert "a text with poison in it" in caught.value.detail


def test_identity_tells_apart_whatever_decides_a_vector(graphs, model_files, embedder):
    changes = [{}, {"max_sequence_length": 256}, {"query_prompt": "q: "}, {"document_prompt": "d: "}]
    found = [openvino_embedder(replace(model_files, **change), "openvino", graphs).identity for change in changes]
    found += [openvino_embedder(model_files, "openvino_int8", graphs).identity, embedder.identity]
    assert len(set(found)) == len(found)
    assert OpenVinoEmbedder(model_files, "openvino", graphs, 1).identity == found[0]


def test_a_locked_runtime_decides_what_runs_the_model(workspace, make_config, graphs):
    workspace.local.mkdir(exist_ok=True)
    (workspace.local / "embedders").symlink_to(graphs)
    vectors = {runtime: load_embedder(workspace, make_config(embedder_runtime=runtime)) for runtime in ("torch", *RUNTIMES)}
    assert [vectors[name].batch_independent for name in ("torch", *RUNTIMES)] == [False, True, True]
    with pytest.raises(ConfigInvalid, match="all-MiniLM-L6-v2 is a model in files: embedder_runtime must be torch"):
        load_embedder(workspace, make_config(embedder_runtime="remote"))


# graphs


def test_a_graph_is_made_once_and_then_read_without_torch(request, fast, graphs):
    code = (
        "import sys; from pathlib import Path\n"
        "from lib.config import embedder_files; from lib.platform.workspace import Workspace\n"
        "from lib.index.embedder_openvino import openvino_embedder\n"
        "files = embedder_files.find(Workspace(Path(sys.argv[1])), 'all-MiniLM-L6-v2')\n"
        "print(openvino_embedder(files, sys.argv[3], Path(sys.argv[2])).embed_query('why?').tobytes().hex())\n"
        "assert not {'torch', 'sentence_transformers', 'transformers'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(PROJECT), str(graphs), request.node.callspec.params["fast"]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert fast.embed_query("why?").tobytes().hex() == done.stdout.strip()


def test_running_and_converting_a_model_reports_to_nobody(tmp_path, make_model):
    code = (
        "import sys; from pathlib import Path\n"
        "from lib.config import embedder_files; from lib.platform.workspace import Workspace\n"
        "from lib.index.embedder_openvino import openvino_embedder\n"
        "files = embedder_files.find(Workspace(Path.cwd()), sys.argv[1])\n"
        "openvino_embedder(files, 'openvino_int8', Path(sys.argv[2])).embed_query('a backup')\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry.')]\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(make_model()), str(tmp_path / "graphs")],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        cwd=PROJECT,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (home / "intel").exists()


@pytest.mark.parametrize(("damage", "name"), [("cut", "graph.bin"), ("gone", "tokenizer.json"), ("cut", "digests.json")])
def test_a_damaged_graph_is_made_again(workspace, tmp_path, make_model, name, damage):
    files = embedder_files.find(workspace, str(make_model()))
    before = OpenVinoEmbedder(files, "openvino", tmp_path / "graphs").embed_query("a backup")
    file = openvino_graphs.graph_folder(files, "openvino", tmp_path / "graphs") / name
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    else:
        file.unlink()
    again = OpenVinoEmbedder(files, "openvino", tmp_path / "graphs").embed_query("a backup")
    assert np.array_equal(again, before)
    assert file.exists()
    assert [path.name for path in (tmp_path / "graphs").iterdir()] == [file.parent.name]


def test_two_that_make_a_graph_at_once_end_with_one(workspace, tmp_path, make_model, monkeypatch):
    files = embedder_files.find(workspace, str(make_model()))
    make = openvino_graphs._make
    first = []

    def overtaken(*arguments: object) -> None:
        monkeypatch.setattr(openvino_graphs, "_make", make)
        first.append(openvino_graphs.graph_folder(files, "openvino", tmp_path / "graphs"))
        make(*arguments)

    monkeypatch.setattr(openvino_graphs, "_make", overtaken)
    second = openvino_graphs.graph_folder(files, "openvino", tmp_path / "graphs")
    assert first == [second] == list((tmp_path / "graphs").iterdir())


def test_an_int8_form_that_is_too_far_from_the_model_is_refused(workspace, tmp_path, make_model, monkeypatch):
    files = embedder_files.find(workspace, str(make_model()))
    monkeypatch.setattr(openvino_int8, "LEAST_COSINE", 1.01)
    with pytest.raises(IntegrityMismatch, match=r"the int8 form of the embedder .* is too far from the model") as caught:
        OpenVinoEmbedder(files, "openvino_int8", tmp_path / "graphs")
    assert "at least 1.01 is asked for" in caught.value.detail
    assert caught.value.hint == "embedder_runtime: openvino runs it in float32"
    assert list((tmp_path / "graphs").iterdir()) == []


def test_the_texts_of_a_calibration_are_the_same_everywhere(model_folder):
    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    drawn = openvino_int8.drawn_texts(tokenizer, 40, 256)
    assert [text[0] for text in drawn] == [101] * 40
    assert all(8 <= len(text) <= 256 and not set(text[1:-1]) & {0, 100, 101, 102, 103} for text in drawn)
    digest = hashlib.sha256(b"".join(text.astype("<i8").tobytes() for text in drawn)).hexdigest()
    assert digest == _DRAWN


_DRAWN = "9692f47e2a7d46fb94376e52606f3721d994acce204bd1d68e2bb9df51de4f91"


def assert_like_torch(files, graphs):
    asked = [*_WORDS, " ".join(_WORDS), " ".join(_WORDS * 2), ""]
    ours = openvino_embedder(files, "openvino", graphs).embed_documents(asked)
    assert ours.shape == (len(asked), files.dimension)
    assert cosines(ours, sentence_transformer(files).embed_documents(asked)).min() > 0.99999


def cosines(ours, theirs):
    return (ours.astype(np.float64) * theirs).sum(axis=1)


def write(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
