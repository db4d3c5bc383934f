"""Judges: who fills RAGChecker's claims and entailment labels. Offline one of our own; else RAGChecker's, over any model.

RAGChecker computes the metrics from the labels in either case; a judge's name stands beside every number it led to.
"""

from __future__ import annotations

from typing import Any, Protocol

from lib.evaluation.judgements import Judgement, Judgements, key_of
from lib.evaluation.ragchecker_metrics import checker, read_reply
from lib.platform.errors import IntegrityMismatch, redact
from lib.platform.model_client import ModelClient, ModelFailed, prompt_hash


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
        key = key_of(self._client.identity, prompt_hash(prompt), self._repeat)
        if self._stored and (found := self._stored.find(key)):
            if read_reply(self._checker, prompt, found.reply) != found.read_as:
                raise IntegrityMismatch(
                    f"the stored judgement {key[:12]} is not read as it was",
                    detail="another version of ragchecker, or a damaged row",
                    hint="--fresh-judging judges anew",
                )
            return found.reply
        reply = self._client.complete(prompt, purpose="ragchecker judge")
        read_as = read_reply(self._checker, prompt, reply.text)
        if read_as is None:
            raise ModelFailed(f"{self._client.model_id} gave a reply that cannot be read: {redact(reply.text)[:80]!r}")
        if self._stored is None:
            return reply.text
        made = Judgement(
            judge=self._client.identity,
            prompt_sha256=reply.prompt_sha256,
            repeat=self._repeat,
            reply=reply.text,
            read_as=read_as,
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
        )
        return self._stored.keep(made).reply
