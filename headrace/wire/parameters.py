"""What becomes of each member of a request, by the kind of backend that answers. docs/compatibility.md is
written from the tables here.

A refused member is let through while it has the value that changes nothing (`frequency_penalty: 0`, `tools:
[]`), because clients send their defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args
from urllib.parse import quote

from pydantic import BaseModel

from headrace.errors import BadRequest, UnsupportedParameter
from headrace.types import BackendKind
from headrace.wire.elsewhere import ALIASES, ELSEWHERE, Foreign, without_master
from headrace.wire.elsewhere import EMPTY as EMPTY
from headrace.wire.elsewhere import NOTHING as NOTHING
from headrace.wire.elsewhere import Neutral as Neutral
from headrace.wire.elsewhere import equals as equals
from headrace.wire.validation import Member, RequestBody, members

# honoured: here. sent: to the provider, in its own words. ignored: it has no use there. dropped: it has no
# place in what is sent. refused: it would change the answer.
Fate = Literal["honoured", "sent", "ignored", "dropped", "refused"]
KINDS: tuple[BackendKind, ...] = get_args(BackendKind)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One member, by its dotted path without indices. `note` is for people; `is_neutral` tells the values
    that are as good as none, where it is not carried; `is_said`: what it is a member of says the same anyway.
    """

    fates: Mapping[BackendKind, Fate]
    note: str = ""
    is_neutral: Neutral = NOTHING
    is_said: Callable[[BaseModel], bool] = lambda _: False


Table = Mapping[str, Parameter]


def honoured(note: str = "", **but: Fate) -> Parameter:
    """By the engine; providers are sent it. `but`: kinds where that is otherwise."""
    return Parameter(_fates("sent", {"engine": "honoured", **but}), note)


def ours(note: str = "") -> Parameter:
    """What Headrace itself honours, whoever answers."""
    return Parameter(_fates("honoured", {}), note)


def ignored(note: str, is_neutral: Neutral = NOTHING, **but: Fate) -> Parameter:
    return Parameter(_fates("ignored", but), note, is_neutral)


def advice(note: str, is_neutral: Neutral = NOTHING, **but: Fate) -> Parameter:
    """For a provider's bookkeeping, speed or price: models that run here have no use for it."""
    afar: dict[str, Fate] = dict.fromkeys(("openai", "cerebras", "anthropic"), "dropped")
    return Parameter(_fates("ignored", {**afar, **but}), note, is_neutral)


def content(
    note: str,
    *kinds: BackendKind,
    is_neutral: Neutral = NOTHING,
    is_said: Callable[[BaseModel], bool] = lambda _: False,
) -> Parameter:
    """What is said or wished, and only these kinds have a place for."""
    carried: dict[str, Fate] = {kind: "honoured" if kind == "engine" else "sent" for kind in kinds}
    return Parameter(_fates("dropped", carried), note, is_neutral, is_said)


def foreign(note: str, is_neutral: Neutral = NOTHING) -> Parameter:
    """What only Anthropic's own API has a use for, and is not sent there either."""
    return Parameter(_fates("ignored", {"anthropic": "dropped"}), note, is_neutral)


def cached() -> Parameter:
    """Advice for a cache that models here do not need, as they have one that works by itself."""
    own: dict[str, Fate] = {"engine": "honoured", "ollama": "honoured", "llamacpp": "honoured"}
    return Parameter(_fates("dropped", own), "Models that run here cache every prompt.")


def refused(note: str, is_neutral: Neutral, **but: Fate) -> Parameter:
    return Parameter(_fates("refused", but), note, is_neutral)


def foreign_to(name: str, known: Foreign) -> Parameter:
    """A member of other servers: sent to the backends that know it, refused by all others."""
    carried: dict[str, Fate] = {"openai": "sent"}
    carried |= {kind: "sent" for kind in ("llamacpp", "ollama") if getattr(known, kind)}
    return Parameter(
        _fates("refused", carried), known.note, known.is_off, without_master(name) if known.master else _never
    )


def _never(_: BaseModel) -> bool:
    return False


def _fates(usual: Fate, but: Mapping[str, Fate]) -> dict[BackendKind, Fate]:
    return {kind: but.get(kind, usual) for kind in KINDS}


EXTENSION = "Extension."
BOOKKEEPING = "For a provider's bookkeeping."
QUOTA = "Cerebras: at most 32,768, and 8,192 by default, for it counts as used what may be."
CACHING = "The prefix cache needs no advice."
FORMS: dict[str, Fate] = dict.fromkeys(("openai", "cerebras", "anthropic", "ollama"), "refused")
COMPILED = _fates(
    "dropped", {"engine": "honoured", "llamacpp": "honoured"}
)  # where schemas are compiled here
# what neither Anthropic nor Ollama has
UNCOMMON: dict[str, Fate] = {"anthropic": "refused", "ollama": "refused"}
# of vLLM, and of servers like it
EXTENDED: dict[str, Fate] = {**UNCOMMON, "llamacpp": "refused"}
PENALTY: dict[str, Fate] = {"anthropic": "refused", "cerebras": "refused"}

STRICT = content("", "engine", "openai", "cerebras", "anthropic", "llamacpp", is_neutral=equals(False))

# members of other servers, by either endpoint
FOREIGN: Table = {name: foreign_to(name, known) for name, known in ELSEWHERE.items()}
_OWN: Table = {
    "model": ours("An id from `/v1/models`; an unknown one is 404."),
    "stream": ours(),
    "stream_options": ours("Only with `stream: true`."),
    "stream_options.include_usage": ours(),
    "stream_options.continuous_usage_stats": ours(f"{EXTENSION} Every chunk tells the usage so far."),
    "stream_options.include_obfuscation": ignored("Nothing is padded.", equals(False)),
    "temperature": honoured("0 is greedy. Default: the model's, else 1. Anthropic: at most 1."),
    "top_p": honoured("Default: the model's, else 1."),
    "n": honoured("1 to 128; the prompt is computed once.", **UNCOMMON),
    "stop": honoured("Up to 4 strings, which are not part of the answer."),
    "seed": honoured(
        "The same seed and `system_fingerprint` give the same answer in f32.", anthropic="refused"
    ),
    "frequency_penalty": honoured("Additive, over the tokens of the answer.", **PENALTY),
    "presence_penalty": honoured("Additive, over the tokens of the answer.", **PENALTY),
    "logit_bias": honoured("Token id → what is added to its logit.", **PENALTY, ollama="refused"),
    "response_format": honoured(
        "`text`, `json_object`, `json_schema`: the answer is forced into it. Anthropic: no `json_object`."
    ),
    "response_format.json_schema.description": content("What the schema is for.", "openai", "cerebras"),
    "user": advice(BOOKKEEPING, openai="sent", cerebras="sent", anthropic="sent", llamacpp="sent"),
    "top_k": honoured(f"{EXTENSION} 0 or -1 keeps all."),
    "min_p": honoured(EXTENSION, anthropic="refused"),
    "repetition_penalty": honoured(EXTENSION, anthropic="refused"),
    "ignore_eos": honoured(f"{EXTENSION} Goes on past the end-of-text token.", **UNCOMMON),
    "min_tokens": honoured(f"{EXTENSION} No end before this many.", **EXTENDED),
    "stop_token_ids": honoured(EXTENSION, **EXTENDED),
    "skip_special_tokens": honoured(f"{EXTENSION} false shows special tokens as text.", **EXTENDED),
    "truncate_prompt_tokens": honoured(
        f"{EXTENSION} Keeps this many tokens of the prompt, the last ones.", **EXTENDED
    ),
    "detect_loops": ignored(
        f"{EXTENSION} Ends an answer that repeats itself with `length`. Default: answers without a limit.",
        equals(False),
        engine="honoured",
    ),
    "priority": content(f"{EXTENSION} Less is sooner.", "engine", is_neutral=equals(0)),
    "timeout": ours(f"{EXTENSION} Seconds; the server's own limit holds too."),
    "guided_json": honoured(f"{EXTENSION} A JSON schema."),
    "guided_regex": honoured(EXTENSION, **FORMS),
    "guided_choice": honoured(EXTENSION, **FORMS),
    "guided_grammar": honoured(f"{EXTENSION} In Lark's syntax, or in llama.cpp's (GBNF).", **FORMS),
    "structured_outputs": honoured(f"{EXTENSION} vLLM's: one of its members."),
    "structured_outputs.json": honoured("As `guided_json`."),
    "structured_outputs.json_object": honoured(
        "As `response_format` of type `json_object`.", anthropic="refused"
    ),
    "structured_outputs.regex": honoured("As `guided_regex`.", **FORMS),
    "structured_outputs.choice": honoured("As `guided_choice`.", **FORMS),
    "structured_outputs.grammar": honoured("As `guided_grammar`.", **FORMS),
    "structured_outputs.disable_additional_properties": Parameter(
        COMPILED, "false: as `schema_narrowing` without `closed_objects`."
    ),
    "structured_outputs.structural_tag": refused("Use `tools`.", NOTHING),
    "structured_outputs.whitespace_pattern": refused("JSON is written in one way.", NOTHING),
    "schema_narrowing": Parameter(COMPILED, f"{EXTENSION} Where less is generated than a schema allows."),
    "allowed_token_ids": refused("Use `logit_bias`.", NOTHING),
    "bad_words": refused("Use `logit_bias`.", EMPTY),
    "include_stop_str_in_output": refused("", equals(False)),
    "length_penalty": refused("It belongs to beam search.", equals(1)),
    "use_beam_search": refused("", equals(False)),
}
IDLE: Mapping[str, Neutral] = {
    "repeat_penalty": equals(1), "min_new_tokens": equals(0), "ban_eos_token": equals(False),
    "stop_sequences": EMPTY, "stop_strings": EMPTY, "regex": EMPTY, "ebnf": EMPTY, "grammar": EMPTY,
    "grammar_string": EMPTY, "n_predict": equals(-1), "num_predict": equals(-1, -2),
}  # fmt: skip
ANOTHER_NAME = {
    alias: replace(
        _OWN.get(name, honoured()),
        note=f"{EXTENSION} Another name of `{name}`.",
        is_neutral=IDLE.get(alias, NOTHING),
    )
    for name, aliases in ALIASES.items()
    for alias in aliases
}
GENERATION: Table = {**FOREIGN, **ANOTHER_NAME, **_OWN}


def _has_blocks(message: BaseModel) -> bool:
    return bool(getattr(message, "thinking_blocks", None))


def _is_result(message: BaseModel) -> bool:
    """Of a call, which tells the tool's name."""
    return getattr(message, "role", None) in ("tool", "function")


THINKERS: tuple[BackendKind, ...] = ("engine", "openai", "cerebras", "ollama", "llamacpp")
NAMED: tuple[BackendKind, ...] = ("engine", "openai", "cerebras", "llamacpp")
CHAT: Table = {
    **GENERATION,
    "messages": honoured(
        "Content: text, or parts of type `text`, `image_url`, `file`; the engine reads text only. "
        "To Anthropic what `system` and `developer` say goes first, to Ollama a message's images."
    ),
    "messages.name": content(
        "Of a speaker. Engine: where the model's chat template knows it.", *NAMED, is_said=_is_result
    ),
    "messages.reasoning_content": content(
        "Anthropic takes only what it has signed.", *THINKERS, is_said=_has_blocks
    ),
    "messages.reasoning": content("The same.", *THINKERS, is_said=_has_blocks),
    "messages.thinking_blocks.signature": content(
        f"{EXTENSION} Only who signed it can read it.", "anthropic"
    ),
    "messages.thinking_blocks.data": content(f"{EXTENSION} Only who wrote it can read it.", "anthropic"),
    "messages.content.image_url.detail": content(
        "", "openai", "cerebras", "llamacpp", is_neutral=equals("auto")
    ),
    "messages.audio": refused("", NOTHING),
    "messages.annotations": ignored("They are the server's own and change nothing.", EMPTY),
    "messages.refusal": ignored("A refusal that the model should read goes into `content`."),
    "max_tokens": honoured(f"Clamped to what fits the context. Default: the rest of it. {QUOTA}"),
    "max_completion_tokens": honoured("The newer name of `max_tokens`."),
    "logprobs": honoured(anthropic="refused"),
    "top_logprobs": honoured("Up to 20.", anthropic="refused"),
    "tools": honoured("Of type `function`."),
    "tools.function.strict": STRICT,
    "tool_choice": honoured(
        "`none`, `auto`, `required`, a function, `allowed_tools`. Ollama: no `required`, no function."
    ),
    "parallel_tool_calls": honoured("Cerebras: 400 where the model does not take it.", ollama="honoured"),
    "functions": honoured("The older name of `tools`."),
    "functions.strict": STRICT,
    "function_call": honoured("The older name of `tool_choice`."),
    "reasoning_effort": honoured(
        "Where the model's chat template knows it. A provider with fewer steps is asked for the nearest."
    ),
    "add_generation_prompt": honoured(EXTENSION, **UNCOMMON),
    "continue_final_message": honoured(f"{EXTENSION} Goes on with the last message.", ollama="refused"),
    "chat_template_kwargs": honoured(
        f"{EXTENSION} Variables of the model's chat template. Ollama: `enable_thinking` only.",
        anthropic="refused",
    ),
    "chat_template": refused("The model's own is used.", NOTHING),
    "enable_thinking": honoured(f"{EXTENSION} The same as in `chat_template_kwargs`.", anthropic="refused"),
    "echo": refused("Only in completions.", equals(False)),
    "best_of": refused("Only in completions.", equals(1)),
    "system": refused("Put it into `messages`.", EMPTY),
    "add_special_tokens": refused("The chat template writes them.", equals(False)),
    "audio": refused("", NOTHING),
    "modalities": refused("Text is all there is.", equals(["text"])),
    "verbosity": ignored(
        "`low`, `medium`, `high`, to providers that know it; named where one refuses it.",
        equals("medium"),
        openai="sent",
    ),
    "web_search_options": refused("", NOTHING),
    "store": ours("Keeps the answer. Default false."),
    "metadata": ours("Of the stored answer; without `store: true` it is ignored."),
    "conversation": ours(f"{EXTENSION} The conversation that this goes on with, or `new`."),
    "conversation_id": ours(f"{EXTENSION} The same as `conversation`."),
    "moderation": advice("Nothing is moderated."),
    "prediction": advice("It changes speed, not the answer."),
    "prompt_cache_key": advice(CACHING),
    "prompt_cache_options": advice(CACHING),
    "prompt_cache_retention": advice(CACHING),
    "safety_identifier": advice(BOOKKEEPING),
    "service_tier": advice("There is one."),
}
# of chat: they come along where one body is sent to both endpoints
BOOKKEEPING_OF_CHAT = (
    "moderation", "prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    "safety_identifier", "service_tier",
)  # fmt: skip
COMPLETIONS: Table = {
    **GENERATION,
    "response_format.json_schema.description": content("What the schema is for.", "openai", "cerebras"),
    "prompt": honoured(
        "A string, strings, token ids, lists of token ids; at most 1,024. Ollama: text, not empty."
    ),
    "max_tokens": honoured("Clamped to what fits the context. Default: 16; 0 only with `echo`."),
    "best_of": honoured("At least `n`; not with `stream`.", ollama="refused"),
    "echo": honoured(
        "With the prompt's logprobs if `logprobs` is given. Ollama: not with `logprobs`.", llamacpp="refused"
    ),
    "parse_special": content(
        f"{EXTENSION} Special tokens in the text of a prompt, as `<s>`, are special: for prompts that a chat "
        "template has written. Default: they are text. llama.cpp and Ollama take them as special anyway.",
        "engine",
        is_neutral=equals(False),
    ),
    "logprobs": honoured("Up to 20."),
    "suffix": honoured("For models that can fill in the middle; 400 for others.", llamacpp="refused"),
    "max_completion_tokens": refused("Use `max_tokens`.", NOTHING),
    "messages": refused("Only in chat.", EMPTY),
    "system": refused("Put it into `prompt`.", EMPTY),
    "add_special_tokens": refused("The model's own way is kept.", equals(True)),
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
    "input": honoured(
        "A string, strings, token ids, lists of token ids; at most 2,048, none empty. Ollama: text."
    ),
    "encoding_format": ours("`float`, or `base64` of little-endian float32."),
    "dimensions": honoured(
        "The first ones, scaled to length 1 again; more than the model has is 400. Of a provider: its own."
    ),
    "user": advice(BOOKKEEPING),
    "pooling": honoured(f"{EXTENSION} `mean` (default), `last`, `cls`.", openai="refused", ollama="refused"),
    "normalize": honoured(f"{EXTENSION} Default true.", openai="refused", ollama="refused"),
    "truncate_prompt_tokens": honoured(
        f"{EXTENSION} Keeps this many tokens of each input, the last ones. Ollama: -1 only."
    ),
    "timeout": GENERATION["timeout"],
    "add_special_tokens": refused("", equals(True)),
    "input_type": refused("Put the model's prefix into the text.", NOTHING),
}
TOKENS: Table = {}  # of /tokenize and /detokenize, which are ours alone
TABLES = {"chat/completions": CHAT, "completions": COMPLETIONS, "embeddings": EMBEDDINGS}

MAX_NAMED, MAX_NAME = 20, 200  # members in the header, at most, and characters of each
IGNORED = "X-Headrace-Ignored"
UNUSED: frozenset[Fate] = frozenset(("ignored", "dropped"))


class Given:
    """The members of a body that a table has something to say about: the body is walked once, whichever
    backends are asked.
    """

    def __init__(self, body: RequestBody, table: Table) -> None:
        self.table = table
        named = {
            path
            for path, known in table.items()
            if path in ANOTHER_NAME or not UNUSED.isdisjoint(known.fates.values())
        }
        self.members = tuple(members(body, named))


def judged(given: Given, kind: BackendKind, *, strict: bool = False) -> list[str]:
    """The members, by path, of which a backend of this kind makes nothing.

    Raises UnsupportedParameter for an undeclared member that would change the output (a declared one is
    refused by the backend that cannot honour it); with `strict`, for one that is dropped, and BadRequest for
    unknown ones.
    """
    named: list[str] = []
    unknown: list[str] = []
    for member in given.members:
        known = given.table.get(member.bare)
        if known is None:
            unknown.append(member.path)
            named.append(member.path)
        elif (
            _is_carried(member, known, kind) or known.is_neutral(member.value) or known.is_said(member.owner)
        ):
            continue
        elif known.fates[kind] == "refused" or (strict and known.fates[kind] == "dropped"):
            raise unsupported(member.path, known.note)
        elif known.fates[kind] in UNUSED:
            named.append(member.path)
    if strict and unknown:
        raise BadRequest(f"unrecognized request member: {unknown[0][:200]}", param=unknown[0][:200])
    return named


def _is_carried(member: Member, known: Parameter, kind: BackendKind) -> bool:
    """Whether it is a matter between the neutral request and the backend."""
    fate = known.fates[kind]
    is_judged = fate in UNUSED or (member.bare in ANOTHER_NAME and fate == "refused")
    return member.is_declared and not is_judged


def unsupported(path: str, note: str = "") -> UnsupportedParameter:
    hint = f": {note}" if note else ""
    return UnsupportedParameter(f"{path} is not supported here{hint}", param=path)


def with_named(headers: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """The headers, X-Headrace-Ignored among them if there is anything to name."""
    # odd names are percent-encoded: a header is ASCII
    told = [headers.get(IGNORED, ""), *(quote(name[:MAX_NAME], safe="[]:") for name in names[:MAX_NAMED])]
    line = ", ".join(filter(None, told))[:1024]
    return {**headers, IGNORED: line} if line else dict(headers)
