"""The embedder: unit vectors of the locked model, with its locked prompts and length, or a clear error."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest

from lib.index.embedder import BadVector, load_embedder, locked_files, sentence_transformer
from lib.platform.errors import IntegrityMismatch, Unavailable


def test_vectors_are_float32_of_unit_length_one_row_a_text(embedder):
    vectors = embedder.embed_documents(["one", "a longer text about backups", "日本語 😀", ""])
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    assert embedder.embed_query("one").shape == (384,)
    assert (embedder.name, embedder.dimension) == ("all-MiniLM-L6-v2", 384)


def test_equal_batches_give_equal_bits(embedder):
    texts = ["one", "two words", "three words here " * 20]
    assert np.array_equal(embedder.embed_documents(texts), embedder.embed_documents(list(texts)))


def test_a_question_is_nearest_to_its_answer(embedder):
    answers = ["A backup is proven by restoring it.", "Chunks overlap by ten percent.", "The kitchen opens at noon."]
    similarities = embedder.embed_documents(answers) @ embedder.embed_query("how do I know that a backup works?")
    assert np.argmax(similarities) == 0


def test_a_text_is_read_to_the_locked_length_and_not_to_the_models_own_256(embedder, model_files):
    start = "word " * 260
    texts = [start + "backup", start + "kitchen"]
    whole = embedder.embed_documents(texts)
    cut = sentence_transformer(replace(model_files, max_sequence_length=256)).embed_documents(texts)
    assert model_files.max_sequence_length == 512
    assert whole[0] @ whole[1] < 0.999
    assert cut[0] @ cut[1] == pytest.approx(1.0, abs=1e-6)


def test_prompts_stand_before_questions_and_documents(embedder, model_files):
    prompted = sentence_transformer(replace(model_files, query_prompt="question: ", document_prompt="passage: "))
    assert np.array_equal(prompted.embed_query("why?"), embedder.embed_query("question: why?"))
    assert np.array_equal(prompted.embed_documents(["a", "b"]), embedder.embed_documents(["passage: a", "passage: b"]))


def test_a_model_is_loaded_once_in_a_process(embedder, model_files):
    assert sentence_transformer(model_files) is embedder


def test_no_texts_give_no_vectors(embedder):
    none = embedder.embed_documents([])
    assert (none.shape, none.dtype) == ((0, 384), np.float32)


def test_a_vector_that_is_not_finite_stops_with_the_text_it_is_for(model_files, poisoned_model):
    broken = sentence_transformer(replace(model_files, folder=poisoned_model))
    assert np.isfinite(broken.embed_documents(["a sound text"])).all()
    with pytest.raises(IntegrityMismatch, match=r"all-MiniLM-L6-v2 gave a vector that is not finite") as caught:
        broken.embed_documents(["a sound text", "a text with poison in it"])
    assert "a text with poison in it" in caught.value.detail
    assert caught.value.position == 1


def test_what_is_wrong_with_a_vector_survives_a_process_boundary():
    error = pickle.loads(pickle.dumps(BadVector("no vector", position=3, detail="for: 'x'", hint="look")))
    assert (error.message, error.position, error.detail, error.hint) == ("no vector", 3, "for: 'x'", "look")
    assert error.exit_code == 14


def test_token_vectors_have_unit_length_and_leave_special_tokens_out(embedder):
    found = embedder.embed_tokens(["how do I know?", "", "one [SEP] two"])
    assert [vectors.shape for vectors in found] == [(5, 384), (0, 384), (3, 384)]
    assert all(np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5) for vectors in found)
    assert embedder.embed_tokens([]) == []


def test_a_word_has_another_vector_in_another_context(embedder):
    money, river = embedder.embed_tokens(["the bank lends money", "the river bank"])
    assert 0.2 < money[1] @ river[2] < 0.9


def test_identity_is_the_same_for_the_same_model_and_another_with_each_setting(embedder, model_files):
    assert sentence_transformer(replace(model_files, name="another-name")).identity == embedder.identity
    changed = [
        sentence_transformer(replace(model_files, **change)).identity
        for change in ({"max_sequence_length": 256}, {"query_prompt": "q: "}, {"document_prompt": "d: "})
    ]
    assert len({embedder.identity, *changed}) == 4
    assert not embedder.batch_independent


def test_vectors_of_another_width_than_the_locked_one_are_refused(model_files):
    with pytest.raises(IntegrityMismatch, match="width 384, 100 was locked"):
        sentence_transformer(replace(model_files, dimension=100)).embed_documents(["text"])


@pytest.mark.parametrize(("field", "what"), [("embedder_weights_hash", "weights"), ("tokenizer_hash", "tokenizer")])
def test_a_model_that_is_not_the_locked_one_is_refused_before_it_is_loaded(workspace, make_config, field, what):
    with pytest.raises(IntegrityMismatch, match=f"the {what} of all-MiniLM-L6-v2 are not the ones") as caught:
        load_embedder(workspace, make_config(**{field: "0" * 64}))
    assert "locked 000000000000" in caught.value.detail


def test_changed_weights_are_noticed(workspace, make_config, model_folder, poisoned_model, tmp_path):
    folder = copy_of(model_folder, tmp_path / "model")
    (folder / "model.safetensors").symlink_to((model_folder / "model.safetensors").resolve())
    config = make_config(embedder_name=str(folder))
    assert locked_files(workspace, config).folder == folder
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(poisoned_model / "model.safetensors")
    with pytest.raises(IntegrityMismatch, match="weights"):
        locked_files(workspace, config)


def test_prompts_and_length_are_the_locked_ones_whatever_the_list_of_embedders_says_now(workspace, make_config, embedder):
    path = workspace.configs / "embedders.yaml"
    text = path.read_text().replace("max_sequence_length: 512", 'max_sequence_length: 128\n  query_prompt: "new: "')
    path.write_text(text)
    loaded = load_embedder(workspace, make_config(embedder_query_prompt="locked: "))
    texts = ["word " * 260 + "backup", "word " * 260 + "kitchen"]
    assert np.array_equal(loaded.embed_query("why?"), embedder.embed_query("locked: why?"))
    assert np.array_equal(loaded.embed_documents(texts), embedder.embed_documents(texts))


def test_a_model_whose_weights_are_gone_is_unavailable(model_files, model_folder, tmp_path):
    folder = copy_of(model_folder, tmp_path / "model")
    with pytest.raises(Unavailable, match="all-MiniLM-L6-v2 does not load"):
        sentence_transformer(replace(model_files, folder=folder))


def test_a_model_whose_weights_are_cut_short_is_unavailable(model_files, model_folder, tmp_path):
    folder = copy_of(model_folder, tmp_path / "model")
    (folder / "model.safetensors").write_bytes((model_folder / "model.safetensors").read_bytes()[:100_000])
    with pytest.raises(Unavailable, match="all-MiniLM-L6-v2 does not load"):
        sentence_transformer(replace(model_files, folder=folder))


def copy_of(model_folder, folder):
    """A copy of the model's folder without its weights."""
    shutil.copytree(model_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder
