"""The runner for decoders whose whole state is keys and values: many sequences in one pass, paged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from headrace.engine.batch import Batch, one_token
from headrace.engine.torch import measured_rounding
from headrace.engine.torch.cache import BLOCK_SIZE, Layout, PagedCache, Probe
from headrace.engine.torch.decoder import Decoder, to_numpy
from headrace.engine.torch.packing import Matrices
from headrace.engine.torch.rounding import FASTEST, UNLIMITED, Rounding
from headrace.engine.torch.sites import Sites
from headrace.engine.torch.step import Step
from headrace.steering.slot import SiteNeeds

PROBED = (128, 64, 32, 16, 8)  # sizes of steps, in tokens, that are compared with a step of two
PROBE_TOKENS = 4


class TorchRunner:
    """A decoder with a paged KV cache (see Runner)."""

    name, rewinds = "torch", True
    block_size = BLOCK_SIZE

    def __init__(
        self,
        decoder: Decoder,
        matrices: Matrices,
        *,
        kv_cache_bytes: int,
        max_tokens: int,
        fingerprint: bytes,
    ) -> None:
        """Raises NotPageable. `max_tokens`: an upper bound of the cache, in tokens."""
        self._matrices = matrices
        self.decoder, self._device, self.fingerprint = decoder, decoder.device, fingerprint
        decoder.use_paged_attention()
        layout, logits = _probed(decoder)
        self.vocabulary, self.width = logits.shape[-1], decoder.states.shape[-1]
        self.num_layers = decoder.num_layers
        self.block_bytes = layout.numbers * BLOCK_SIZE * decoder.dtype.itemsize
        self.block_bytes_by_type: Mapping[str, int] = {}  # the cache has the model's numbers, and no others
        fitting = min(kv_cache_bytes // self.block_bytes, -(-max_tokens // BLOCK_SIZE))
        self.num_blocks = self.spare_block = max(2, fitting)
        self._sites = Sites(decoder.model, self.num_layers, self._device)
        self._cache = PagedCache(layout, self.num_blocks, decoder.dtype, self._device)
        self._hidden_rows = torch.zeros(0, dtype=torch.int64, device=self._device)
        self._set_rounding(layout)
        self.min_invariant_tokens, self.max_invariant_tokens = 2, self._find_max_invariant_tokens()

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        return self._forward(batch, careful=any(sequence.params.invariant for sequence in batch.sequences))

    def _forward(self, batch: Batch, *, careful: bool) -> NDArray[np.float32]:
        """`careful`: round each token alike, whatever is beside it."""
        rows = batch.rows if len(batch.rows) else np.zeros(1, np.int64)
        step = Step(batch, self._cache, self._device, self._careful if careful else self._usual)
        ids, positions = self._to_device(batch.input_ids), self._to_device(batch.position_ids)
        with self._sites.during(batch), self._matrices.careful(careful):
            logits = self.decoder.packed(ids, positions, self._to_device(rows), step)
        self._hidden_rows = self._to_device(batch.hidden_rows)
        self._mend(batch)
        return to_numpy(logits)[: len(batch.rows)]

    def hidden(self) -> NDArray[np.float32]:
        return to_numpy(self.decoder.states[self._hidden_rows])

    @property
    def layers(self) -> frozenset[int]:
        return self._sites.layers

    def compile_sites(self, sites: Mapping[int, SiteNeeds]) -> Mapping[int, SiteNeeds]:
        self._sites.check(sites)
        return sites

    def install_sites(self, prepared: Mapping[int, SiteNeeds]) -> None:
        self._sites.install(prepared)

    def states(self, layer: int) -> NDArray[np.float32]:
        return self._sites.states(layer)

    def unedited(self, layer: int) -> NDArray[np.float32]:
        return self._sites.unedited(layer)

    def read_block(self, block: int) -> bytes:
        return self._cache.read_block(block)

    def write_block(self, block: int, content: memoryview) -> None:
        self._cache.write_block(block, content)

    def copy_block(self, source: int, target: int) -> None:
        self._cache.copy_block(source, target)

    def rest(self) -> None:
        self.decoder.states = self.decoder.states[:0].clone()

    def _to_device(self, array: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)

    def _mend(self, batch: Batch) -> None:
        """Make the batch's blocks finite if a hidden state is not: its keys and values may not be either. The
        sequence fails, but its blocks are used again, and attention spoils on infinite numbers even where a
        mask hides them.
        """
        if not torch.isfinite(self.decoder.states.sum()):
            self._cache.mend(torch.from_numpy(batch.block_indices.astype(np.int64)).to(self._device))

    def _set_rounding(self, layout: Layout) -> None:
        """Find how to round alike. If the fast way does it for prompts, all steps take it and share blocks;
        else those with an invariant sequence have a slower way of their own.
        """
        with torch.inference_mode():
            rounding = (
                measured_rounding.rounding(layout.calls, self._cache.dtype)
                if self._device.type == "cpu"
                else None
            )
        self._careful = rounding or Rounding(single=True)
        self.rounds_apart = self._matrices.rounds_apart or not self._careful.starts
        self._usual = FASTEST if self.rounds_apart else replace(self._careful, single=False, rows=2)

    def _find_max_invariant_tokens(self) -> int:
        """Compare a token's logits in steps of several sizes: what else the model computes may be rounded in
        another way where it is much.
        """
        logits = self._forward(one_token(self.spare_block, copies=2), careful=True)[0].copy()
        for size in PROBED:
            rows = self._forward(one_token(self.spare_block, copies=size), careful=True)
            if np.array_equal(rows[0], logits):
                return UNLIMITED if size == PROBED[0] else size
        return 2


def _probed(decoder: Decoder) -> tuple[Layout, torch.Tensor]:
    """What the model keeps for each token, and logits[1, vocabulary], from a first pass over a few tokens."""
    ids = torch.arange(PROBE_TOKENS, device=decoder.device)
    probe = Probe()
    logits = decoder.packed(ids, ids, ids[:1], probe)
    return probe.layout(), logits
