"""The order of reasoning, text and tool calls in an assistant's message."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.types import Thought, ToolCall

Piece = str | Thought | ToolCall


def in_order(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """The value of Message.in_order: the pieces, or () if they have the usual order, thoughts first."""
    spoken = [piece for piece in pieces if piece != ""]
    first = next((at for at, piece in enumerate(spoken) if not isinstance(piece, Thought)), len(spoken))
    return tuple(spoken) if any(isinstance(piece, Thought) for piece in spoken[first:]) else ()
