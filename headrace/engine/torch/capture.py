"""Hidden states of whole texts from a model that PyTorch runs: for training control vectors and SAEs, and for
reading directions by the logit lens. It is `headrace.engine.capture` for the other runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from headrace.engine.runner import Runner
from headrace.engine.torch import devices, weights
from headrace.engine.torch.decoder import Decoder, to_numpy
from headrace.engine.torch.options import TorchOptions
from headrace.engine.torch.runner import TorchRunner
from headrace.engine.torch.sequential import SequentialRunner
from headrace.engine.torch.sites import Change, hook, layers_of

Floats = NDArray[np.float32]
T = TypeVar("T")


class Run(Protocol):
    """Calls a function where the model may be used, and returns its result."""

    def __call__(self, function: Callable[[], T]) -> T: ...


def here(function: Callable[[], T]) -> T:
    """Call the function in this thread: for a model that no engine uses."""
    return function()


class TorchHiddenStates:
    """See steering.types.Capture. Layer -1 is the embeddings. Raises ModelError for a model whose layers are
    not found.
    """

    def __init__(self, decoder: Decoder, encode: Callable[[str], list[int]], run: Run = here) -> None:
        """`encode`: the tokens of a text."""
        self._decoder, self.tokens, self._run = decoder, encode, run
        self._layers = layers_of(decoder.model, decoder.num_layers)
        self.num_layers = decoder.num_layers
        self.width: int = decoder.model.get_output_embeddings().weight.shape[1]

    def states(self, tokens: Sequence[int], layers: Iterable[int]) -> dict[int, Floats]:
        """The hidden states that leave these layers, by layer: [tokens, width] each."""
        by_layer: dict[int, Floats] = {}

        def keep(layer: int, states: torch.Tensor) -> torch.Tensor:
            by_layer[layer] = to_numpy(states).reshape(len(tokens), -1)
            return states

        changes = {layer: partial(keep, layer) for layer in layers}
        self._run(lambda: self._pass(tokens, changes, torch.zeros(1, dtype=torch.int64)))
        return by_layer

    def logits(self, tokens: Sequence[int], replaced: Mapping[int, Floats] | None = None) -> Floats:
        """The logits [tokens, vocabulary]. `replaced`: states[tokens, width] that leave these layers instead
        of the model's own.
        """

        def replace(other: Floats, states: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(other, np.float32)).to(states)[None]

        changes = {layer: partial(replace, other) for layer, other in (replaced or {}).items()}
        return self._run(lambda: self._pass(tokens, changes, None))

    def _pass(
        self, tokens: Sequence[int], changes: Mapping[int, Change], rows: torch.Tensor | None
    ) -> Floats:
        """The logits of these rows; None: of all."""
        device = self._decoder.device
        with ExitStack() as hooks:
            for layer, change in changes.items():
                hooks.callback(hook(self._layers, layer, change).remove)
            ids = torch.tensor(list(tokens), device=device)
            return to_numpy(self._decoder.plain(ids, None if rows is None else rows.to(device)))


def load_states(
    folder: Path, encode: Callable[[str], list[int]], options: TorchOptions, *, exact: bool
) -> TorchHiddenStates:
    """Load the model in `folder`, without an engine. Raises ModelError. `exact`: in float32."""
    device = devices.device_of(options.device)
    dtype = weights.dtype_of(options, device, exact=exact)
    model = weights.read_model(folder, dtype, device, trusts_code=options.trusts_code)
    return TorchHiddenStates(Decoder(model), encode)


def states_of(runner: Runner, encode: Callable[[str], list[int]], run: Run) -> TorchHiddenStates:
    """The hidden states of a model that an engine has loaded. `run` calls between two steps."""
    assert isinstance(runner, TorchRunner | SequentialRunner)
    return TorchHiddenStates(runner.decoder, encode, run)
