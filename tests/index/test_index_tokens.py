"""Counting tokens with the embedded model's own tokenizer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.index import word_table
from lib.index.tokens import TokenCounter
from lib.index.word_table import WordTable
from lib.platform.errors import ConfigInvalid


def test_tokens_are_counted_without_special_ones(counter):
    assert counter.count("hello world") == 2
    assert counter.count("embeddings") == 4  # em ##bed ##ding ##s
    assert counter.count("") == counter.count(" \n ") == 0


def test_long_texts_are_counted_to_their_end_although_the_shipped_file_truncates_and_pads(counter, model_folder):
    shipped = json.loads((model_folder / "tokenizer.json").read_text())
    assert shipped["truncation"]["max_length"] == 128
    assert shipped["padding"]["strategy"] == {"Fixed": 128}
    assert counter.count("word " * 1000) == 1000
    assert counter.counts(["word " * 1000, "one", ""]) == [1000, 1, 0]


def test_each_token_has_the_offset_of_its_first_character(counter):
    assert counter.starts("embeddings day") == [0, 2, 5, 9, 11]  # em|bed|ding|s day
    assert counter.starts("é 検索") == [0, 2, 3]  # characters, not bytes


@settings(deadline=None, derandomize=True, max_examples=100)
@given(words=st.lists(st.text(alphabet="abcXYZ09.,-'é検索שµ", min_size=1, max_size=12), max_size=20))
def test_counts_add_up_over_words(counter, words):
    text = " \n".join(words)
    assert counter.count(text) == sum(counter.counts(words)) == len(counter.starts(text))


lookalikes = ["[PAD]", "[SEP]", "[CLS]", "[PAD", "PAD]", "]", "[", "a", "B,", " ", "--", "\u0301", "検", "x" * 60]


@settings(deadline=None, derandomize=True, max_examples=300)
@given(parts=st.lists(st.sampled_from(lookalikes)))
def test_words_that_look_like_the_tokenizers_own_count_as_it_counts_them(counter, parts):
    text = "".join(parts)
    assert counter.count(text) == len(counter.starts(text))


@settings(deadline=None, derandomize=True, max_examples=300)
@given(text=st.text(alphabet=st.one_of(st.sampled_from(".,;:!?'\"()[]{}<>-_=+*/|~`@#$%^& \n"), st.characters())))
def test_any_text_counts_as_the_tokenizer_counts_it(counter, text):
    assert counter.count(text) == len(counter.starts(text))


def test_a_plain_word_that_was_added_to_the_tokenizer_is_one_token_within_others_too(model_folder, tmp_path):
    described = json.loads((model_folder / "tokenizer.json").read_text())
    added = dict(described["added_tokens"][0], id=len(described["model"]["vocab"]), content="xqzt")
    (tmp_path / "tokenizer.json").write_text(json.dumps({**described, "added_tokens": [*described["added_tokens"], added]}))
    counter = TokenCounter(tmp_path)
    for text in ("xqzt", "axqztb", "one axqztb two"):
        assert counter.count(text) == len(counter.starts(text))
    assert counter.count("axqztb") == 3


def test_words_are_counted_anew_when_they_are_too_many_to_remember(monkeypatch, counter):
    monkeypatch.setattr(word_table, "_MOST_WORDS", 3)
    monkeypatch.setattr(word_table, "_BLOCK", 2)
    words = ["embeddings", "of", "the", "embeddings'", "day", "embeddings", "of", "days"]
    tokens, stems = WordTable(counter.counts).look_up(words)
    assert tokens.tolist() == [4, 1, 1, 5, 1, 4, 1, 1]
    assert stems[0] == stems[3] == stems[5] and len(set(stems.tolist())) == 5


def test_a_folder_without_a_fast_tokenizer_is_refused(tmp_path):
    with pytest.raises(ConfigInvalid, match=r"has no tokenizer\.json") as caught:
        TokenCounter(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert "fast tokenizer" in caught.value.hint
