"""From a neutral request to token ids, as one model's tokenizer and chat template write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from headrace.errors import BadRequest, ContextTooLong, UnsupportedParameter
from headrace.models.catalog import Model
from headrace.text import reasoning, toolcalls
from headrace.text.templates import ChatTemplate
from headrace.text.tokenizer import Tokenizer
from headrace.types import Conversation, Media, Message, Texts, Tool

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads first."""

    tokens: list[int]
    param: str  # where the request says it
    echo: str | None = None  # its text, if the answer is to begin with it
    is_open: bool | None = None  # whether it ends amid thoughts; None: this model does not think
    tools: tuple[Tool, ...] = field(default=())  # which may be called


class Prompts:
    """The prompts of one model. Every method raises BadRequest for what cannot be a prompt."""

    def __init__(
        self, model: Model, tokenizer: Tokenizer, max_model_len: int, tool_format: str | None = None
    ) -> None:
        self.model, self.tokenizer, self.max_model_len = model, tokenizer, max_model_len
        self.eos = self._name(model.eos_token_ids[0] if model.eos_token_ids else None)
        self.bos = self._name(model.bos_token_id)
        format = None if tool_format is None else toolcalls.FORMATS[tool_format]
        self.template = ChatTemplate(
            model.chat_template, bos=self.bos or "", eos=self.eos or "", tool_format=format
        )
        self.tool_format, self.thinking = self.template.tool_format, self.template.thinking

    def of_texts(self, texts: Texts) -> list[Prompt]:
        prompts = []
        for index, text in enumerate(texts.prompts):
            param = "prompt" if len(texts.prompts) == 1 else f"prompt.{index}"
            tokens = self.of_text(text, param)
            echo = None
            if texts.echo:
                echo = text if isinstance(text, str) else self.tokenizer.decode(tokens)
            if texts.suffix:
                tokens = self._infilled(text, texts)
            prompts.append(Prompt(tokens, param, echo))
        return prompts

    def of_text(self, text: str | Ids, param: str) -> list[int]:
        """With BOS, if the model wants one; ids are taken as they are."""
        if not isinstance(text, str):
            self.check_ids(text, param)
            return list(text)
        tokens = self.tokenizer.encode_prompt(text)
        if not tokens and self.model.bos_token_id is not None:
            return [self.model.bos_token_id]  # an empty prompt: the model begins by itself
        if not tokens:
            raise BadRequest(f"{param} is empty, and the model has no token to begin with", param=param)
        return tokens

    def check_ids(self, ids: Ids, param: str) -> None:
        if not ids:
            raise BadRequest(f"{param} is empty", param=param)
        size = self.tokenizer.vocabulary
        bad = next((id for id in ids if not 0 <= id < size), None)
        if bad is not None:
            raise BadRequest(f"{param}: {bad} is no token of this model, which has {size}", param=param)

    def of_conversation(self, asked: Conversation) -> Prompt:
        _refuse_media(asked.messages)
        tools = asked.tools if asked.tool_choice.mode != "none" else ()
        rendered = self.template.render(
            asked.messages,
            escape=self.tokenizer.escape,
            tools=tools,
            add_generation_prompt=asked.add_generation_prompt,
            continue_final_message=asked.continue_final_message,
            variables={**self._effort(asked.reasoning_effort), **asked.template_kwargs},
        )
        names = asked.tool_choice.names
        callable_tools = tuple(tool for tool in tools if names is None or tool.name in names)
        tokens = self.tokenizer.encode_rendered(rendered)
        if not tokens:
            raise BadRequest("the chat template writes nothing for these messages", param="messages")
        return Prompt(tokens, "messages", is_open=self._is_open(rendered), tools=callable_tools)

    def fitted(self, prompt: Prompt, max_tokens: int | None, keep: int | None) -> Prompt:
        """Cut to its last `keep` tokens (-1: as many as fit), if that is asked for. Raises ContextTooLong
        when there is no room for it and an answer.
        """
        answer = 1 if max_tokens is None else min(1, max_tokens)
        if keep is not None and not keep:
            raise BadRequest(
                "truncate_prompt_tokens is 0: nothing would be left", param="truncate_prompt_tokens"
            )
        if keep is not None:
            room = self.max_model_len - min(max_tokens or answer, self.max_model_len - 1)
            kept = prompt.tokens[-(room if keep < 0 else keep) :]
            echo = prompt.echo if len(kept) == len(prompt.tokens) else self.tokenizer.decode(kept)
            prompt = replace(prompt, tokens=kept, echo=None if prompt.echo is None else echo)
        if len(prompt.tokens) + answer > self.max_model_len:
            raise ContextTooLong.of_tokens(self.max_model_len, len(prompt.tokens), answer, param=prompt.param)
        return prompt

    def shown(self, *, all_special: bool, tools: bool) -> frozenset[int]:
        """The special tokens whose text matters: the marks of thoughts and calls, or all."""
        if all_special:
            return frozenset(self.tokenizer.special.values())
        marks = [*(self.tool_format.markers if tools else ())]
        if self.thinking is not None:
            marks += [self.thinking.begin, self.thinking.end]
        return frozenset(self.tokenizer.special[mark] for mark in marks if mark in self.tokenizer.special)

    def _infilled(self, text: str | Ids, texts: Texts) -> list[int]:
        marks = self.tokenizer.fill_in_the_middle
        if marks is None:
            raise UnsupportedParameter(
                "this model was not trained to fill in before a suffix", param="suffix"
            )
        if texts.echo:
            raise BadRequest("suffix and echo exclude each other", param="suffix")
        before, after, between = marks
        first = self.tokenizer.encode(text) if isinstance(text, str) else list(text)
        bos = self.tokenizer.encode_prompt("")
        return [*bos, before, *first, after, *self.tokenizer.encode(texts.suffix or ""), between]

    def _effort(self, effort: str | None) -> Mapping[str, object]:
        variables = reasoning.template_variables(self.template.supports, effort)
        if variables is None:
            if effort in (None, "none"):
                return {}
            raise UnsupportedParameter("this model has no efforts to choose from", param="reasoning_effort")
        return variables

    def _is_open(self, rendered: str) -> bool | None:
        return None if self.thinking is None else self.thinking.starts_open(rendered)

    def _name(self, token: int | None) -> str | None:
        return None if token is None else self.tokenizer.token_text(token)


def _refuse_media(messages: tuple[Message, ...]) -> None:
    for index, message in enumerate(messages):
        for part, content in enumerate(message.parts):
            if isinstance(content, Media):
                raise UnsupportedParameter(
                    "this model reads text only", param=f"messages.{index}.content.{part}"
                )
