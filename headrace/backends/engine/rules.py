"""Builds the engine's constraints on answers: from a response format, or from tools."""

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
from headrace.text.structured.grammar import Grammars, json_grammar, schema_of
from headrace.text.structured.keywords import ALL_NARROWINGS
from headrace.text.structured.schema import measure
from headrace.text.tokenizer import Tokenizer
from headrace.text.toolcalls import arguments_schema
from headrace.text.toolcalls.call_reader import WHITESPACE
from headrace.text.toolcalls.formats import call_grammar
from headrace.types import Conversation, Format, GenerateRequest, Tool

log = logging.getLogger(__name__)


class Rules:
    """Builds constraints for one model."""

    def __init__(self, tokenizer: Tokenizer, eos_token_ids: Many[int], prompts: Prompts) -> None:
        self._tokenizer, self._eos, self._prompts = tokenizer, eos_token_ids, prompts
        # Built with the model, not at the first request that needs it: llguidance reads the whole vocabulary
        # without releasing the interpreter lock, which would stop everybody for a tenth of a second.
        self._grammars = Grammars(
            tokenizer.bytes_of_tokens, tokenizer.special, eos_token_ids, tokenizer.encode
        )

    @cached_property
    def _thoughts(self) -> Thoughts | None:
        thinking = self._prompts.thinking
        return None if thinking is None else Thoughts(self._tokenizer, thinking, self._eos)

    def constraints(self, request: GenerateRequest, prompt: Prompt) -> list[Constraint | None]:
        """One constraint for each answer to the prompt; None: unconstrained. Raises BadRequest."""
        compile: Callable[[], Constraint]  # creates one; the grammar is built once, for all answers
        allowed = ALL_NARROWINGS if request.narrowings is None else request.narrowings
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
        """The Lark grammar of answers that may call tools. Raises BadRequest."""
        conversation = request.prompt
        assert isinstance(conversation, Conversation), "only conversations have tools"
        is_forced = conversation.tool_choice.mode == "required"
        allowed = ALL_NARROWINGS if request.narrowings is None else request.narrowings
        has_form = request.format is not None and not is_forced
        source = call_grammar(
            self._prompts.tool_format,
            tools,
            mode="required" if is_forced or has_form else "auto",
            # A tool_choice that names a function means one call of it.
            parallel=conversation.parallel_tool_calls and not (is_forced and _is_named(conversation)),
            special=self._tokenizer.special,
            schema=partial(self._arguments, conversation=conversation, is_forced=is_forced, allowed=allowed),
        )
        if request.format is not None and has_form:
            source = _or_answer(source, request.format, allowed)
        return source

    def _arguments(
        self, tool: Tool, *, conversation: Conversation, is_forced: bool, allowed: frozenset[str]
    ) -> str:
        """The grammar of a tool's arguments. Where their schema cannot be enforced and the caller asked for
        neither strict arguments nor a forced call, any object is allowed: such a caller checks them itself.
        """
        param = f"tools.{conversation.tools.index(tool)}.function.parameters"
        try:
            measure(tool.parameters or {}, param)
            _check_is_object(tool, param)
            return json_grammar(arguments_schema(tool), param, allowed)
        except BadRequest as exc:
            if is_forced or tool.strict:
                raise
            log.info("the arguments schema of %s is not enforced: %s", tool.name, exc.message)
            return json_grammar({"type": "object"}, param)


def _check_is_object(tool: Tool, param: str) -> None:
    kind = (tool.parameters or {}).get("type", "object")
    if isinstance(kind, str) and kind != "object":
        raise BadRequest(f"{param}.type: arguments are an object, not {kind!r}", param=f"{param}.type")


def _is_named(conversation: Conversation) -> bool:
    """Whether the request names one function that must be called."""
    names = conversation.tool_choice.names
    return names is not None and len(names) == 1


def _or_answer(source: str, format: Format, allowed: frozenset[str]) -> str:
    """A grammar of either calls, as in `source`, or an answer in the format. Raises BadRequest."""
    if not format.kind.startswith("json"):
        raise BadRequest(
            f"{format.param} and tools that may be called exclude each other; use tool_choice required",
            param=format.param,
        )
    calls = re.sub("^start:", "calling:", source, count=1, flags=re.MULTILINE)
    answer = json_grammar(schema_of(format), format.param, allowed)
    return f"{calls}start: calling | answer\nanswer: %json {answer}\n"


class Thoughts:
    """The marks around one model's reasoning, as AfterThinking needs them."""

    def __init__(self, tokenizer: Tokenizer, thinking: Thinking, eos_token_ids: Many[int]) -> None:
        self._tokenizer, self._eos = tokenizer, eos_token_ids
        self.end = thinking.end.encode()
        begin = tokenizer.special.get(thinking.begin)
        single = [begin] if begin is not None else tokenizer.encode(thinking.begin)
        self.begin = (
            single[0] if len(single) == 1 else None
        )  # the token that opens reasoning; None: it takes several
        self._overrunning: dict[int, list[int]] = {}

    def raw(self, token: int) -> bytes:
        return self._tokenizer.token_raw(token)

    def forbidden(self, text: bytes) -> list[int]:
        """The tokens that must not follow inside reasoning, after `text`: those that end the whole
        answer, and those that close the reasoning and begin the answer in one, like `>"`, because the
        grammar could not be advanced by half a token.
        """
        sizes = range(len(self.end) - 1, 0, -1)
        size = next((size for size in sizes if text.endswith(self.end[:size])), 0)
        if size not in self._overrunning:
            ends = ((self.end[:size] + raw).partition(self.end) for raw in self._tokenizer.bytes_of_tokens)
            rests = enumerate(rest.strip(WHITESPACE.encode()) for _, _, rest in ends)
            self._overrunning[size] = [token for token, rest in rests if rest]
        return [*self._eos, *self._overrunning[size]]


class AfterThinking:
    """A constraint that applies after the model's reasoning. While it reasons, every token is allowed that
    does not end the answer. `is_open`: the prompt has opened the reasoning already.
    """

    def __init__(self, inner: Constraint, thoughts: Thoughts, *, is_open: bool) -> None:
        self._inner, self._thoughts = inner, thoughts
        self._is_thinking, self._may_begin = is_open, not is_open
        self._reasoning = b""

    def fill(self, mask: NDArray[np.int32]) -> None:
        bits = mask.view(np.uint32)
        if self._is_thinking:
            bits[:] = 0xFFFFFFFF
            for token in self._thoughts.forbidden(self._reasoning):
                bits[token >> 5] &= ~np.uint32(1 << (token & 31))
            return
        self._inner.fill(mask)
        begin = self._thoughts.begin
        if self._may_begin and begin is not None:
            bits[begin >> 5] |= np.uint32(1 << (begin & 31))

    def forced(self) -> list[int]:
        return [] if self._is_thinking or self._may_begin else self._inner.forced()

    def accept(self, token: int) -> bool:
        if self._is_thinking:
            # The closing mark may be spread over tokens, so as many bytes as it has are kept.
            self._reasoning += self._thoughts.raw(token)
            self._is_thinking = self._thoughts.end not in self._reasoning
            self._reasoning = self._reasoning[-len(self._thoughts.end) :]
            return False
        may_begin, self._may_begin = self._may_begin, False
        if may_begin and token == self._thoughts.begin:
            self._is_thinking = True
            return False
        return self._inner.accept(token)
