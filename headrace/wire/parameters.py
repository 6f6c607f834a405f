"""What becomes of each member of a request: honoured, refused (it would change the output), or ignored and
named. docs/compatibility.md is written from the tables here.

A refused member is let through while it has the value that changes nothing (`frequency_penalty: 0`, `tools:
[]`), because clients send their defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from headrace.errors import BadRequest, UnsupportedParameter
from headrace.wire.validation import RequestBody, unknown_members

Neutral = Callable[[Any], bool]
Fate = Literal["honoured", "ignored", "refused"]
Kind = Literal["engine"]  # of backends


def equals(*values: object) -> Neutral:
    return lambda value: any(
        value == neutral and isinstance(value, bool) == isinstance(neutral, bool) for neutral in values
    )


NOTHING = equals()
EMPTY = equals({}, [])


@dataclass(frozen=True, slots=True)
class Parameter:
    """One member, by its dotted path without indices. `note` is for people; `is_neutral` tells the values
    that are as good as none, where it is not honoured.
    """

    fates: Mapping[Kind, Fate]
    note: str = ""
    is_neutral: Neutral = NOTHING


Table = Mapping[str, Parameter]


def honoured(note: str = "") -> Parameter:
    return Parameter({"engine": "honoured"}, note)


def ignored(note: str, is_neutral: Neutral = NOTHING) -> Parameter:
    return Parameter({"engine": "ignored"}, note, is_neutral)


def refused(note: str, is_neutral: Neutral) -> Parameter:
    return Parameter({"engine": "refused"}, note, is_neutral)


EXTENSION = "Extension."
BOOKKEEPING = "For a provider's bookkeeping."
CACHING = "The prefix cache needs no advice."

GENERATION: Table = {
    "model": honoured("An id from `/v1/models`; an unknown one is 404."),
    "stream": honoured(),
    "stream_options": honoured("Only with `stream: true`."),
    "stream_options.include_usage": honoured(),
    "stream_options.continuous_usage_stats": honoured(f"{EXTENSION} Every chunk tells the usage so far."),
    "stream_options.include_obfuscation": ignored("Nothing is padded.", equals(False)),
    "temperature": honoured("0 is greedy. Default: the model's, else 1."),
    "top_p": honoured("Default: the model's, else 1."),
    "n": honoured("1 to 128; the prompt is computed once."),
    "stop": honoured("Up to 4 strings, which are not part of the answer."),
    "seed": honoured("The same seed and `system_fingerprint` give the same answer in f32."),
    "frequency_penalty": honoured("Additive, over the tokens of the answer."),
    "presence_penalty": honoured("Additive, over the tokens of the answer."),
    "logit_bias": honoured("Token id → what is added to its logit."),
    "response_format": honoured("`text`, `json_object`, `json_schema`: the answer is forced into it."),
    "user": ignored(BOOKKEEPING),
    "top_k": honoured(f"{EXTENSION} 0 or -1 keeps all."),
    "min_p": honoured(EXTENSION),
    "repetition_penalty": honoured(EXTENSION),
    "ignore_eos": honoured(f"{EXTENSION} Goes on past the end-of-text token."),
    "min_tokens": honoured(f"{EXTENSION} No end before this many."),
    "stop_token_ids": honoured(EXTENSION),
    "skip_special_tokens": honoured(f"{EXTENSION} false shows special tokens as text."),
    "truncate_prompt_tokens": honoured(f"{EXTENSION} Keeps this many tokens of the prompt, the last ones."),
    "priority": honoured(f"{EXTENSION} Less is sooner."),
    "timeout": honoured(f"{EXTENSION} Seconds; the server's own limit holds too."),
    "guided_json": honoured(f"{EXTENSION} A JSON schema."),
    "guided_regex": honoured(EXTENSION),
    "guided_choice": honoured(EXTENSION),
    "guided_grammar": honoured(f"{EXTENSION} In Lark's syntax."),
    "structured_outputs": refused("Use `response_format` or `guided_*`.", NOTHING),
    "allowed_token_ids": refused("Use `logit_bias`.", NOTHING),
    "bad_words": refused("Use `logit_bias`.", EMPTY),
    "include_stop_str_in_output": refused("", equals(False)),
    "length_penalty": refused("It belongs to beam search.", equals(1)),
    "use_beam_search": refused("", equals(False)),
}
CHAT: Table = {
    **GENERATION,
    "messages": honoured(
        "Content: text, or parts of type `text`, `image_url`, `file`; the engine reads text only."
    ),
    "messages.audio": refused("", NOTHING),
    "messages.annotations": ignored("They are the server's own and change nothing."),
    "messages.refusal": ignored("A refusal that the model should read goes into `content`."),
    "max_tokens": honoured("Clamped to what fits the context. Default: the rest of the context."),
    "max_completion_tokens": honoured("The newer name of `max_tokens`."),
    "logprobs": honoured(),
    "top_logprobs": honoured("Up to 20."),
    "tools": honoured("Of type `function`."),
    "tool_choice": honoured("`none`, `auto`, `required`, a function, `allowed_tools`."),
    "parallel_tool_calls": honoured(),
    "functions": honoured("The older name of `tools`."),
    "function_call": honoured("The older name of `tool_choice`."),
    "reasoning_effort": honoured("Where the model's chat template knows it."),
    "add_generation_prompt": honoured(EXTENSION),
    "continue_final_message": honoured(f"{EXTENSION} Goes on with the last message."),
    "chat_template_kwargs": honoured(f"{EXTENSION} Variables of the model's chat template."),
    "chat_template": refused("The model's own is used.", NOTHING),
    "echo": refused("Only in completions.", equals(False)),
    "audio": refused("", NOTHING),
    "modalities": refused("Text is all there is.", equals(["text"])),
    "verbosity": refused("No model here has it.", equals("medium")),
    "web_search_options": refused("", NOTHING),
    "store": honoured("Keeps the answer. Default false."),
    "metadata": honoured("Of the stored answer; without `store: true` it is ignored."),
    "conversation": honoured(f"{EXTENSION} The conversation that this goes on with, or `new`."),
    "moderation": ignored("Nothing is moderated."),
    "prediction": ignored("It changes speed, not the answer."),
    "prompt_cache_key": ignored(CACHING),
    "prompt_cache_options": ignored(CACHING),
    "prompt_cache_retention": ignored(CACHING),
    "safety_identifier": ignored(BOOKKEEPING),
    "service_tier": ignored("There is one."),
}
# of chat: they come along where one body is sent to both endpoints
BOOKKEEPING_OF_CHAT = (
    "moderation", "prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    "safety_identifier", "service_tier",
)  # fmt: skip
COMPLETIONS: Table = {
    **GENERATION,
    "prompt": honoured("A string, strings, token ids, lists of token ids; at most 1,024."),
    "max_tokens": honoured("Clamped to what fits the context. Default: 16; 0 only with `echo`."),
    "best_of": honoured("At least `n`; not with `stream`."),
    "echo": honoured("With the prompt's logprobs if `logprobs` is given."),
    "logprobs": honoured("Up to 20."),
    "suffix": honoured("For models that can fill in the middle; 400 for others."),
    "max_completion_tokens": refused("Use `max_tokens`.", NOTHING),
    "tools": refused("Only in chat.", EMPTY),
    "tool_choice": refused("Only in chat.", equals("none", "auto")),
    "parallel_tool_calls": ignored("There are no tools."),
    "functions": refused("Only in chat.", EMPTY),
    "function_call": refused("Only in chat.", equals("none", "auto")),
    "metadata": ignored(BOOKKEEPING),
    "store": ignored("Only chat completions are stored.", equals(False)),
    **{name: CHAT[name] for name in BOOKKEEPING_OF_CHAT},
}
EMBEDDINGS: Table = {
    "model": GENERATION["model"],
    "input": honoured("A string, strings, token ids, lists of token ids; at most 2,048, none empty."),
    "encoding_format": honoured("`float`, or `base64` of little-endian float32."),
    "dimensions": honoured("The first ones, scaled to length 1 again; more than the model has is 400."),
    "user": ignored(BOOKKEEPING),
    "pooling": honoured(f"{EXTENSION} `mean` (default), `last`, `cls`."),
    "normalize": honoured(f"{EXTENSION} Default true."),
    "truncate_prompt_tokens": honoured(f"{EXTENSION} Keeps this many tokens of each input, the last ones."),
    "timeout": GENERATION["timeout"],
    "add_special_tokens": refused("", equals(True)),
    "input_type": refused("Put the model's prefix into the text.", NOTHING),
}
TOKENS: Table = {}  # of /tokenize and /detokenize, which are ours alone
TABLES = {"chat/completions": CHAT, "completions": COMPLETIONS, "embeddings": EMBEDDINGS}

MAX_NAMED = 20  # ignored members in the header, at most


def sort_out(
    body: RequestBody,
    table: Table,
    *,
    kind: Kind = "engine",
    strict: bool = False,
    unread: Sequence[str] = (),
) -> dict[str, str]:
    """The header X-Headrace-Ignored, if there is anything to name. `unread`: known members that do nothing
    in this request.

    Raises UnsupportedParameter for a member that would change the output; with `strict`, BadRequest for
    unknown ones.
    """
    named: list[str] = [*unread]
    unknown: list[str] = []
    for path, value in unknown_members(body):
        known = table.get(_without_indices(path))
        if known is None:
            unknown.append(path)
        elif known.is_neutral(value):
            continue
        elif known.fates[kind] == "refused":
            hint = f": {known.note}" if known.note else ""
            raise UnsupportedParameter(f"{path} is not supported by this server{hint}", param=path)
        named.append(path)
    if strict and unknown:
        raise BadRequest(f"unrecognized request member: {unknown[0][:200]}", param=unknown[0][:200])
    return ignored_header(named)


def ignored_header(names: Sequence[str]) -> dict[str, str]:
    # odd names are percent-encoded: a header is ASCII
    header = ", ".join(quote(name, safe="[]") for name in names[:MAX_NAMED])
    return {"X-Headrace-Ignored": header[:1024]} if header else {}


def _without_indices(path: str) -> str:
    return ".".join(step for step in path.split(".") if not step.isdigit())
