"""A decoder of transformers, called in the ways that the runners need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from headrace.engine.torch.attention import NAME, NotPageable, PassAttention, current
from headrace.errors import ModelError


def to_numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array


class Decoder:
    """A causal language model with its head. Not thread-safe."""

    def __init__(self, model: Any) -> None:
        """`model`: a PreTrainedModel with a language-model head. Raises ModelError if it has none."""
        self.model = model.eval()
        # Of a model of several, as those that see images, that of the one which reads text.
        self._text_config = model.config.get_text_config()
        self._own_attention = self._text_config._attn_implementation
        head: nn.Module | None = model.get_output_embeddings()
        if head is None:
            raise ModelError(f"{type(model).__name__} has no language-model head")
        head.register_forward_pre_hook(self._select)
        self.num_embeddings: int = model.get_input_embeddings().weight.shape[0]
        self.num_layers: int = getattr(self._text_config, "num_hidden_layers", 0)
        self.device: torch.device = head.weight.device
        self.dtype: torch.dtype = head.weight.dtype
        self._rows: torch.Tensor | None = None  # whose logits are wanted; None: all
        self.states = torch.empty(0)  # of the last pass, the head's input: [T, width]

    def packed(
        self, ids: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor | None, step: PassAttention
    ) -> torch.Tensor:
        """One pass over ids[T] of many sequences, whose attention `step` computes: logits[R, vocabulary] of
        `rows`; None: of all.
        """
        token = current.set(step)
        try:
            # With a mask of ones, transformers does not look for several sequences in the positions.
            return self._run(
                rows,
                input_ids=ids[None],
                position_ids=positions[None],
                attention_mask=torch.ones_like(ids[None]),
                use_cache=False,
            ).logits[0]
        finally:
            current.reset(token)

    def plain(self, ids: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """One pass over a whole sequence, as transformers does it: logits[R, vocabulary]."""
        with self.own_attention():
            return self._run(rows, input_ids=ids[None], use_cache=False).logits[0]

    def continued(self, ids: torch.Tensor, cache: Any, rows: torch.Tensor | None) -> tuple[torch.Tensor, Any]:
        """One pass over further ids[T] of a sequence with the model's own cache; None: there are none before.
        Returns logits[R, vocabulary] and the cache.
        """
        with self.own_attention():
            output = self._run(
                rows, input_ids=ids[None], use_cache=True, **({"cache": cache} if cache else {})
            )
            return output.logits[0], output.cache

    def use_paged_attention(self) -> None:
        """Let `packed` be called. Raises NotPageable if the model has no place for another attention, or
        keeps more than keys and values.
        """
        self._check_cache()
        try:
            self.model.set_attn_implementation(NAME)
        except (ValueError, AttributeError) as exc:
            raise NotPageable(str(exc).partition("\n")[0]) from exc
        if self._text_config._attn_implementation != NAME:
            raise NotPageable("its attention cannot be replaced")

    def _check_cache(self) -> None:
        """Raise NotPageable if the model's own cache has layers with a recurrent state. In short numbers,
        the little that such a state may change in a short prompt would pass for rounding.
        """
        try:
            _, cache = self.continued(torch.arange(4, device=self.device), None, None)
            has_state = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)
        except AttributeError:  # it has no cache of transformers' kind
            has_state = self.dtype != torch.float32
        if has_state:
            raise NotPageable("it keeps more than keys and values")

    @contextmanager
    def own_attention(self) -> Iterator[None]:
        before = self._text_config._attn_implementation
        if before == self._own_attention:
            yield
            return
        self.model.set_attn_implementation(self._own_attention)
        try:
            yield
        finally:
            self.model.set_attn_implementation(before)

    def _run(self, rows: torch.Tensor | None, **arguments: object) -> Any:
        self._rows = rows
        try:
            with torch.inference_mode():
                return self.model(**arguments)
        finally:
            self._rows = None

    def _select(self, head: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Before the head: keep its input, and give it the rows that are wanted only."""
        states = arguments[0]
        self.states = states.reshape(-1, states.shape[-1])
        chosen = states if self._rows is None else self.states[self._rows][None]
        return (chosen, *arguments[1:])
