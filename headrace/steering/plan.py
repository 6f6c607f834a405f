"""Plans: the edits of one sequence in raw numbers, their fingerprint, and their scopes: the tokens on which
each acts. A scope is resolved for one prompt, and is a pure function of a token's position afterwards, so
chunks, preemption and drafts do not change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from struct import pack

import numpy as np
from numpy.typing import NDArray

from headrace.steering.slot import Group, Slot
from headrace.steering.types import Apply, ResolvedOp

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PromptFacts:
    """What scopes need to know of a prompt."""

    tokens: Sequence[int]
    roles: Sequence[str | None] | None = None  # of each token's message; None: the text has no messages
    special: frozenset[int] = frozenset()  # tokens with a special meaning
    thinking: Mask | None = None  # [tokens] that are part of a thought; None: no token is
    is_suspended: bool = False  # a grammar constrains the first generated token
    is_thinking: bool = False  # ... or it is part of a thought


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """`prompt`[prompt tokens]: which of them are covered. `begin`, `end`: positions of generated tokens that
    are covered, where nothing excepts them.
    """

    prompt: Mask
    begin: int
    end: int
    special: frozenset[int] = frozenset()  # generated tokens that are not covered
    skips_calls: bool = False  # tokens after which a grammar constrains the next one are not covered
    skips_thoughts: bool = False

    @property
    def is_empty(self) -> bool:
        return not self.prompt.any() and self.begin >= self.end

    @property
    def depends_on_answer(self) -> bool:
        """Whether a generated token's part in the answer (a call, a thought), and not only its position,
        decides if it is steered.
        """
        return self.begin < self.end and (self.skips_calls or self.skips_thoughts)

    def covers(self, tokens: Sequence[int], start: int, end: int, flags: Sequence[int] = ()) -> Mask:
        """Whether each of the positions start … end is covered: bool[end - start].

        `tokens`: of the positions start … end. `flags`: of each generated token of the sequence, IN_CALL and
        IN_THOUGHT; what is missing is 0.
        """
        num_prompt = len(self.prompt)
        covered = np.zeros(end - start, np.bool_)
        if start < num_prompt:
            part = self.prompt[start:end]
            covered[: len(part)] = part
        for position in range(max(start, num_prompt, self.begin), min(end, self.end)):
            generated = position - num_prompt
            flag = flags[generated] if generated < len(flags) else 0
            is_skipped = (self.skips_calls and flag & IN_CALL) or (self.skips_thoughts and flag & IN_THOUGHT)
            covered[position - start] = not is_skipped and tokens[position - start] not in self.special
        return covered


IN_CALL, IN_THOUGHT = 1, 2  # flags of a generated token


def resolve(apply: Apply, facts: PromptFacts) -> Scope:
    """The scope of an op on one prompt. Negative positions count from the prompt's end."""
    count = len(facts.tokens)
    begin, end = _window(apply, count)
    is_covered = np.full(count, apply.prompt)
    if apply.prompt and apply.roles is not None:
        roles = facts.roles or [None] * count
        is_covered = np.array([role in apply.roles for role in roles], np.bool_)
    generates = apply.generation
    is_covered[-1] |= generates or apply.prompt_last
    positions = np.arange(count)
    is_covered &= (positions >= begin) & (positions < end)
    _except(is_covered, apply, facts)
    return Scope(
        is_covered,
        max(begin, count) if generates else 0,
        end if generates else 0,
        facts.special if "special" in apply.exceptions else frozenset(),
        "tool_calls" in apply.exceptions,
        "thinking" in apply.exceptions,
    )


def _except(is_covered: Mask, apply: Apply, facts: PromptFacts) -> None:
    """Take the prompt's excepted tokens out."""
    if "first" in apply.exceptions:
        is_covered[0] = False
    if "special" in apply.exceptions and facts.special:
        is_covered &= ~np.isin(np.array(facts.tokens), np.fromiter(facts.special, np.int64))
    if "thinking" in apply.exceptions and facts.thinking is not None:
        is_covered &= ~facts.thinking
    is_excepted = ("tool_calls" in apply.exceptions and facts.is_suspended) or (
        "thinking" in apply.exceptions and facts.is_thinking
    )
    if is_excepted:
        is_covered[-1] = False


def _window(apply: Apply, count: int) -> tuple[int, int]:
    first, last = apply.window or (None, None)
    begin = 0 if first is None else first if first >= 0 else max(0, count + first)
    end = 2**62 if last is None else last if last >= 0 else max(0, count + last)
    return begin, end


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
        """Find which of the positions start … end each scope covers. See Scope.covers."""
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
