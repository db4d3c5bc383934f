"""The offline judge: claims and entailment labels out of words alone, deterministic, without a network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lib.evaluation.words import stems
from lib.index.structure import sentences_of

ENTAILMENT, NEUTRAL = "Entailment", "Neutral"
_WINDOW = 3  # sentences that may support a claim together
_LEAST_CLAIM_WORDS = 5
_CLAUSE_END = re.compile(
    r"[;:,] (?:(?:and|but|so|because|which|while|whereas|although|however|since) )?| [–—] |"
    r" (?:and|but|so|because|which|while|whereas|although|however|since) "
)


class LexicalJudge:
    """A claim is a clause; a passage entails it if some three neighbouring sentences hold enough of its words, and all of
    its numbers. Deterministic and offline; it cannot see paraphrase or negation, and its scores are named as its own.
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
