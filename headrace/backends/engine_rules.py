"""What an answer has to look like, as a constraint for the engine: a prescribed form, or calls of tools."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Many
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from headrace.backends.engine_prompt import Prompt, Prompts
from headrace.engine.sequence import Constraint
from headrace.errors import BadRequest
from headrace.text.grammar import Grammars, json_grammar
from headrace.text.reasoning import Thinking
from headrace.text.tokenizer import Tokenizer
from headrace.text.toolcalls.schemas import arguments_schema
from headrace.types import Conversation, GenerateRequest, Tool

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

    def constraint(self, request: GenerateRequest, prompt: Prompt) -> Constraint | None:
        """A new one for each sequence; None when anything may be said. Raises BadRequest."""
        constraint: Constraint | None = None
        if prompt.tools:
            constraint = self._of_tools(request, prompt.tools)
        elif request.format is not None:
            constraint = self._grammars.compile(request.format)
        thinking = self._prompts.thinking
        if constraint is None or thinking is None or prompt.is_open is None:
            return constraint
        return AfterThinking(constraint, self._tokenizer, thinking, self._eos, is_open=prompt.is_open)

    def _of_tools(self, request: GenerateRequest, tools: tuple[Tool, ...]) -> Constraint:
        asked = request.prompt
        assert isinstance(asked, Conversation), "only conversations have tools"
        is_forced = asked.tool_choice.mode == "required"
        if request.format is not None and not is_forced:
            raise BadRequest(
                f"{request.format.param} and tools that may be called exclude each other here; "
                "use tool_choice none or required",
                param=request.format.param,
            )
        source = self._prompts.tool_format.grammar(
            tools,
            mode="required" if is_forced else "auto",
            # a function that is named is called once
            parallel=asked.parallel_tool_calls and not (is_forced and len(tools) == 1),
            special=self._tokenizer.special,
            schema=partial(self._arguments, asked=asked, is_forced=is_forced),
        )
        return self._grammars.compile_lark(source, param="tools")

    def _arguments(self, tool: Tool, *, asked: Conversation, is_forced: bool) -> str:
        """The schema that arguments are held to. Where nothing was promised, better any arguments than no
        call: a client that did not ask for strict ones checks them itself.
        """
        param = f"tools.{asked.tools.index(tool)}.function.parameters"
        try:
            return json_grammar(arguments_schema(tool), param)
        except BadRequest as exc:
            if is_forced or tool.strict:
                raise
            log.info("arguments of %s are not held to their schema: %s", tool.name, exc.message)
            return json_grammar({"type": "object"}, param)


class AfterThinking:
    """A constraint that begins to hold when the model has done thinking. While it thinks it may say anything,
    but not end.
    """

    def __init__(
        self,
        inner: Constraint,
        tokenizer: Tokenizer,
        thinking: Thinking,
        eos_token_ids: Many[int],
        *,
        is_open: bool,
    ) -> None:
        self._inner, self._tokenizer, self._eos = inner, tokenizer, eos_token_ids
        self._end = thinking.end.encode()
        self._is_thinking, self._is_first = is_open, True
        begin = tokenizer.special.get(thinking.begin)
        single = [begin] if begin is not None else tokenizer.encode(thinking.begin)
        self._begin = single[0] if len(single) == 1 else None  # the token that begins thoughts
        self._said = b""

    def fill(self, mask: NDArray[np.int32]) -> None:
        bits = mask.view(np.uint32)
        if self._is_thinking:
            bits[:] = 0xFFFFFFFF
            for token in self._eos:
                bits[token >> 5] &= ~np.uint32(1 << (token & 31))
            return
        self._inner.fill(mask)
        if self._is_first and self._begin is not None:
            bits[self._begin >> 5] |= np.uint32(1 << (self._begin & 31))

    def accept(self, token: int) -> bool:
        if self._is_thinking:
            # the mark may be spread over tokens: as much is kept as could be its beginning
            self._said = (self._said + self._tokenizer.token_raw(token))[-2 * len(self._end) :]
            self._is_thinking = self._end not in self._said
            return False
        if self._is_first and token == self._begin:
            self._is_thinking, self._is_first = True, False
            return False
        self._is_first = False
        return self._inner.accept(token)
