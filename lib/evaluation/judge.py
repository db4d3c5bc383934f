"""Judges: who fills RAGChecker's claims and entailment labels. Offline one of our own; else RAGChecker's, over any model.

RAGChecker computes the metrics from the labels in either case; a judge's name stands beside every number it led to.
"""

from __future__ import annotations

from typing import Any, Protocol

from lib.evaluation.judgements import Judgements, reply_to
from lib.evaluation.ragchecker_metrics import checker, read_reply
from lib.platform.model_client import ModelClient


class Judge(Protocol):
    """Fills ``gt_answer_claims``, ``response_claims`` and the four label fields of a RAGChecker result in place."""

    name: str

    def label(self, result: Any) -> None: ...


class ModelJudge:
    """RAGChecker's own claim extractor and checker, with a language model behind ``custom_llm_api_func``.

    A prompt whose judgement is stored is not sent. ``repeat`` tells apart the judgings of the same answers: each has its
    own replies.
    """

    def __init__(self, client: ModelClient, stored: Judgements | None = None, repeat: int = 0) -> None:
        self.name = f"ragchecker over {client.name}"
        self._client = client
        self._stored = stored
        self._repeat = repeat
        self._checker = checker(lambda prompts: [self._ask(prompt) for prompt in prompts])

    def label(self, result: Any) -> None:
        """Raises ModelFailed where the model gave no usable reply, and leaves the result without all of its labels."""
        from ragchecker import RAGResults

        if not result.response:
            result.response_claims, result.answer2response, result.retrieved2response = [], [], []
        for kind in ("answer2response", "response2answer", "retrieved2answer", "retrieved2response"):
            self._checker.check_claims(RAGResults([result]), check_type=kind)

    def _ask(self, prompt: str) -> str:
        found = reply_to(
            prompt,
            self._client,
            self._stored,
            lambda text: read_reply(self._checker, prompt, text),
            purpose="ragchecker judge",
            repeat=self._repeat,
        )
        return found.reply
