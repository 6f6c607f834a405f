"""Converts a query and documents to what a cross-encoder reads: the marks, the query and one document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Encoding

from headrace import offload
from headrace.encoder_types import Marked
from headrace.errors import BadRequest, ContextTooLong
from headrace.text.encoder_tokenizer import BATCH, EncoderTokenizer


@dataclass(frozen=True, slots=True)
class _Piece:
    """Marks, or the place of the query (0) or the document (1); all its tokens have the type `type`."""

    ids: tuple[int, ...]
    type: int
    segment: int | None


class PairTokenizer:
    """The tokenizer in `folder/tokenizer.json`, for pairs of `max_tokens` with their marks. Raises
    ModelError.
    """

    def __init__(self, folder: Path, max_tokens: int) -> None:
        self._single = EncoderTokenizer(folder, max_tokens)
        self.max_tokens = max_tokens
        self._pieces = _pieces(self._single.library.encode("a", "a"))
        self.num_marks = sum(len(piece.ids) for piece in self._pieces)

    def encode(self, query: str, documents: Sequence[str], keep: int | None = None) -> list[Marked]:
        """The pairs. `keep`: how many tokens are kept of a longer document, its last ones; negative: as many
        as fit; None: a longer pair raises ContextTooLong.
        """
        first = self._single.plain([self._single.read(query, from_end=False)])[0]
        room = self.max_tokens - self.num_marks - len(first)
        if room <= 0 or keep == 0:
            raise self._no_room(len(first), keep)
        most = None if keep is None else room if keep < 0 else min(keep, room)
        found: list[Marked] = []
        for start in range(0, len(documents), BATCH):
            offload.check_wanted()
            texts = documents[start : start + BATCH]
            some = self._single.plain([self._single.read(text, from_end=most is not None) for text in texts])
            for index, ids in enumerate(some, start):
                if most is None and len(ids) > room:
                    count = len(first) + len(ids) + self.num_marks
                    raise ContextTooLong.of_tokens(
                        self.max_tokens, count, 0, param=f"documents.{index}", is_estimate=False
                    )
                found.append(self._pair(first, ids if most is None else ids[-most:]))
        return found

    def _pair(self, query: list[int], document: list[int]) -> Marked:
        parts = [
            (piece.ids if piece.segment is None else (query, document)[piece.segment], piece.type)
            for piece in self._pieces
        ]
        ids = np.concatenate([np.asarray(part, np.int32) for part, _ in parts])
        return Marked(
            ids, np.repeat([kind for _, kind in parts], [len(part) for part, _ in parts]).astype(np.int32)
        )

    def _no_room(self, num_query: int, keep: int | None) -> BadRequest:
        if keep == 0:
            return BadRequest(
                "truncate_prompt_tokens is 0: nothing would be left", param="truncate_prompt_tokens"
            )
        count = num_query + self.num_marks + 1
        return ContextTooLong.of_tokens(self.max_tokens, count, 0, param="query", is_estimate=False)


def _pieces(pair: Encoding) -> list[_Piece]:
    """How the tokenizer puts a pair together, from a pair of two texts."""
    pieces: list[_Piece] = []
    for id, kind, segment in zip(pair.ids, pair.type_ids, pair.sequence_ids, strict=True):
        last = pieces[-1] if pieces else None
        if segment is None:
            pieces.append(_Piece((id,), kind, None))
        elif last is None or last.segment != segment:
            pieces.append(_Piece((), kind, segment))
    return pieces
