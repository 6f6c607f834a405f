"""One call of a layer's attention, as transformers' models make it, and the step that answers it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

import torch

# (batch index, head index, positions of queries, positions of keys) → whether the query may see the key
MaskFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class NotPageable(Exception):
    """The model does something in its attention that the paged cache does not know."""


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """Which keys a query sees. It goes through the model in the place of an attention mask."""

    function: MaskFunction | None  # None: all before it, and itself


@dataclass(frozen=True, slots=True)
class Call:
    """Queries, keys and values of T tokens, packed without padding, after rotation."""

    query: torch.Tensor  # [1, heads, T, width]
    key: torch.Tensor  # [1, key heads, T, width]
    value: torch.Tensor  # [1, key heads, T, width of values]
    rule: Rule
    window: int | None  # a query sees so many keys at most
    scale: float
    softcap: float | None  # scores are softcap · tanh(scores / softcap) (Gemma 2)
    sinks: torch.Tensor | None  # [heads] scores that take part in the softmax, and have no value (gpt-oss)


class Answering(Protocol):
    """Something that computes the attention of one forward pass."""

    def attend(self, call: Call) -> torch.Tensor:
        """Compute the attention of the pass's next layer: [1, T, heads, width of values]."""
        ...


# The pass under way in this thread. Models take no argument that they would pass on unchanged to all layers.
current: ContextVar[Answering] = ContextVar("current")
