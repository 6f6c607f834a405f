"""Scores documents with a model that generates text: the probability that it answers "yes" when it is asked
whether a document meets a query.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from headrace.backends.engine.prompt import Prompts, Room
from headrace.backends.ranking import check_repeated
from headrace.encoder_types import RerankRequest, question
from headrace.engine.sequence import BATCH, SamplingParams, Sequence
from headrace.errors import BadRequest, ContextTooLong
from headrace.offload import check_wanted
from headrace.types import Conversation, Message

MARGIN = 4  # tokens that a cut document may grow by beside its new neighbours


@dataclass(frozen=True, slots=True)
class Judge:
    """The questions of one model, and the tokens that answer them."""

    prompts: Prompts
    yes: int
    no: int

    def questions(self, request: RerankRequest) -> list[list[int]]:
        """The token ids of the question about each document. Raises ContextTooLong, BadRequest."""
        check_repeated(request)
        keep = self._kept(request)
        questions = []
        for index, document in enumerate(request.documents):
            check_wanted()
            text = document if keep is None else self._cut(document, keep)
            try:
                questions.append(self._question(request, text))
            except ContextTooLong as exc:
                exc.param = f"documents.{index}"
                raise
        return questions

    def sequences(
        self, questions: list[list[int]], *, invariant: bool, salt: bytes, flow: str
    ) -> Iterator[Sequence]:
        """Create the sequences one by one, when each is started: the first generated token is the answer to
        the question. They have a lower priority than conversations.
        """
        params = SamplingParams(max_tokens=1, temperature=0, watched=(self.no, self.yes), invariant=invariant)
        return (Sequence(list(tokens), params, BATCH, salt=salt, flow=flow) for tokens in questions)

    def _question(self, request: RerankRequest, document: str) -> list[int]:
        room = Room(self.prompts.max_model_len - 1, 1)
        system, user = question(request, document)
        conversation = Conversation(
            (Message("system", system), Message("user", user)), reasoning_effort="none"
        )
        return list(self.prompts.of_conversation(conversation, room).tokens)

    def _kept(self, request: RerankRequest) -> int | None:
        """The number of tokens to which each document is truncated; None: documents are not truncated."""
        keep = request.truncate_prompt_tokens
        if keep == 0:
            raise BadRequest(
                "truncate_prompt_tokens is 0: nothing would be left", param="truncate_prompt_tokens"
            )
        if keep is None or keep > 0:
            return keep
        try:
            around = len(self._question(replace(request, documents=()), ""))
        except ContextTooLong as exc:
            exc.param = "query"
            raise
        return max(1, self.prompts.max_model_len - 1 - around - MARGIN)

    def _cut(self, document: str, keep: int) -> str:
        tokenizer = self.prompts.tokenizer
        return tokenizer.decode(tokenizer.encode_end(document, keep))


def judge_of(prompts: Prompts) -> Judge | None:
    """The judge that a model can be; None: it has no chat template, or no tokens for the answers."""
    if prompts.template.refusal is not None:
        return None
    yes, no = (prompts.tokenizer.encode(word) for word in ("yes", "no"))
    return Judge(prompts, yes[0], no[0]) if yes[0] != no[0] else None


def probability(logits: tuple[float, ...]) -> float:
    """The probability of the second of two answers, by their logits."""
    no, yes = logits
    return 1 / (1 + math.exp(min(no - yes, 700)))  # exp(710) overflows
