"""What an answer has to look like, as a constraint for the engine: a prescribed form, or calls of tools."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from collections.abc import Sequence as Many
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from headrace.backends.engine.prompt import Prompt, Prompts
from headrace.engine.sequence import Constraint
from headrace.errors import BadRequest
from headrace.text.reasoning import Thinking
from headrace.text.structured.grammar import Grammars, json_grammar
from headrace.text.structured.narrowing import ALL
from headrace.text.structured.schema import measure
from headrace.text.tokenizer import Tokenizer
from headrace.text.toolcalls.lark import call_grammar
from headrace.text.toolcalls.parts import WHITESPACE
from headrace.text.toolcalls.schemas import arguments_schema
from headrace.types import Conversation, Format, GenerateRequest, Tool

log = logging.getLogger(__name__)


class Rules:
    """Constraints for one model."""

    def __init__(self, tokenizer: Tokenizer, eos_token_ids: Many[int], prompts: Prompts) -> None:
        self._tokenizer, self._eos, self._prompts = tokenizer, eos_token_ids, prompts

    @cached_property
    def _grammars(self) -> Grammars:
        """Made when the first request needs it: it reads the whole vocabulary."""
        tokenizer = self._tokenizer
        return Grammars(tokenizer.bytes_of_tokens, tokenizer.special, self._eos, tokenizer.encode)

    @cached_property
    def _thoughts(self) -> Thoughts | None:
        thinking = self._prompts.thinking
        return None if thinking is None else Thoughts(self._tokenizer, thinking, self._eos)

    def constraints(self, request: GenerateRequest, prompt: Prompt) -> list[Constraint | None]:
        """One for each of a prompt's answers; None where anything may be said. Raises BadRequest."""
        compile: Callable[[], Constraint]  # what it needs is worked out once for all answers
        allowed = ALL if request.narrowings is None else request.narrowings
        if prompt.tools:
            compile = partial(
                self._grammars.compile_lark, self._of_tools(request, prompt.tools), param="tools"
            )
        elif request.format is not None:
            compile = partial(self._grammars.compile, request.format, allowed)
        else:
            return [None] * request.n
        return [self._after_thinking(compile(), prompt) for _ in range(request.n)]

    def _after_thinking(self, constraint: Constraint, prompt: Prompt) -> Constraint:
        if self._thoughts is None or prompt.is_open is None:
            return constraint
        return AfterThinking(constraint, self._thoughts, is_open=prompt.is_open)

    def _of_tools(self, request: GenerateRequest, tools: tuple[Tool, ...]) -> str:
        """The grammar's source. Raises BadRequest."""
        asked = request.prompt
        assert isinstance(asked, Conversation), "only conversations have tools"
        is_forced = asked.tool_choice.mode == "required"
        allowed = ALL if request.narrowings is None else request.narrowings
        has_form = request.format is not None and not is_forced
        source = call_grammar(
            self._prompts.tool_format,
            tools,
            mode="required" if is_forced or has_form else "auto",
            # a function that is named is called once
            parallel=asked.parallel_tool_calls and not (is_forced and _is_named(asked)),
            special=self._tokenizer.special,
            schema=partial(self._arguments, asked=asked, is_forced=is_forced, allowed=allowed),
        )
        if request.format is not None and has_form:
            source = _or_answer(source, request.format, allowed)
        return source

    def _arguments(self, tool: Tool, *, asked: Conversation, is_forced: bool, allowed: frozenset[str]) -> str:
        """The schema that arguments are held to. Where nothing was promised, better any arguments than no
        call: a client that did not ask for strict ones checks them itself.
        """
        param = f"tools.{asked.tools.index(tool)}.function.parameters"
        try:
            measure(tool.parameters or {}, param)
            _check_is_object(tool, param)
            return json_grammar(arguments_schema(tool), param, allowed)
        except BadRequest as exc:
            if is_forced or tool.strict:
                raise
            log.info("arguments of %s are not held to their schema: %s", tool.name, exc.message)
            return json_grammar({"type": "object"}, param)


def _check_is_object(tool: Tool, param: str) -> None:
    kind = (tool.parameters or {}).get("type", "object")
    if isinstance(kind, str) and kind != "object":
        raise BadRequest(f"{param}.type: arguments are an object, not {kind!r}", param=f"{param}.type")


def _is_named(asked: Conversation) -> bool:
    """Whether the request names one function that must be called."""
    names = asked.tool_choice.names
    return names is not None and len(names) == 1


def _or_answer(source: str, format: Format, allowed: frozenset[str]) -> str:
    """The grammar of calls, or else of an answer in a prescribed form. Raises BadRequest."""
    if format.kind not in ("json_schema", "json_object"):
        raise BadRequest(
            f"{format.param} and tools that may be called exclude each other; use tool_choice required",
            param=format.param,
        )
    schema = {"type": "object"} if format.kind == "json_object" else format.value
    calls = re.sub("^start:", "calling:", source, count=1, flags=re.MULTILINE)
    return f"{calls}start: calling | answer\nanswer: %json {json_grammar(schema, format.param, allowed)}\n"


class Thoughts:
    """What a constraint has to know of how one model thinks."""

    def __init__(self, tokenizer: Tokenizer, thinking: Thinking, eos_token_ids: Many[int]) -> None:
        self._tokenizer, self._eos = tokenizer, eos_token_ids
        self.end = thinking.end.encode()
        begin = tokenizer.special.get(thinking.begin)
        single = [begin] if begin is not None else tokenizer.encode(thinking.begin)
        self.begin = single[0] if len(single) == 1 else None  # the token that begins thoughts
        self._overrunning: dict[int, list[int]] = {}

    def raw(self, token: int) -> bytes:
        return self._tokenizer.token_raw(token)

    def forbidden(self, said: bytes) -> list[int]:
        """The tokens that cannot follow amid thoughts: the end of everything, and those that end the thoughts
        and begin the answer in one, like `>"`, of which no grammar would see the half.
        """
        sizes = range(len(self.end) - 1, 0, -1)
        size = next((size for size in sizes if said.endswith(self.end[:size])), 0)
        if size not in self._overrunning:
            ends = ((self.end[:size] + raw).partition(self.end) for raw in self._tokenizer.bytes_of_tokens)
            rests = enumerate(rest.strip(WHITESPACE.encode()) for _, _, rest in ends)
            self._overrunning[size] = [token for token, rest in rests if rest]
        return [*self._eos, *self._overrunning[size]]


class AfterThinking:
    """A constraint that begins to hold when the model has done thinking. While it thinks it may say anything,
    but not end. `is_open`: it thinks already.
    """

    def __init__(self, inner: Constraint, thoughts: Thoughts, *, is_open: bool) -> None:
        self._inner, self._thoughts = inner, thoughts
        self._is_thinking, self._may_begin = is_open, not is_open
        self._said = b""

    def fill(self, mask: NDArray[np.int32]) -> None:
        bits = mask.view(np.uint32)
        if self._is_thinking:
            bits[:] = 0xFFFFFFFF
            for token in self._thoughts.forbidden(self._said):
                bits[token >> 5] &= ~np.uint32(1 << (token & 31))
            return
        self._inner.fill(mask)
        begin = self._thoughts.begin
        if self._may_begin and begin is not None:
            bits[begin >> 5] |= np.uint32(1 << (begin & 31))

    def accept(self, token: int) -> bool:
        if self._is_thinking:
            # the mark may be spread over tokens: as much is kept as could be its beginning
            self._said += self._thoughts.raw(token)
            self._is_thinking = self._thoughts.end not in self._said
            self._said = self._said[-len(self._thoughts.end) :]
            return False
        may_begin, self._may_begin = self._may_begin, False
        if may_begin and token == self._thoughts.begin:
            self._is_thinking = True
            return False
        return self._inner.accept(token)
