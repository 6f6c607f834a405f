"""Converts texts to the token ids that an encoder reads, with its marks around each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding
from tokenizers import Tokenizer as Library

from headrace import offload
from headrace.encoder_types import Marked
from headrace.errors import BadRequest, ContextTooLong, ModelError

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # as in text/tokenizer.py

BATCH = 16  # texts per call of the library, which does not stop when its caller leaves
# Characters that are read for each token that fits. Tokens of English have five; white space has none, so
# that no length of a text says how few tokens it has.
READ = 64

Ids = NDArray[np.int32]
Input = str | tuple[int, ...]


class EncoderTokenizer:
    """The tokenizer in `folder/tokenizer.json`, for texts of `max_tokens` with their marks. Raises
    ModelError.
    """

    def __init__(self, folder: Path, max_tokens: int, *, lowercases: bool = False) -> None:
        path = folder / "tokenizer.json"
        try:
            self.library = Library.from_file(str(path))
            self.library.no_truncation()
            self.library.no_padding()
            marked = self.library.encode("a")
        except Exception as exc:  # the library raises bare Exception
            raise ModelError(f"{path} is not a tokenizer: {exc}") from exc
        self.max_tokens, self._lowercases = max_tokens, lowercases
        is_mark = marked.special_tokens_mask
        first = is_mark.index(0)
        last = len(is_mark) - is_mark[::-1].index(0)
        self._before, self._after = marked.ids[:first], marked.ids[last:]
        self.num_marks = len(self._before) + len(self._after)
        self.vocabulary = self.library.get_vocab_size(with_added_tokens=True)

    def encode(
        self, inputs: Sequence[Input], param: str, keep: int | None = None, prompt: str = ""
    ) -> list[Ids]:
        """The ids of each input, at most `max_tokens`. Inputs that are ids stay as they are, without marks.

        `keep`: how many tokens, with the marks, are kept of a longer text, its last ones; negative: as many
        as fit; None: a longer text raises ContextTooLong. `prompt`: what precedes each text; it is never
        cut. `param`: the request's member, for errors.
        """
        room = None if keep is None else self.max_tokens if keep < 0 else min(keep, self.max_tokens)
        head = len(self.plain([prompt])[0]) if prompt else 0
        if room is not None and room <= self.num_marks + head:
            raise BadRequest(
                f"truncate_prompt_tokens is {keep}: nothing would be left beside {self.num_marks} marks"
                + (f" and a prompt of {head} tokens" if head else ""),
                param="truncate_prompt_tokens",
            )
        ids_of_inputs: list[Ids] = []
        for start in range(0, len(inputs), BATCH):
            offload.check_wanted()
            some = inputs[start : start + BATCH]
            texts = [
                prompt + self.read(text, from_end=room is not None) for text in some if isinstance(text, str)
            ]
            encoded = iter(self.plain(texts))
            for index, one in enumerate(some, start):
                place = f"{param}.{index}"
                if isinstance(one, str):
                    ids_of_inputs.append(
                        self._marked(next(encoded), place, room, head, least=len(one) // READ)
                    )
                else:
                    ids_of_inputs.append(self._checked(one, place, room))
        return ids_of_inputs

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without marks."""
        wanted = [text.lower() for text in texts] if self._lowercases else list(texts)
        return [one.ids for one in self.library.encode_batch_fast(wanted, add_special_tokens=False)]

    def read(self, text: str, *, from_end: bool) -> str:
        """The part of a text that is tokenized: its end if it is to be cut, else a little more than fits."""
        size = (self.max_tokens + 1) * READ
        if len(text) < size:
            return text
        return text[-size:] if from_end else text[:size]

    def _marked(self, ids: list[int], param: str, room: int | None, head: int, *, least: int) -> Ids:
        """The ids with marks. `head`: so many are never cut. `least`: as many tokens as the whole text counts
        for at least.
        """
        count = len(ids) + self.num_marks
        if room is None and max(count, least) > self.max_tokens:
            raise self._too_long(max(count, least), param, is_estimate=least > self.max_tokens)
        fitting = ids if room is None or count <= room else [*ids[:head], *ids[head + count - room :]]
        return np.array([*self._before, *fitting, *self._after], np.int32)

    def _checked(self, ids: tuple[int, ...], param: str, room: int | None) -> Ids:
        bad = next((id for id in ids if not 0 <= id < self.vocabulary), None)
        if bad is not None:
            raise BadRequest.at(param, f"{bad} is no token of this model, which has {self.vocabulary}")
        fitting = ids if room is None else ids[-room:]
        if len(fitting) > self.max_tokens:
            raise self._too_long(len(fitting), param, is_estimate=False)
        return np.array(fitting, np.int32)

    def _too_long(self, count: int, param: str, *, is_estimate: bool) -> ContextTooLong:
        error = ContextTooLong.of_tokens(self.max_tokens, count, 0, param=param, is_estimate=is_estimate)
        hint = "Split it, or send truncate_prompt_tokens: -1, which keeps the end of each text."
        return ContextTooLong(
            f"{error.message} {hint}", param=param, limit=error.limit, requested=error.requested
        )


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
        pairs: list[Marked] = []
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
                pairs.append(self._pair(first, ids if most is None else ids[-most:]))
        return pairs

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
