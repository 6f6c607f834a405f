"""Turns the prompts of requests into token ids, by one model's tokenizer and chat template."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from headrace import offload
from headrace.errors import BadRequest, ContextTooLong, UnsupportedParameter
from headrace.models.catalog import Model
from headrace.text import reasoning, toolcalls
from headrace.text.bounds import check_size
from headrace.text.templates import ChatTemplate
from headrace.text.tokenizer import Tokenizer
from headrace.types import Conversation, Media, Message, Texts, Tool

log = logging.getLogger(__name__)

Ids = tuple[int, ...]

MAX_ROLE_MESSAGES = 128


@dataclass(frozen=True, slots=True)
class Room:
    """How many tokens a prompt may have. `answer`: how many are reserved for the answer; `keep`: how many of
    its last tokens are kept of a longer prompt, None: it is refused.
    """

    limit: int
    answer: int = 0
    keep: int | None = None

    @property
    def counted(self) -> int:
        """A prompt that is too long is tokenized up to here, so that the error can say by how much."""
        return self.limit + max(self.limit // 4, 4000)


@dataclass(frozen=True, slots=True)
class Prompt:
    """The token ids of a prompt, and what its answers need to know of it."""

    tokens: array[int]  # and no list: a request may have many long prompts, which are freed on the event loop
    param: str  # the request's member that it comes from
    echo: str | None = None  # its text, if the answer is to repeat it
    is_open: bool | None = None  # whether it ends inside reasoning; None: the model does not reason
    tools: tuple[Tool, ...] = field(default=())  # the tools that may be called


class Prompts:
    """Writes the prompts of one model. Its methods raise BadRequest for what cannot be a prompt,
    ContextTooLong for one that does not fit.
    """

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
        if self.template.refusal is not None:
            log.warning("%s cannot chat: %s", model.name, self.template.refusal)
        self.tool_format, self.thinking = self.template.tool_format, self.template.thinking

    def room(self, max_tokens: int | None, keep: int | None) -> Room:
        """The room for a prompt. `max_tokens`: of the answer; `keep`: the request's truncate_prompt_tokens,
        negative: as many as fit beside the answer.
        """
        answer = 1 if max_tokens is None else min(1, max_tokens)
        if keep is None:
            return Room(self.max_model_len - answer, answer)
        if not keep:
            raise BadRequest(
                "truncate_prompt_tokens is 0: nothing would be left", param="truncate_prompt_tokens"
            )
        rest = self.max_model_len - min(max_tokens or answer, self.max_model_len - 1)
        return Room(self.max_model_len - answer, answer, rest if keep < 0 else keep)

    def of_texts(self, texts: Texts, room: Room) -> list[Prompt]:
        prompts = []
        for index, text in enumerate(texts.prompts):
            offload.check_wanted()
            param = "prompt" if len(texts.prompts) == 1 else f"prompt.{index}"
            tokens = (
                self._infilled(text, texts, param, room)
                if texts.suffix
                else self._of_text(text, param, room, has_special=texts.parse_special)
            )
            fitted = self._fitted(tokens, param, room)
            echo = None
            if texts.echo:
                is_whole = isinstance(text, str) and len(fitted) == len(tokens)
                echo = text if isinstance(text, str) and is_whole else self.tokenizer.decode(fitted)
            prompts.append(Prompt(array("i", fitted), param, echo))
        return prompts

    def of_text(self, text: str | Ids, param: str, room: Room) -> list[int]:
        """The ids of a text, with BOS if the model uses one; ids are returned as they are."""
        return self._fitted(self._of_text(text, param, room), param, room)

    def _of_text(self, text: str | Ids, param: str, room: Room, *, has_special: bool = False) -> list[int]:
        """All tokens, or more of the last ones than are kept, or more of the first ones than fit.
        `has_special`: special tokens in the text are special.
        """
        if not isinstance(text, str):
            self.check_ids(text, param)
            return list(text)
        tokenizer, source = self.tokenizer, self.tokenizer.with_special(text) if has_special else text
        if room.keep is not None:
            end = tokenizer.encode_rendered_end if has_special else tokenizer.encode_prompt_end
            tokens = end(source, room.keep + 1)
        else:
            self._check_size(text, param, room)
            encode = tokenizer.encode_rendered if has_special else tokenizer.encode_prompt
            tokens = encode(source, at_most=room.counted)
        if not tokens and self.model.bos_token_id is not None:
            return [self.model.bos_token_id]  # an empty prompt: continue from the beginning of text
        if not tokens:
            raise BadRequest(f"{param} is empty, and the model has no token to begin with", param=param)
        return tokens

    def check_ids(self, ids: Ids, param: str) -> None:
        if not ids:
            raise BadRequest(f"{param} is empty", param=param)
        size = self.tokenizer.vocabulary
        bad = next((id for id in ids if not 0 <= id < size), None)
        if bad is not None:
            raise BadRequest.at(param, f"{bad} is no token of this model, which has {size}")

    def of_conversation(self, conversation: Conversation, room: Room) -> Prompt:
        rendered = self._rendered(conversation)
        if room.keep is not None:
            tokens = self.tokenizer.encode_rendered_end(rendered, room.keep)
        else:
            self._check_size(rendered, "messages", room)
            tokens = self.tokenizer.encode_rendered(rendered, at_most=room.counted)
        if not tokens:
            raise BadRequest("the chat template writes nothing for these messages", param="messages")
        names = conversation.tool_choice.names
        tools = tuple(tool for tool in _usable(conversation) if names is None or tool.name in names)
        fitted = self._fitted(tokens, "messages", room)
        return Prompt(array("i", fitted), "messages", is_open=self._is_open(rendered), tools=tools)

    def counted(self, conversation: Conversation, max_bytes: int) -> list[int]:
        """The ids of a conversation, whether it fits the context or not. Raises TextTooLong."""
        rendered = self._rendered(conversation)
        check_size(rendered, max_bytes, "messages")
        return self.tokenizer.encode_rendered(rendered)

    def _rendered(self, conversation: Conversation) -> str:
        _refuse_media(conversation.messages)
        return self.template.render(
            conversation.messages,
            escape=self.tokenizer.escape,
            tools=_usable(conversation),
            add_generation_prompt=conversation.add_generation_prompt,
            continue_final_message=conversation.continue_final_message,
            variables={**self._effort(conversation.reasoning_effort), **conversation.template_kwargs},
        )

    def roles(self, conversation: Conversation, tokens: Sequence[int]) -> list[str]:
        """The role of the message that each of the prompt's tokens belongs to. What the template writes after
        the last message is the assistant's. Raises BadRequest for a conversation that is too long for this:
        it is rendered once for each message.
        """
        messages = conversation.messages
        if len(messages) > MAX_ROLE_MESSAGES:
            raise BadRequest(
                f"steering by role takes at most {MAX_ROLE_MESSAGES} messages", param="steering.apply.roles"
            )
        roles: list[str] = []
        for count, message in enumerate(messages, 1):
            offload.check_wanted()
            part = replace(
                conversation, messages=messages[:count], add_generation_prompt=False,
                continue_final_message=False,
            )  # fmt: skip
            before = self.tokenizer.encode_rendered(self._rendered(part))
            end = _num_equal(before, tokens) if count < len(messages) else min(len(before), len(tokens))
            roles += [message.role] * (end - len(roles))
        return (roles + ["assistant"] * (len(tokens) - len(roles)))[: len(tokens)]

    def shown(self, *, all_special: bool, tools: bool) -> frozenset[int]:
        """The special tokens whose text the reader of an answer needs: the marks of reasoning and of tool
        calls, or all.
        """
        if all_special:
            return frozenset(self.tokenizer.special.values())
        marks = [*(self.tool_format.markers if tools else ())]
        if self.thinking is not None:
            marks += [self.thinking.begin, self.thinking.end]
        return frozenset(self.tokenizer.special[mark] for mark in marks if mark in self.tokenizer.special)

    def _check_size(self, text: str, param: str, room: Room) -> None:
        """Raise ContextTooLong, without tokenizing, if the text's fewest possible tokens do not fit."""
        fewest = self.tokenizer.bound.tokens(text)
        if fewest > room.limit:
            raise self._too_long(fewest, param, room, is_estimate=True)

    def _fitted(self, tokens: list[int], param: str, room: Room) -> list[int]:
        fitting = tokens if room.keep is None else tokens[-room.keep :]
        if len(fitting) > room.limit:
            raise self._too_long(len(fitting), param, room, is_estimate=len(fitting) > room.counted)
        return fitting

    def _too_long(self, count: int, param: str, room: Room, *, is_estimate: bool) -> ContextTooLong:
        return ContextTooLong.of_tokens(
            self.max_model_len, count, room.answer, param=param, is_estimate=is_estimate
        )

    def _infilled(self, text: str | Ids, texts: Texts, param: str, room: Room) -> list[int]:
        marks = self.tokenizer.fill_in_the_middle
        if marks is None:
            raise UnsupportedParameter(
                "this model was not trained to fill in before a suffix", param="suffix"
            )
        if texts.echo:
            raise BadRequest("suffix and echo exclude each other", param="suffix")
        before, after, between = marks
        first = self._part(text, param, room)
        second = self._part(texts.suffix or "", "suffix", room)
        bos = self.tokenizer.encode_prompt("")
        return [*bos, before, *first, after, *second, between]

    def _part(self, text: str | Ids, param: str, room: Room) -> list[int]:
        """The ids of one part of a prompt that consists of several, without BOS."""
        if not isinstance(text, str):
            self.check_ids(text, param)
            return list(text)
        if room.keep is not None:
            return self.tokenizer.encode_end(text, room.keep)
        self._check_size(text, param, room)
        return self.tokenizer.encode(text, at_most=room.counted)

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


def _usable(conversation: Conversation) -> tuple[Tool, ...]:
    return conversation.tools if conversation.tool_choice.mode != "none" else ()


def _refuse_media(messages: tuple[Message, ...]) -> None:
    for index, message in enumerate(messages):
        for part, content in enumerate(message.parts):
            if isinstance(content, Media):
                raise UnsupportedParameter(
                    "this model reads text only", param=f"messages.{index}.content.{part}"
                )


def _num_equal(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading tokens are equal."""
    pairs = zip(first, second, strict=False)
    return next(
        (place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second))
    )
