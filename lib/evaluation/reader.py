"""Readers: a question and the context it was given in, an answer out. Offline an extractive one; else a model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lib.evaluation import settings
from lib.evaluation.judgements import Judgements, reply_to
from lib.evaluation.words import stems
from lib.index.embedder import Embedder
from lib.index.structure import sentences_of
from lib.platform.model_client import ModelClient

_SHORTLIST = 24
_BATCH = 4
_LEAST_WORDS = 5
_USUAL_WORDS = 25


@dataclass(frozen=True)
class Answer:
    """``text`` is empty where the reader says that the context does not hold the answer; ``tokens`` as a model counted.

    ``latency_ms``: how long the model took when it was asked, which may be long ago; None where no model was.
    """

    text: str
    tokens: Mapping[str, int] = field(default_factory=dict, compare=False)
    latency_ms: float | None = field(default=None, compare=False)

    @property
    def abstained(self) -> bool:
        return not self.text


class Reader(Protocol):
    """Answers from the context alone. ``passages`` are in ranked order. ``record``: what every answer is made with."""

    name: str
    record: Mapping[str, Any]

    def read(self, query: str, passages: Sequence[str]) -> Answer: ...


@dataclass(frozen=True)
class _Sentence:
    text: str
    before: str
    passage_rank: int


class ExtractiveReader:
    """Answers with the passages' own sentences: shortlisted by the question's words, then compared by meaning. Each of the
    best is followed by the sentence after it, because an answer often runs on.

    Deterministic and offline. A sentence scores its cosine similarity to the question plus how much of the question's
    (rarity-weighted) words it holds, a little for the sentence before it, for the passage's rank and for its length.
    """

    def __init__(self, embedder: Embedder, max_sentences: int, least_score: float) -> None:
        self.name = f"extractive({embedder.name})"
        self.record: Mapping[str, Any] = {"model_id": self.name, "prompt_hash": None}
        self._embedder = embedder
        self._max_sentences = max_sentences
        self._least_score = least_score

    def read(self, query: str, passages: Sequence[str]) -> Answer:
        sentences = _sentences_of(passages)
        if not sentences:
            return Answer("")
        lexical = _lexical_scores(query, sentences)
        shortlist = sorted(range(len(sentences)), key=lambda i: (-lexical[i], i))[:_SHORTLIST]
        meaning = self._similarities(query, {i: sentences[i].text for i in shortlist})
        scored = sorted(((meaning[i] + lexical[i], i) for i in shortlist), key=lambda item: (-item[0], item[1]))
        if scored[0][0] < self._least_score:
            return Answer("")
        chosen = {i for _, i in scored[: self._max_sentences]}
        chosen |= {
            i + 1 for i in chosen if i + 1 < len(sentences) and sentences[i + 1].passage_rank == sentences[i].passage_rank
        }
        return Answer(" ".join(sentences[i].text for i in sorted(chosen)))

    def _similarities(self, query: str, texts: Mapping[int, str]) -> dict[int, float]:
        """Cosine similarity to the question, by the texts' keys; batches of like lengths, so that little is padded."""
        question = self._embedder.embed_query(query)
        ordered = sorted(texts, key=lambda key: (len(texts[key]), key))
        found: dict[int, float] = {}
        for start in range(0, len(ordered), _BATCH):
            keys = ordered[start : start + _BATCH]
            vectors = self._embedder.embed_documents([texts[key] for key in keys])
            found.update(zip(keys, map(float, vectors @ question), strict=True))
        return found


class ModelReader:
    """Answers with a language model and a prompt out of a file. A prompt whose reply is stored is not sent."""

    def __init__(self, client: ModelClient, prompt_name: str, stored: Judgements | None = None) -> None:
        self.name = client.name
        self._client = client
        self._stored = stored
        self._prompt_name = prompt_name
        self._template = settings.prompt_text(prompt_name)
        self.record: Mapping[str, Any] = {"model_id": client.model_id, "prompt_hash": settings.prompt_hash(prompt_name)}

    def read(self, query: str, passages: Sequence[str]) -> Answer:
        """Raises ModelFailed where the model gave no usable reply."""
        numbered = "\n\n".join(f"[{rank}] {passage}" for rank, passage in enumerate(passages, 1))
        prompt = self._template.format(passages=numbered, question=query)
        found = reply_to(prompt, self._client, self._stored, _answer_in, purpose=self._prompt_name)
        counted = {"input": found.input_tokens, "output": found.output_tokens}
        tokens = {name: count for name, count in counted.items() if count is not None}
        (text,) = found.read_as
        return Answer(text, tokens, found.latency_ms)


def is_no_answer(text: str) -> bool:
    """Whether a text says that its writer does not know, in the words that the reader's prompt asks for."""
    return text.strip().rstrip(".").casefold() in ("", "i do not know")


def _answer_in(reply: str) -> list[str]:
    return ["" if is_no_answer(reply) else reply.strip()]


def _sentences_of(passages: Sequence[str]) -> list[_Sentence]:
    """The passages' sentences, each text once; headings and scraps left out."""
    found: dict[str, _Sentence] = {}
    for rank, passage in enumerate(passages):
        before = ""
        for start, end in sentences_of(passage):
            text = passage[start:end]
            if text not in found and not text.startswith("#") and len(text.split()) >= _LEAST_WORDS:
                found[text] = _Sentence(text, before, rank)
            before = text
    return list(found.values())


def _lexical_scores(query: str, sentences: Sequence[_Sentence]) -> list[float]:
    counted = [Counter(stems(sentence.text)) for sentence in sentences]
    frequency = Counter(word for words in counted for word in words)
    total = len(sentences)
    weights = {
        word: math.log(1 + (total - frequency[word] + 0.5) / (frequency[word] + 0.5)) for word in sorted(set(stems(query)))
    }
    whole = sum(weights.values()) or 1.0

    def share(words: set[str]) -> float:
        return sum(weight for word, weight in weights.items() if word in words) / whole

    return [
        share(set(words))
        + 0.3 * share(set(stems(sentence.before)))
        + 0.3 / (sentence.passage_rank + 1)
        + 0.1 * min(sum(words.values()), _USUAL_WORDS) / _USUAL_WORDS
        for sentence, words in zip(sentences, counted, strict=True)
    ]
