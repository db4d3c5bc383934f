"""Judges: who fills RAGChecker's claims and entailment labels. Offline one of our own; else RAGChecker's, over Bedrock.

RAGChecker computes the metrics from the labels in either case; a judge's name stands beside every number it led to.
"""

from __future__ import annotations

from typing import Any, Protocol

from lib.evaluation.ragchecker_metrics import checker, is_readable
from lib.platform.bedrock import ConverseClient, ModelFailed


class Judge(Protocol):
    """Fills ``gt_answer_claims``, ``response_claims`` and the four label fields of a RAGChecker result in place."""

    name: str

    def label(self, result: Any) -> None: ...


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
