"""The attention function and the mask function that transformers' models call under the name NAME.

The models pass what is particular to a layer: its window, its scale, a soft cap, sinks. An argument that this
module does not know makes the model unfit for paging, because ignoring it might change its text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "headrace"
# Arguments that change nothing here: the first for training, the others for other kinds of attention.
UNUSED = frozenset(
    {
        "dropout", "is_causal", "output_attentions", "output_hidden_states", "position_ids", "use_cache",
        "cache", "past_key_values", "cache_position", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q",
        "max_length_k", "layer_idx", "logits_to_keep", "deterministic", "return_dict",
    }
)  # fmt: skip
# (batch index, head index, positions of queries, positions of keys) → whether the query may see the key
MaskFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class NotPageable(Exception):
    """The model does something in its attention that the paged cache does not know."""


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """Which keys a query sees. It goes through the model in the place of an attention mask."""

    function: MaskFunction | None  # None: all before it, and itself


PLAIN = Rule(None)


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


class PassAttention(Protocol):
    """Computes the attention of one forward pass, layer by layer."""

    def attend(self, call: Call) -> torch.Tensor:
        """Compute the attention of the pass's next layer: [1, T, heads, width of values]."""
        ...


# The pass under way in this thread. Models take no argument that they would pass on unchanged to all layers.
current: ContextVar[PassAttention] = ContextVar("current")


def register() -> None:
    """Make NAME known to transformers. Again is harmless."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)


def _mask(*, mask_function: Any = None, **_: object) -> Rule:
    """What takes the place of a mask of all positions: the rule that would make it."""
    return Rule(mask_function)


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: object,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    _check(query, key, others)
    call = Call(
        query=query,
        key=key,
        value=value,
        rule=attention_mask if isinstance(attention_mask, Rule) else PLAIN,
        window=sliding_window,
        scale=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        softcap=softcap,
        sinks=s_aux if sinks is None else sinks,
    )
    return current.get().attend(call), None


def _check(query: torch.Tensor, key: torch.Tensor, others: Mapping[str, object]) -> None:
    """Raise NotPageable for arguments that are not known, and for queries of other tokens than the keys."""
    for name, value in others.items():
        if name not in UNUSED and value is not None and value is not False:
            raise NotPageable(f"its attention takes {name!r}")
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise NotPageable("its attention is not over the tokens of the pass")


def attended(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    call: Call,
    least: int = 2,
) -> torch.Tensor:
    """Attention of B sequences over L positions each: query[B, heads, Q, width], key[B, key heads, L, width],
    value[B, key heads, L, width of values], mask[1 or B, 1, Q, L] added to the scores; None: nothing is
    masked. Returns [B, Q, heads, width of values].

    The heads that share a key head become further queries of it: then keys need not be repeated. `least`: how
    many those of a single query are at least; the kernel takes two rows in the time of one.
    """
    count, heads, length, width = query.shape
    shared = heads // key.shape[1]
    folded = query.reshape(count, key.shape[1], shared * length, width)
    if length == 1 and shared < least:
        folded = nn.functional.pad(folded, (0, 0, 0, least - shared))
    elif length == 1 and shared % 2:
        folded = nn.functional.pad(folded, (0, 0, 0, 1))
    if mask is not None and shared > 1 and length > 1:
        mask = mask.repeat(1, 1, shared, 1)
    if call.softcap is None and call.sinks is None:
        out = _fused(folded, key, value, call, mask=mask)
    else:
        out = _by_hand(folded, key, value, mask, call, length)
    out = out[:, :, : shared * length]
    return out.reshape(count, heads, length, value.shape[-1]).transpose(1, 2).contiguous()


def attended_from_start(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: Call
) -> torch.Tensor:
    """`attended` for the first tokens of one sequence, each of which sees those before it and itself. There
    may be more keys, which none sees.
    """
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    return _fused(query, key, value, call, mask=None, is_causal=True).transpose(1, 2).contiguous()


def _fused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    call: Call,
    *,
    mask: torch.Tensor | None,
    is_causal: bool = False,
) -> torch.Tensor:
    """torch's own operator. It has a fast kernel for values as wide as the keys: narrower ones are padded."""
    width = value.shape[-1]
    if width < key.shape[-1]:
        value = nn.functional.pad(value, (0, key.shape[-1] - width))
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=is_causal, scale=call.scale
    )
    return out[..., :width]


def _by_hand(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    call: Call,
    length: int,
) -> torch.Tensor:
    """Attention with a soft cap or with sinks, which torch's own operator does not have."""
    scores = (query @ key.transpose(2, 3)).float() * call.scale
    if call.softcap is not None:
        scores = torch.tanh(scores / call.softcap) * call.softcap
    if mask is not None:
        scores = scores + mask.float()
    if call.sinks is None:
        weights = scores.softmax(-1)
    else:
        sinks = call.sinks.reshape(1, key.shape[1], -1, 1).float()
        sinks = sinks.repeat_interleave(length, 2)
        sinks = nn.functional.pad(sinks, (0, 0, 0, query.shape[2] - sinks.shape[2]))  # for rows of padding
        sinks = sinks.expand(query.shape[0], -1, -1, -1)
        weights = torch.cat((scores, sinks), -1).softmax(-1)[..., :-1]
    return weights.to(value.dtype) @ value
