"""A runner without a model: its "attention" hashes what it reads through the block tables.

What stands in a cell depends on every cell before it, as keys and values do, so a wrong table, a stale block,
a wrong position or a wrong row gives a wrong next token.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from headrace.engine.batch import Batch
from headrace.engine.runner import Runner, Sites
from headrace.steering.slot import SiteNeeds

VOCABULARY = 64

Cells = NDArray[np.int64]


class FakeRunner:
    name, rewinds = "fake", True
    fingerprint = bytes(16)
    block_bytes_by_type: Mapping[str, int] = MappingProxyType({})
    vocabulary = VOCABULARY
    width = 1
    min_invariant_tokens, max_invariant_tokens = 2, 2**31
    rounds_apart = False
    num_layers = 0
    layers: frozenset[int] = frozenset()

    def __init__(self, num_blocks: int, block_size: int = 4) -> None:
        self.num_blocks, self.spare_block, self.block_size = num_blocks, num_blocks, block_size
        self.cells = np.full((num_blocks + 1, block_size), -1, np.int64)
        self.block_bytes = self.cells[0].nbytes

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        ends = [self._compute(batch, index) for index in range(len(batch.past_lens))]
        next_of = dict(end for chunk in ends for end in chunk)
        logits = np.zeros((len(batch.rows), VOCABULARY), np.float32)
        logits[np.arange(len(batch.rows)), [next_of[int(row)] for row in batch.rows]] = 1
        return logits

    def hidden(self) -> NDArray[np.float32]:
        raise NotImplementedError

    def compile_sites(self, sites: Mapping[int, SiteNeeds]) -> None:
        raise NotImplementedError

    def install_sites(self, prepared: None) -> None:
        raise NotImplementedError

    def states(self, layer: int) -> NDArray[np.float32]:
        raise NotImplementedError

    def unedited(self, layer: int) -> NDArray[np.float32]:
        raise NotImplementedError

    def read_block(self, block: int) -> bytes:
        return bytes(self.cells[block].data)

    def write_block(self, block: int, content: memoryview) -> None:
        self.cells[block] = np.frombuffer(content, np.int64)

    def copy_block(self, source: int, target: int) -> None:
        self.cells[target] = self.cells[source]

    def rest(self) -> None:
        raise NotImplementedError

    def _compute(self, batch: Batch, index: int) -> list[tuple[int, int]]:
        """Write one sequence's chunk: for each token its place in the batch and the token that follows."""
        first, last = batch.subsequence_begins[index : index + 2]
        table = batch.block_indices[slice(*batch.block_indices_begins[index : index + 2])]
        past = int(batch.past_lens[index])
        end = past + last - first
        if end in batch.past_lens[index + 1 : index + 2]:  # the next piece of the same sequence, perhaps
            assert len(table) >= -(-end // self.block_size), "the table is shorter than its content"
        else:
            assert len(table) == -(-end // self.block_size), "the table is not as long as its content"
        assert batch.position_ids[first:last].tolist() == list(range(past, past + last - first))
        found = []
        for place in range(first, last):
            position = int(batch.position_ids[place])
            before = self.cells[table].reshape(-1)[:position]
            written = _cell(before, int(batch.input_ids[place]))
            self.cells[table[position // self.block_size], position % self.block_size] = written
            found.append((place, written % VOCABULARY))
        return found


class FakeOracle:
    """What FakeRunner must amount to: one sequence after another, its history in a plain array."""

    def continuation(self, prompt: tuple[int, ...], count: int) -> list[int]:
        cells = np.zeros(len(prompt) + count, np.int64)
        tokens = list(prompt)
        for position in range(len(cells)):
            cells[position] = _cell(cells[:position], tokens[position])
            if position >= len(prompt) - 1:
                tokens.append(int(cells[position]) % VOCABULARY)
        return tokens[len(prompt) : len(prompt) + count]

    def gap(self, tokens: list[int]) -> float:
        return 1.0


def _cell(before: Cells, token: int) -> int:
    return crc32(before.tobytes() + token.to_bytes(8, "little"))


class PassingRunner:
    """A runner in front of another; subclasses inspect or change what `forward` gets or returns."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.name, self.rewinds = runner, runner.name, runner.rewinds
        self.num_blocks, self.spare_block = runner.num_blocks, runner.spare_block
        self.block_size, self.block_bytes = runner.block_size, runner.block_bytes
        self.vocabulary, self.width = runner.vocabulary, runner.width
        self.fingerprint, self.block_bytes_by_type = runner.fingerprint, runner.block_bytes_by_type
        self.min_invariant_tokens = runner.min_invariant_tokens
        self.max_invariant_tokens, self.num_layers = runner.max_invariant_tokens, runner.num_layers
        self.rounds_apart = runner.rounds_apart

    @property
    def layers(self) -> frozenset[int]:
        return self.runner.layers

    def compile_sites(self, sites: Mapping[int, SiteNeeds]) -> Sites:
        return self.runner.compile_sites(sites)

    def install_sites(self, prepared: Sites) -> None:
        self.runner.install_sites(prepared)

    def states(self, layer: int) -> NDArray[np.float32]:
        return self.runner.states(layer)

    def unedited(self, layer: int) -> NDArray[np.float32]:
        return self.runner.unedited(layer)

    def hidden(self) -> NDArray[np.float32]:
        return self.runner.hidden()

    def read_block(self, block: int) -> bytes:
        return self.runner.read_block(block)

    def write_block(self, block: int, content: memoryview) -> None:
        self.runner.write_block(block, content)

    def copy_block(self, source: int, target: int) -> None:
        self.runner.copy_block(source, target)

    def rest(self) -> None:
        self.runner.rest()
