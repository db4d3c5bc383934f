"""The offline judges: claims and entailment labels out of words and their meanings, deterministic, without a network.

How well they agree with people is measured by ``scripts/judge_report.py``; docs/adr/0012 says why they are as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lib.evaluation.words import content_words, stems
from lib.index.embedder import Embedder
from lib.index.structure import sentences_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENTAILMENT, NEUTRAL = "Entailment", "Neutral"
_WINDOW = 3  # sentences that may support a clause together
_WIDE_WINDOW = 5  # sentences that may support a phrase together
_NUMBER_PENALTY = 0.5  # what a claim's support loses when all of its numbers are missing
_LEAST_CLAIM_WORDS = 5
_CLAUSE_END = re.compile(
    r"[;:,] (?:(?:and|but|so|because|which|while|whereas|although|however|since) )?| [–—] |"
    r" (?:and|but|so|because|which|while|whereas|although|however|since) "
)
_PHRASE_START = re.compile(
    r"[,;:] | [–—] | (?:and|or|but|so|because|which|while|whereas|although|however|since|that|when|where|who|if"
    r"|by|for|from|in|into|of|on|to|with|as|at) "
)
_LIMITS = ("least_held", "least_similarity", "least_context")


def _support_name(embedder_name: str, *limits: float) -> str:
    return f"support({embedder_name}, {', '.join(f'{limit:g}' for limit in limits)})"


class SupportJudge:
    """A claim is a phrase that says something which the question does not say already; a text entails it if some five
    neighbouring sentences hold ``least_held`` of its words, and all of its numbers.

    Between the answer and the response, a word is held where its stem is, or a word whose vector's cosine similarity to its
    own is at least ``least_similarity``. In a passage, where some word is soon found to be like another, only stems count;
    and it must hold ``least_context`` of the sentence that the claim stands in, because a phrase alone is found anywhere.

    Deterministic and offline. Each word is embedded by itself, so that nothing judged earlier shows in a label. It does not
    see negation or who did what to whom.
    """

    def __init__(self, embedder: Embedder, least_held: float, least_similarity: float, least_context: float) -> None:
        self._embedder_name = embedder.name
        self._vectors = _WordVectors(embedder)
        self._least_held = least_held
        self._least_similarity = least_similarity
        self._least_context = least_context
        self.name = self._describe()

    def variant(self, least_held: float, least_similarity: float) -> SupportJudge:
        """A judge with other limits that shares the words embedded so far; for measuring what the limits do."""
        other = copy(self)
        other._least_held, other._least_similarity = least_held, least_similarity
        other.name = other._describe()
        return other

    def _describe(self) -> str:
        return _support_name(self._embedder_name, self._least_held, self._least_similarity, self._least_context)

    def label(self, result: Any) -> None:
        answer = _phrases_of(result.gt_answer, result.query)
        response = _phrases_of(result.response, result.query)
        passages = [document.text for document in result.retrieved_context]
        result.gt_answer_claims = [[claim.text] for claim in answer]
        result.response_claims = [[claim.text] for claim in response]
        result.answer2response = self._between(response, result.gt_answer)
        result.response2answer = self._between(answer, result.response)
        result.retrieved2answer = self._by_passage(answer, passages)
        result.retrieved2response = self._by_passage(response, passages)

    def support(self, claim: str, text: str) -> float:
        """How far a passage supports a claim as a whole, in 0..1: the share of its words that the best window holds, less a
        part for missing numbers.
        """
        words = frozenset(stems(claim))
        numbers = _numbers(words)

        def of(window: frozenset[str]) -> float:
            missing = len(numbers - window) / len(numbers) if numbers else 0.0
            return len(words & window) / len(words) * (1 - _NUMBER_PENALTY * missing)

        return max(map(of, _text_of(text).windows), default=0.0) if words else 0.0

    def _between(self, claims: Sequence[_Phrase], text: str) -> list[str]:
        near = self._near({word: stem for claim in claims for word, stem in claim.words}, text)
        windows = _text_of(text).windows
        return [_label(any(self._holds(claim, window, near) for window in windows)) for claim in claims]

    def _by_passage(self, claims: Sequence[_Phrase], passages: Sequence[str]) -> list[list[str]]:
        def supports(passage: str, claim: _Phrase) -> bool:
            return any(
                self._holds(claim, window, {}) and _share(claim.sentence, window, {}) >= self._least_context
                for window in _text_of(passage).windows
            )

        return [[_label(supports(passage, claim)) for passage in passages] for claim in claims]

    def _holds(self, claim: _Phrase, window: frozenset[str], near: Mapping[str, frozenset[str]]) -> bool:
        return claim.numbers <= window and _share(claim.words, window, near) >= self._least_held

    def _near(self, words: Mapping[str, str], text: str) -> dict[str, frozenset[str]]:
        """For each word the stems of the text's words that mean nearly the same; numbers are compared as written alone."""
        others = _text_of(text).words
        asked = sorted(word for word in words if not word[0].isdigit())
        if not asked or not others:
            return {}
        known = sorted(others)
        similar = self._vectors.of(asked) @ self._vectors.of(known).T >= self._least_similarity
        return {
            word: frozenset(others[known[place]] for place in row.nonzero()[0])
            for word, row in zip(asked, similar, strict=True)
            if row.any()
        }


class LexicalJudge:
    """A claim is a clause; a passage entails it if some three neighbouring sentences hold enough of its words, and all of
    its numbers. Deterministic and offline; it cannot see paraphrase or negation. It says which passages of an imported
    collection are gold, and is a peer in the judge's report.
    """

    def __init__(self, least_coverage: float) -> None:
        self.name = f"lexical({least_coverage:g})"
        self._least_coverage = least_coverage

    def label(self, result: Any) -> None:
        answer_claims = _claims_of(result.gt_answer)
        response_claims = _claims_of(result.response)
        passages = [document.text for document in result.retrieved_context]
        answer, response = _windows_of(result.gt_answer), _windows_of(result.response)
        result.gt_answer_claims = [[claim] for claim in answer_claims]
        result.response_claims = [[claim] for claim in response_claims]
        result.answer2response = [self._entails(answer, claim) for claim in response_claims]
        result.response2answer = [self._entails(response, claim) for claim in answer_claims]
        result.retrieved2answer = self.passage_labels(result.gt_answer, passages)
        result.retrieved2response = self.passage_labels(result.response, passages)

    def passage_labels(self, answer: str, passages: Sequence[str]) -> list[list[str]]:
        """For each claim of ``answer`` a label a passage."""
        windows = [_windows_of(passage) for passage in passages]
        return [[self._entails(passage, claim) for passage in windows] for claim in _claims_of(answer)]

    def _entails(self, windows: Sequence[frozenset[str]], claim: str) -> str:
        words = set(stems(claim))
        numbers = {word for word in words if word[0].isdigit()}
        if not words:
            return NEUTRAL
        for window in windows:
            if numbers <= window and len(words & window) / len(words) >= self._least_coverage:
                return ENTAILMENT
        return NEUTRAL


def offline_judge(embedder: Embedder, limits: Mapping[str, Any]) -> SupportJudge:
    """The judge of ``judge:`` in ``configs/evaluation.yaml``."""
    return SupportJudge(embedder, *(limits[name] for name in _LIMITS))


def offline_judge_name(embedder_name: str, limits: Mapping[str, Any]) -> str:
    """The name that ``offline_judge`` will have, without a model in memory."""
    return _support_name(embedder_name, *(limits[name] for name in _LIMITS))


def supports(passage: str, quote: str, least_coverage: float) -> bool:
    """Whether a text holds enough of a quote's words; how "the answer really uses the gold" is decided."""
    words = set(stems(quote))
    return bool(words) and len(words & set(stems(passage))) / len(words) >= least_coverage


def _claims_of(text: str) -> list[str]:
    """The clauses of a text's sentences, split where both sides keep a few words."""
    claims = []
    for start, end in sentences_of(text):
        sentence, last = text[start:end], 0
        for match in _CLAUSE_END.finditer(sentence):
            before, after = sentence[last : match.start()], sentence[match.end() :]
            if min(len(before.split()), len(after.split())) >= _LEAST_CLAIM_WORDS:
                claims.append(before)
                last = match.end()
        claims.append(sentence[last:])
    return claims


def _windows_of(text: str) -> list[frozenset[str]]:
    """The word sets of every sentence together with those right after it."""
    sets = [set(stems(text[start:end])) for start, end in sentences_of(text)]
    return [frozenset().union(*sets[place : place + _WINDOW]) for place in range(len(sets))]


_NOTHING: frozenset[str] = frozenset()


def _label(entailed: bool) -> str:
    return ENTAILMENT if entailed else NEUTRAL


def _numbers(found: Iterable[str]) -> frozenset[str]:
    return frozenset(stem for stem in found if stem[0].isdigit())


def _share(words: Sequence[tuple[str, str]], window: frozenset[str], near: Mapping[str, frozenset[str]]) -> float:
    """How many of these (word, stem) a window holds, by stem or by a word near to it."""
    return sum(stem in window or bool(near.get(word, _NOTHING) & window) for word, stem in words) / len(words)


@dataclass(frozen=True)
class _Phrase:
    """A claim: its words that say something new and those of its sentence, as (word, stem); its numbers."""

    text: str
    words: tuple[tuple[str, str], ...]
    sentence: tuple[tuple[str, str], ...]
    numbers: frozenset[str]


@dataclass(frozen=True)
class _Text:
    """What a claim is compared with: stems by window of neighbouring sentences, and all words with their stems."""

    windows: tuple[frozenset[str], ...]
    words: dict[str, str]


class _WordVectors:
    """Unit vectors of single words, each embedded once in a process and by itself."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._known: dict[str, NDArray[np.float32]] = {}

    def of(self, words: Sequence[str]) -> NDArray[np.float32]:
        """``float32[n_words, dimension]``."""
        import numpy as np

        new = [word for word in words if word not in self._known]
        if self._embedder.batch_independent:
            self._known.update(zip(new, self._embedder.embed_documents(new), strict=True))
        else:
            self._known.update((word, self._embedder.embed_documents([word])[0]) for word in new)
        return np.stack([self._known[word] for word in words])


def _phrases_of(text: str, query: str) -> list[_Phrase]:
    """A text's claims: the phrases with a word that the question does not have; where none has, all that say something."""
    asked = frozenset(stems(query))
    return _phrases_without(text, asked) or _phrases_without(text, _NOTHING)


def _phrases_without(text: str, left_out: frozenset[str]) -> list[_Phrase]:
    found = []
    for start, end in sentences_of(text):
        sentence = text[start:end]
        whole = _distinct(content_words(sentence))
        for phrase in _split(sentence):
            words = tuple(pair for pair in _distinct(content_words(phrase)) if pair[1] not in left_out)
            if words:
                found.append(_Phrase(phrase, words, whole, _numbers(stem for _, stem in words)))
    return found


def _split(sentence: str) -> list[str]:
    """A sentence's phrases: it is cut before a function word or after a comma, where both sides keep a content word."""
    phrases, last = [], 0
    for match in _PHRASE_START.finditer(sentence):
        if stems(sentence[last : match.start()]) and stems(sentence[match.end() :]):
            phrases.append(sentence[last : match.start()])
            last = match.start()
    phrases.append(sentence[last:])
    return [phrase.strip(" ,;:–—") for phrase in phrases]


def _distinct(words: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(dict.fromkeys(words))


@lru_cache(maxsize=4096)
def _text_of(text: str) -> _Text:
    sentences = [content_words(text[start:end]) for start, end in sentences_of(text)]
    sets = [frozenset(stem for _, stem in words) for words in sentences]
    windows = tuple(_NOTHING.union(*sets[place : place + _WIDE_WINDOW]) for place in range(len(sets)))
    return _Text(windows, {word: stem for words in sentences for word, stem in words})
