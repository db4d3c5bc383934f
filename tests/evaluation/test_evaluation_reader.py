"""Readers: the offline one answers with the passages' own sentences or not at all; Bedrock's asks its model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.evaluation.reader import Answer, ExtractiveReader, ModelReader
from lib.evaluation.settings import prompt_text
from lib.index.structure import sentences_of
from lib.platform.errors import ConfigInvalid, Unavailable
from lib.platform.model_client import ModelFailed

BACKUPS = (
    "# Backups\n\nA backup is proven by restoring it into fresh tables.\n\n## Retention\n\n"
    "Keep the last seven daily backups and the last four weekly ones. Older copies are deleted every Sunday night."
)
POINTER = (
    "# The pointer\n\nOne row names the table that answers queries. A rollback moves the pointer back in milliseconds, "
    "because the old table still stands. Nothing is ever copied while this happens. Short one."
)
PROJECT = Path(__file__).resolve().parents[2]
WITHOUT_MEANING = """
import sys
import numpy
from lib.evaluation.reader import ExtractiveReader

class Alike:
    name, dimension = "alike", 2
    def embed_documents(self, texts):
        return numpy.ones((len(texts), 2), numpy.float32)
    def embed_query(self, text):
        return numpy.ones(2, numpy.float32)

print(ExtractiveReader(Alike(), 2, 0.7).read(sys.argv[1], sys.argv[2:]).text)
"""
PASSAGES = [POINTER, BACKUPS]
QUESTIONS = [
    ("How many daily backups are kept?", "Keep the last seven daily backups and the last four weekly ones."),
    ("How is a backup proven?", "A backup is proven by restoring it into fresh tables."),
    ("How fast does a rollback move the pointer back?", "A rollback moves the pointer back in milliseconds,"),
]


@pytest.mark.parametrize(("question", "sentence"), QUESTIONS)
def test_the_sentence_that_answers_is_in_the_answer(embedder, question, sentence):
    answer = ExtractiveReader(embedder, 2, 0.7).read(question, PASSAGES)
    assert sentence in answer.text
    assert not answer.abstained


@pytest.mark.parametrize(("question", "most"), [(QUESTIONS[0][0], 1), (QUESTIONS[1][0], 2), (QUESTIONS[2][0], 5)])
def test_an_answer_is_made_of_the_passages_sentences_alone_in_their_order(embedder, question, most):
    sentences = [passage[start:end] for passage in PASSAGES for start, end in sentences_of(passage)]
    left = ExtractiveReader(embedder, most, 0.0).read(question, PASSAGES).text
    used = 0
    for sentence in sentences:
        if left.startswith(sentence):
            left = left.removeprefix(sentence).lstrip()
            used += 1
    assert left == ""
    assert 1 <= used <= 2 * most  # each may bring the sentence after it


def test_the_sentence_after_the_best_one_follows_it(embedder):
    answer = ExtractiveReader(embedder, 1, 0.7).read("How many daily backups are kept?", PASSAGES)
    assert answer.text == (
        "Keep the last seven daily backups and the last four weekly ones. Older copies are deleted every Sunday night."
    )


def test_headings_and_scraps_are_no_answers(embedder):
    answer = ExtractiveReader(embedder, 50, 0.0).read("What is the pointer, the short one?", PASSAGES).text
    assert "#" not in answer
    assert "Short one." not in answer


@pytest.mark.parametrize(
    ("question", "passages"),
    [
        ("Which oven temperature suits sourdough bread?", PASSAGES),
        ("How many daily backups are kept?", []),
        ("How many daily backups are kept?", ["", " \n", "# Daily backups kept"]),
        ("How many daily backups are kept?", ["Seven daily backups."]),  # under five words
    ],
)
def test_what_the_passages_do_not_hold_is_not_answered(embedder, question, passages):
    answer = ExtractiveReader(embedder, 2, 0.7).read(question, passages)
    assert answer == Answer("")
    assert answer.abstained


def test_the_least_score_decides_whether_it_answers(embedder):
    question, _ = QUESTIONS[0]
    assert ExtractiveReader(embedder, 2, 3.0).read(question, PASSAGES).abstained
    assert not ExtractiveReader(embedder, 2, 0.0).read("Which oven temperature suits bread?", PASSAGES).abstained


def test_a_question_without_content_words_is_survived(embedder):
    assert ExtractiveReader(embedder, 2, 3.0).read("what is it?", PASSAGES).abstained


def test_the_same_question_gets_the_same_answer(embedder):
    question, _ = QUESTIONS[1]
    first = ExtractiveReader(embedder, 2, 0.7).read(question, PASSAGES)
    assert ExtractiveReader(embedder, 2, 0.7).read(question, PASSAGES) == first
    assert ExtractiveReader(embedder, 2, 0.7).read(question, [*PASSAGES, *PASSAGES]) == first


def test_the_answer_does_not_depend_on_the_hash_seed():
    """Equal similarities, so that words alone decide; in processes whose sets and dictionaries are ordered differently."""
    said = {
        subprocess.run(
            [sys.executable, "-c", WITHOUT_MEANING, QUESTIONS[0][0], *PASSAGES],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(said) == 1
    assert "Keep the last seven daily backups" in said.pop()


def test_an_extractive_reader_is_named_with_its_embedder(embedder):
    assert ExtractiveReader(embedder, 2, 0.7).name == "extractive(all-MiniLM-L6-v2)"


def test_bedrock_is_asked_once_with_the_prompt_the_numbered_passages_and_the_question(converse):
    converse.reply = lambda model_id, prompt: "  Seven are kept.\n"
    reader = ModelReader(converse.client("some.model-v1:0"), "reader.v1")
    assert reader.read("How {many}?", ["First {passage}.", "Second."]) == Answer("Seven are kept.")
    (asked,) = converse.asked
    assert asked["model_id"] == "some.model-v1:0"
    assert asked["inferenceConfig"] == {"temperature": 0.0, "maxTokens": 100}
    wanted = prompt_text("reader.v1").replace("{passages}", "[1] First {passage}.\n\n[2] Second.")
    assert converse.prompts == [wanted.replace("{question}", "How {many}?")]
    assert reader.name == "bedrock(some.model-v1:0)"


@pytest.mark.parametrize("reply", ["I do not know.", "I do not know", " i DO NOT know. \n"])
def test_bedrock_abstains_by_saying_so(converse, reply):
    converse.reply = lambda model_id, prompt: reply
    assert ModelReader(converse.client(), "reader.v1").read("?", ["Some passage."]).abstained


def test_bedrock_does_not_abstain_by_mentioning_it(converse):
    converse.reply = lambda model_id, prompt: "I do not know of any limit but 35 seconds."
    assert not ModelReader(converse.client(), "reader.v1").read("?", ["Some passage."]).abstained


@pytest.mark.parametrize("reply", [500, " \n"])
def test_a_model_without_a_usable_reply_is_said_to_have_failed(converse, reply):
    converse.reply = lambda model_id, prompt: reply
    with pytest.raises(ModelFailed, match=r"model-1 gave no usable reply"):
        ModelReader(converse.client(), "reader.v1").read("?", ["Some passage."])


def test_a_service_that_will_not_serve_us_is_unavailable(converse):
    converse.reply = lambda model_id, prompt: 403
    with pytest.raises(Unavailable, match="Bedrock refused model-1"):
        ModelReader(converse.client(), "reader.v1").read("?", ["Some passage."])


def test_an_unknown_prompt_is_refused_with_the_known_ones(converse):
    with pytest.raises(ConfigInvalid, match=r"no prompt 'reader\.v9'") as caught:
        ModelReader(converse.client(), "reader.v9")
    assert "reader.v1" in caught.value.detail
