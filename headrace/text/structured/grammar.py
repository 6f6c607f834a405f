"""Constrained decoding: computes which tokens may follow so that the text obeys a schema, a regular
expression, a list or a grammar. Wraps `llguidance`; importing this module loads it.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import gbnf_to_lark
from numpy.typing import NDArray

from headrace.errors import BadRequest
from headrace.text.structured.formats import literal
from headrace.text.structured.keywords import ALL_NARROWINGS
from headrace.text.structured.patterns import readable
from headrace.text.structured.schema import LIMITS, json_grammar, measure
from headrace.types import Format

__all__ = ["Constraint", "GrammarFailed", "Grammars", "json_grammar", "lark_source", "schema_of"]

# Compiled grammars, and the tokens of all texts that followed them: what a grammar computes stays with it, of
# some expressions 40 kB for each token.
CACHED, CACHED_TOKENS = 64, 20_000
# llguidance's time grows with the square of an expression's length. It recurses through rules that refer to
# each other, one per line; several thousand overflow its stack.
MAX_REGEX, MAX_CHOICES, MAX_LARK, MAX_LINES = 10_000, 500_000, 100_000, 1_000
MAX_GBNF = 20_000  # characters; its translation is quadratic
# The time that an ambiguous grammar (`s: s s | "a"`) takes for a token grows with the square of the text, and
# `accept` holds the GIL: seconds of processor time after which a token is slow, and how many end it.
SLOW_S, MAX_SLOW = 0.025, 5
_GBNF = re.compile(r"^[ \t]*[\w-]+[ \t]*::=", re.MULTILINE)
_JSON = re.compile(r"%json\s+(?=\{)")


class GrammarFailed(Exception):
    """The matcher of one sequence failed: it reached a limit, or got a token that was not allowed."""


class _Compiled:
    """A compiled grammar, and how many tokens its copies have accepted."""

    def __init__(self, matcher: LLMatcher) -> None:
        self.matcher, self.num_tokens = matcher, 0


class Constraint:
    """The constraint on one sequence. Not thread-safe."""

    def __init__(self, compiled: _Compiled, words: int, no_end: int | None) -> None:
        self._compiled, self._matcher, self._words = compiled, compiled.matcher.deep_copy(), words
        self._no_end = no_end  # a made-up end token, if the model has none
        self._own = np.zeros(words, np.int32) if no_end is not None else None
        self._num_slow = 0

    @property
    def is_complete(self) -> bool:
        """Whether no token but the end of the text may follow."""
        return bool(self._matcher.is_stopped())

    def fill(self, mask: NDArray[np.int32]) -> None:
        """Write the mask, int32[n] with n ≥ vocabulary / 32: bit t % 32 of word t // 32 is set if token t may
        follow. End tokens may follow where the text may end; where only one text can follow, only the tokens
        that usually write it. Releases the GIL. Raises GrammarFailed.
        """
        assert mask.dtype == np.int32
        assert mask.ndim == 1
        assert mask.flags.c_contiguous
        target = mask if self._own is None else self._own
        assert target.size >= self._words
        self._matcher.unsafe_compute_mask_ptr(target.ctypes.data, self._words * 4)
        if self._matcher.is_error():
            raise self._failed(readable(self._matcher.get_error()))
        if self._own is not None and self._no_end is not None:
            self._own[self._no_end // 32] &= ~np.int32(np.uint32(1 << self._no_end % 32).view(np.int32))
            mask[: self._words] = self._own[: mask.size]
        mask[self._words :] = 0

    def forced(self) -> list[int]:
        """The tokens that must follow, because only one text can."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        return tokens

    def accept(self, token: int) -> bool:
        """Advance by a sampled token, other than an end token. True: only the end of the text can follow.
        Raises GrammarFailed.
        """
        started = time.thread_time()
        if not self._matcher.consume_token(token):
            raise self._failed(readable(self._matcher.get_error()))
        self._compiled.num_tokens += 1
        self._num_slow += time.thread_time() - started > SLOW_S
        if self._num_slow >= MAX_SLOW:
            raise self._failed("the grammar is too ambiguous")
        return bool(self._matcher.is_stopped())

    def _failed(self, why: str) -> GrammarFailed:
        # The limits count what all copies have computed: the next request compiles the grammar anew.
        self._compiled.num_tokens = CACHED_TOKENS
        return GrammarFailed(why)


class Grammars:
    """Compiles formats for one vocabulary, and caches the results. Thread-safe.

    `token_bytes[id]`: the bytes of each token, none for special ones; `special`: literal → id of these;
    `encode`: text → ids.
    """

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        special: Mapping[str, int],
        eos_token_ids: Sequence[int],
        encode: Callable[[str], list[int]],
    ) -> None:
        vocabulary = _Vocabulary(token_bytes, special, eos_token_ids, encode)
        self._no_end = None if eos_token_ids else vocabulary.eos_token_id
        self._tokenizer = LLTokenizer(TokenizerWrapper(vocabulary), eos_token=list(eos_token_ids) or None)
        self._words = (len(vocabulary.tokens) + 31) // 32
        self._compiled: OrderedDict[str, _Compiled] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, format: Format, allowed: frozenset[str] = ALL_NARROWINGS) -> Constraint:
        """Create a constraint. `allowed`: names of narrowings. Raises BadRequest; for schemas InvalidSchema,
        UnsupportedSchema.
        """
        measure(format.value, format.param)
        key = json.dumps([format.kind, format.value, sorted(allowed)])
        return self._constraint(key, lambda: _source(format, allowed), format.param)

    def compile_lark(self, source: str, *, param: str) -> Constraint:
        """Create a constraint from a Lark grammar: <name> is a special token, %json precedes a result of
        `json_grammar`. Raises BadRequest.
        """
        return self._constraint(source, lambda: LLMatcher.grammar_from_lark(source), param)

    def _constraint(self, key: str, grammar: Callable[[], str], param: str) -> Constraint:
        with self._lock:
            self._evict()
            compiled = self._compiled.get(key)
        if compiled is None:
            compiled = _Compiled(self._matcher(grammar(), param))
        with self._lock:
            self._compiled[key] = compiled
            self._compiled.move_to_end(key)
            self._evict()
            return Constraint(compiled, self._words, self._no_end)

    def _evict(self) -> None:
        """Drop compiled grammars that reached the limit alone, then the least recently used ones, until the
        rest is within both limits.
        """
        for key in [key for key, one in self._compiled.items() if one.num_tokens >= CACHED_TOKENS]:
            del self._compiled[key]
        num_tokens = sum(compiled.num_tokens for compiled in self._compiled.values())
        while len(self._compiled) > CACHED or num_tokens >= CACHED_TOKENS:
            num_tokens -= self._compiled.popitem(last=False)[1].num_tokens

    def _matcher(self, grammar: str, param: str) -> LLMatcher:
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        first = matcher.deep_copy()
        mask = first.compute_bitmask() if not first.is_error() else b""  # fills caches that all copies share
        if first.is_error():
            raise BadRequest.at(param, readable(first.get_error()))
        if not any(mask):
            raise BadRequest.at(param, "no text satisfies it")
        return matcher


class _Vocabulary:
    """The interface that llguidance's TokenizerWrapper requires."""

    bos_token_id = None

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        special: Mapping[str, int],
        eos_token_ids: Sequence[int],
        encode: Callable[[str], list[int]],
    ) -> None:
        self.tokens = list(token_bytes)
        self.special_token_ids = sorted(special.values())
        for name, token in special.items():
            self.tokens[token] = name.encode()
        if not eos_token_ids:  # llguidance requires one: an id beyond the vocabulary
            self.special_token_ids.append(len(self.tokens))
            self.tokens.append(b"<|no end|>")
        self.eos_token_id = eos_token_ids[0] if eos_token_ids else len(self.tokens) - 1
        self._encode = encode

    def __call__(self, text: bytes | str) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


def schema_of(format: Format) -> object:
    """The schema of a format of JSON."""
    return {"json_object": {"type": "object"}, "json_schema": format.value}.get(format.kind)


def _source(format: Format, allowed: frozenset[str]) -> str:
    """The format as a grammar for the matcher. JSON schemas compile faster alone than inside Lark."""
    if format.kind.startswith("json"):
        return LLMatcher.grammar_from_json_schema(json_grammar(schema_of(format), format.param, allowed))
    return LLMatcher.grammar_from_lark(lark_source(format, allowed))


def lark_source(format: Format, allowed: frozenset[str] = ALL_NARROWINGS) -> str:
    """The format as a Lark grammar. `allowed`: names of narrowings. Raises BadRequest."""
    value, param = format.value, format.param
    if format.kind.startswith("json"):
        return f"start: %json {json_grammar(schema_of(format), param, allowed)}"
    if format.kind == "choice":
        if not isinstance(value, list | tuple) or not value or not all(isinstance(one, str) for one in value):
            raise BadRequest.at(param, "give a list of at least one string")
        return _of_expression(_short("|".join(map(literal, value)), MAX_CHOICES, param))
    if not isinstance(value, str):
        raise BadRequest.at(param, "give a string")
    if format.kind == "regex":
        return _of_expression(_short(value, MAX_REGEX, param))
    if _short(value, MAX_LARK, param).count("\n") >= MAX_LINES:
        raise BadRequest.at(param, f"more than {MAX_LINES} lines")
    if _GBNF.search(value) and "%llguidance" not in value:
        return _as_lark(_short(value, MAX_GBNF, param), param)
    return _with_schemas(value, param, allowed)


def _of_expression(expression: str) -> str:
    source: str = json.loads(LLMatcher.grammar_from_regex(expression))["grammars"][0]["lark_grammar"]
    return source


def _as_lark(source: str, param: str) -> str:
    """Translate a grammar from llama.cpp's syntax (GBNF) to Lark."""
    try:
        return gbnf_to_lark(source)
    except Exception as exc:  # it raises plain exceptions, and RecursionError
        raise BadRequest.at(param, str(exc)[:200]) from exc


def _short(source: str, limit: int, param: str) -> str:
    if len(source) > limit:
        raise BadRequest.at(param, f"longer than {limit} characters")
    return source


def _with_schemas(source: str, param: str, allowed: frozenset[str]) -> str:
    """Replace each %json schema in a caller's Lark grammar by its `json_grammar`."""
    pieces, position = [], 0
    while match := _JSON.search(source, position):
        try:
            schema, end = json.JSONDecoder().raw_decode(source, match.end())
        except (ValueError, RecursionError) as exc:
            raise BadRequest.at(param, f"what follows %json is no JSON: {exc}") from exc
        pieces += [source[position : match.end()], json_grammar(schema, param, allowed)]
        position = end
    return "".join([*pieces, source[position:]])
