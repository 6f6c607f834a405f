"""The runner for decoders that keep more than keys and values, or place tokens in their attention (Mamba,
Jamba, Bloom, Falcon): one sequence after another, each with the model's own cache. Slow, and right.

A block is the state of a whole sequence. So none is ever full, and the prefix cache never finds one: such a
state can be continued, but not cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from headrace.engine.batch import Batch
from headrace.engine.runner import Runner, Sites
from headrace.engine.torch.decoder import Decoder, to_numpy
from headrace.errors import ModelError
from headrace.steering.slot import SiteNeeds

# How a model goes on with a sequence: with several tokens at once, with one, or only from the start.
Continuation = Literal["chunks", "tokens", "never"]
UNLIMITED = 2**31
MEASURED = (8, 16)  # tokens of which a state's size is measured

Floats = NDArray[np.float32]


@dataclass(slots=True)
class _State:
    """The model's own cache of a sequence's first `length` tokens."""

    cache: Any = None
    length: int = 0


class SequentialRunner(Runner):
    """A decoder, run with its own cache (see Runner)."""

    name, rewinds = "torch, one sequence at a time", False
    min_invariant_tokens, max_invariant_tokens = 1, UNLIMITED  # each sequence is computed by itself
    rounds_apart = False
    block_bytes_by_type: Mapping[str, int] = MappingProxyType({})

    def __init__(
        self,
        decoder: Decoder,
        *,
        continuation: Continuation,
        kv_cache_bytes: int,
        max_model_len: int,
        max_num_seqs: int,
        fingerprint: bytes,
    ) -> None:
        """`kv_cache_bytes` limits how many sequences run at once; if it is too small for one, its length."""
        self.decoder, self._continuation, self.fingerprint = decoder, continuation, fingerprint
        self._states: dict[int, _State] = {}  # by block
        self._hidden = np.zeros((0, 0), np.float32)
        logits, states = self._feed(_State(), [0], [0])
        self.vocabulary, self.width = logits.shape[1], states.shape[1]
        self.num_layers = decoder.num_layers
        constant, per_token = self._measured()
        fitting = (kv_cache_bytes - constant) // per_token if per_token else max_model_len
        self.block_size = max(1, min(max_model_len, fitting))
        self.block_bytes = max(1, constant + per_token * self.block_size)
        self.num_blocks = self.spare_block = max(1, min(max_num_seqs, kv_cache_bytes // self.block_bytes))

    def forward(self, batch: Batch) -> Floats:
        logits = np.zeros((len(batch.rows), self.vocabulary), np.float32)
        self._hidden = np.zeros((len(batch.hidden_rows), self.width), np.float32)
        begins = batch.subsequence_begins.tolist()
        for index, (begin, end) in enumerate(pairwise(begins)):
            rows, hidden = (_within(wanted, begin, end) for wanted in (batch.rows, batch.hidden_rows))
            last, states = self._advance(batch, index, (batch.rows[rows] - begin).tolist())
            logits[rows] = last
            self._hidden[hidden] = states[batch.hidden_rows[hidden] - begin]
        return logits

    def hidden(self) -> Floats:
        return self._hidden

    layers: frozenset[int] = frozenset()  # hidden states are neither edited nor read

    def compile_sites(self, sites: Mapping[int, SiteNeeds]) -> Sites:
        raise ModelError("a model that PyTorch runs is not steered")

    def rest(self) -> None:
        self._states.clear()  # without work there is no sequence

    def _advance(self, batch: Batch, index: int, wanted: list[int]) -> tuple[Floats, Floats]:
        """Compute one sequence's chunk: logits of the wanted ones of its tokens, and the states of all."""
        begin, end = batch.subsequence_begins[index : index + 2].tolist()
        block, past = int(batch.block_indices[batch.block_indices_begins[index]]), int(batch.past_lens[index])
        ids = batch.input_ids[begin:end].tolist()
        state = self._states.get(block)
        if past == 0 or state is None or state.length != past:
            state = _State()
            if past:  # a step that failed has left no state, or half of one
                self._feed(state, batch.sequences[index].tokens[:past], [])
        # While it is computed, the state is neither that before nor that after it.
        self._states.pop(block, None)
        logits = self._feed(state, ids, wanted)
        self._states[block] = state
        return logits

    def _feed(self, state: _State, ids: list[int], wanted: list[int]) -> tuple[Floats, Floats]:
        """Continue a state by ids: logits of the wanted ones of them, and the states of all."""
        if self._continuation == "never":
            return self._again(state, ids, wanted)
        logits: dict[int, Floats] = {}
        states = []
        for piece in self._pieces(state, len(ids)):
            inside = sorted({row for row in wanted if row in piece})
            rows = torch.tensor([row - piece.start for row in inside] or [0], device=self.decoder.device)
            part = self._tensor(ids[piece.start : piece.stop])
            scores, state.cache = self.decoder.continued(part, state.cache, rows)
            logits |= zip(inside, to_numpy(scores), strict=False)
            states.append(to_numpy(self.decoder.states))
            state.length += len(piece)
        return _stacked([logits[row] for row in wanted], scores.shape[-1]), np.concatenate(states)

    def _again(self, state: _State, ids: list[int], wanted: list[int]) -> tuple[Floats, Floats]:
        """`_feed` for a model that cannot go on: from the start, whose tokens are what the state keeps."""
        before = state.cache or []
        state.cache = [*before, *ids]
        state.length = len(state.cache)
        rows = torch.tensor([row + len(before) for row in wanted] or [0], device=self.decoder.device)
        logits = to_numpy(self.decoder.plain(self._tensor(state.cache), rows))
        return logits[: len(wanted)], to_numpy(self.decoder.states)[len(before) :]

    def _pieces(self, state: _State, count: int) -> Iterator[range]:
        """The parts in which `count` tokens are given to the model."""
        if state.length == 0 or self._continuation == "chunks":
            yield range(count)
        else:
            yield from (range(index, index + 1) for index in range(count))

    def _measured(self) -> tuple[int, int]:
        """Bytes of a state that do not depend on its length, and bytes of each token."""
        if self._continuation == "never":
            return 0, 0
        sizes = []
        for count in MEASURED:
            state = _State()
            self._feed(state, [0] * count, [])
            sizes.append(sum(tensor.numel() * tensor.element_size() for tensor in _tensors(state.cache)))
        first, second = MEASURED
        per_token = (sizes[1] - sizes[0]) // (second - first)
        return max(1, sizes[0] - per_token * first), per_token

    def _tensor(self, ids: list[int]) -> torch.Tensor:
        return torch.tensor(ids, dtype=torch.int64, device=self.decoder.device)


def _within(rows: NDArray[np.int64], begin: int, end: int) -> NDArray[np.int64]:
    return np.flatnonzero((rows >= begin) & (rows < end))


def _stacked(rows: list[Floats], width: int) -> Floats:
    return np.stack(rows) if rows else np.zeros((0, width), np.float32)


def _tensors(thing: object) -> Iterator[torch.Tensor]:
    """The tensors that a model's cache refers to."""
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from _tensors(value)
    elif isinstance(thing, list | tuple):
        for value in thing:
            yield from _tensors(value)
    elif hasattr(thing, "__dict__") and type(thing).__module__.startswith("transformers"):
        yield from _tensors([value for name, value in vars(thing).items() if "config" not in name])
