"""Judges: who fills RAGChecker's claims and entailment labels. Offline a lexical one; else RAGChecker's own, over Bedrock.

RAGChecker computes the metrics from the labels in either case; a judge's name stands beside every number it led to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

from lib.evaluation.ragchecker_metrics import checker, is_readable
from lib.evaluation.words import stems
from lib.index.structure import sentences_of
from lib.platform.bedrock import ConverseClient, ModelFailed

ENTAILMENT, NEUTRAL = "Entailment", "Neutral"
_WINDOW = 3  # sentences that may support a claim together
_LEAST_CLAIM_WORDS = 5
_CLAUSE_END = re.compile(
    r"[;:,] (?:(?:and|but|so|because|which|while|whereas|although|however|since) )?| [–—] |"
    r" (?:and|but|so|because|which|while|whereas|although|however|since) "
)


class Judge(Protocol):
    """Fills ``gt_answer_claims``, ``response_claims`` and the four label fields of a RAGChecker result in place."""

    name: str

    def label(self, result: Any) -> None: ...


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


class BedrockJudge:
    """RAGChecker's own claim extractor and checker, with a Bedrock model behind ``custom_llm_api_func``."""

    def __init__(self, client: ConverseClient) -> None:
        self.name = f"ragchecker over bedrock({client.model_id})"
        self._client = client
        self._checker = checker(lambda prompts: [self._ask(prompt) for prompt in prompts])

    def _ask(self, prompt: str) -> str:
        reply = self._client.complete(prompt, purpose="ragchecker judge")
        if not is_readable(self._checker, prompt, reply):
            raise ModelFailed(f"{self._client.model_id} gave a reply that cannot be read: {reply[:80]!r}")
        return reply

    def label(self, result: Any) -> None:
        """Raises ModelFailed where the model gave no usable reply, and leaves the result without all of its labels."""
        from ragchecker import RAGResults

        if not result.response:
            result.response_claims, result.answer2response, result.retrieved2response = [], [], []
        for kind in ("answer2response", "response2answer", "retrieved2answer", "retrieved2response"):
            self._checker.check_claims(RAGResults([result]), check_type=kind)


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
