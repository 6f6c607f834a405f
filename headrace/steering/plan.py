"""Plans: the edits of one sequence in raw numbers, the tokens that each acts on, and their fingerprint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from struct import pack

import numpy as np
from numpy.typing import NDArray

from headrace.steering.scope import Mask, Scope
from headrace.steering.slot import Group, Slot
from headrace.steering.types import ResolvedOp


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """One slot at one layer. `scope`: the index of its scope in the plan."""

    layer: int
    slot: Slot
    strength: float
    scope: int
    preserve_norm: bool = False
    op: int = -1  # which of the plan's ops it is
    key: bytes = b""  # 16 bytes: a hash of what it does, without the scope

    def __post_init__(self) -> None:
        numbers = pack("<qd?", self.layer, self.strength, self.preserve_norm)
        object.__setattr__(self, "key", blake2b(self.slot.key + numbers, digest_size=16).digest())


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The slots of one group at one layer, by their keys. `strengths`[scopes, slots]: 0 where a scope has no
    term with the slot; `norm_scopes`: the scopes whose rows get their norm back.
    """

    layer: int
    group: Group
    slots: tuple[Slot, ...]
    strengths: NDArray[np.float32]
    norm_scopes: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All edits of one sequence. Terms of strength 0 are not part of a plan."""

    terms: tuple[Term, ...]
    scopes: tuple[Scope, ...]
    ops: tuple[ResolvedOp, ...] = ()  # what the terms came from
    relative_dose: float | None = None
    layers: frozenset[int] = field(init=False)
    tables: tuple[Table, ...] = field(init=False)
    depends_on_answer: bool = field(init=False)  # drafts cannot be computed: what follows is not known
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", frozenset(term.layer for term in self.terms))
        object.__setattr__(self, "tables", tuple(self._tables()))
        depends = any(scope.depends_on_answer for scope in self.scopes)
        object.__setattr__(self, "depends_on_answer", depends)
        object.__setattr__(self, "fingerprint", self._digest())

    def covered(self, tokens: Sequence[int], start: int, end: int, flags: Sequence[int]) -> list[Mask]:
        """For each scope, find which of the positions start … end it covers. See Scope.covers."""
        return [scope.covers(tokens, start, end, flags) for scope in self.scopes]

    def count(self, tokens: Sequence[int], end: int, flags: Sequence[int]) -> int:
        """How many of the positions before `end` are edited."""
        masks = self.covered(tokens[:end], 0, end, flags)
        used = {term.scope for term in self.terms}
        return int(np.logical_or.reduce([masks[scope] for scope in used]).sum())

    def effect(self, tokens: Sequence[int], start: int, end: int, flags: Sequence[int]) -> bytes:
        """What the plan does to the positions start … end, as 16 bytes that are equal for equal edits; none
        where it does nothing, so that steered and unsteered prompts share such blocks.
        """
        masks = self.covered(tokens, start, end, flags)
        touched = [mask.any() for mask in masks]
        if not any(touched):
            return b""
        parts = sorted(
            term.key + np.packbits(masks[term.scope]).tobytes() for term in self.terms if touched[term.scope]
        )
        return blake2b(b"".join(parts), digest_size=16).digest()

    def _tables(self) -> Iterator[Table]:
        for layer, group in sorted({(term.layer, term.slot.group) for term in self.terms}):
            terms = [term for term in self.terms if (term.layer, term.slot.group) == (layer, group)]
            slots = {term.slot.key: term.slot for term in terms}
            columns = {key: column for column, key in enumerate(sorted(slots))}
            strengths = np.zeros((len(self.scopes), len(slots)), np.float32)
            for term in terms:
                # Added: a request may have the same op twice.
                strengths[term.scope, columns[term.slot.key]] += np.float32(term.strength)
            norm_scopes = tuple({term.scope for term in terms if term.preserve_norm})
            yield Table(layer, group, tuple(slots[key] for key in columns), strengths, norm_scopes)

    def _digest(self) -> str:
        digest = blake2b(digest_size=12)
        parts = sorted(term.key + _identity(self.scopes[term.scope]) for term in self.terms)
        digest.update(b"".join(parts))
        return digest.hexdigest()


def _identity(scope: Scope) -> bytes:
    """A hash of a scope on this prompt."""
    special = repr(sorted(scope.special)).encode()
    numbers = pack("<qq??", scope.begin, scope.end, scope.skips_calls, scope.skips_thoughts)
    mask = pack("<q", len(scope.prompt)) + np.packbits(scope.prompt).tobytes()
    return blake2b(numbers + mask + special, digest_size=16).digest()
