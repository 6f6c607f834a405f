"""The one language every dialect and every backend translates to and from: plain frozen values, no
behaviour.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Set
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:  # at run time this module needs nothing: whoever imports it stays light
    import numpy as np
    from numpy.typing import NDArray

    from headrace.features import Feature

Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
Json = Mapping[str, Any]  # a JSON object as it came: a schema, template variables


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that an assistant message of the history made. `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Media:
    """A part of a message that is no text: at `url`, or `data` in base64."""

    kind: Literal["image", "document"]
    url: str | None = None
    data: str | None = None
    media_type: str | None = None  # of `data`, e.g. image/png
    name: str | None = None  # of a file
    detail: str | None = None  # how closely an image is to be looked at


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of thinking as its provider signed it. It has to be sent back unchanged, or not at all."""

    text: str = ""
    signature: str | None = None
    redacted: str | None = None  # instead of text: what only the provider can read


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    text: str  # all of its text
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None  # of an assistant that thought before it spoke
    parts: tuple[str | Media, ...] = ()  # its content in order, if that is not only text
    thoughts: tuple[Thought, ...] = ()  # `reasoning` as the provider signed it
    # of an assistant, where a thought comes after a text or a call: all of it in order
    in_order: tuple[str | Thought | ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON schema; None: it takes none."""

    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`names`: the tools it may call; None: all of them."""

    mode: Literal["none", "auto", "required"] = "auto"
    names: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages to answer."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    reasoning_effort: str | None = None
    add_generation_prompt: bool = True  # end the prompt where the assistant begins
    continue_final_message: bool = False  # go on with the last message instead of answering it
    template_kwargs: Json = field(default_factory=dict)  # variables of the model's chat template
    verbosity: str | None = None  # how long answers are to be: low, medium, high
    thinking_budget: int | None = None  # tokens, if the caller gave a number; the effort is near it
    # members that a target may be asked without if it refuses them: reasoning_effort, verbosity,
    # messages.reasoning_content
    wishes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts to go on with, each as characters or as token ids."""

    prompts: tuple[str | tuple[int, ...], ...]
    suffix: str | None = None  # fill in what lies between each prompt and this
    echo: bool = False  # the answer begins with the prompt
    parse_special: bool = False  # literals of special tokens in the prompts are special tokens


@dataclass(frozen=True, slots=True)
class Format:
    """What an answer must look like. `value`: the schema (a JSON value), the regular expression, the list of
    choices, the Lark grammar; None for json_object. `param` is where the request says so, for errors.
    """

    kind: Literal["json_object", "json_schema", "regex", "choice", "grammar"]
    value: Any = None
    param: str = "response_format"
    name: str | None = None  # of a schema
    description: str | None = None  # of a schema: what it is for


@dataclass(frozen=True, slots=True)
class Sampling:
    """What the caller asked for; None leaves it to the model's recommendation, then to OpenAI's default."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, what is added to its logit)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    logprobs: int | None = None  # of each token, and of this many most probable ones beside it
    skip_special_tokens: bool = True
    detect_loops: bool | None = None  # end an answer that repeats itself; None: one without a limit
    truncate_prompt_tokens: int | None = None  # keep only this many, the last ones; -1: as many as fit


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One question: a conversation to answer, or texts to go on with.

    Each text gets `n` answers: answer j to text i is choice i * n + j.
    """

    model: str
    prompt: Conversation | Texts
    sampling: Sampling = field(default_factory=Sampling)
    n: int = 1
    format: Format | None = None
    priority: int = 0  # less is sooner
    timeout_s: float | None = None  # the caller's own; the server may have a shorter one
    user: str | None = None  # whom a provider may hold to account: the caller's own name for its user
    owner: str | None = None  # the principal's id: whose cached prompts it may find
    foreign: Json = field(default_factory=dict)  # sampling members that only other servers know, as they came
    narrowings: frozenset[str] | None = None  # that a schema's compilation may make use of; None: all

    @property
    def num_choices(self) -> int:
        return self.n * (len(self.prompt.prompts) if isinstance(self.prompt, Texts) else 1)


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Texts to embed, each as characters or as token ids."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None  # keep the first ones
    pooling: Literal["mean", "last", "cls"] = "mean"
    normalize: bool = True
    truncate_prompt_tokens: int | None = None
    timeout_s: float | None = None
    owner: str | None = None  # as in GenerateRequest


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector for each input, in order. float32[inputs, width]."""

    vectors: NDArray[np.float32]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """A text, or a conversation as the model's template writes it."""

    model: str
    prompt: Conversation | str
    add_special_tokens: bool = True  # BOS, if the model wants one


@dataclass(frozen=True, slots=True)
class TokenizerInfo:
    """What a client needs to know to count and template by itself. Tokens as text; None: there is none."""

    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    chat_template: str | None
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, counted."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # of the prompt, found in the prefix cache
    reasoning_tokens: int = 0  # of the completion
    cache_write_tokens: int = 0  # of the prompt, put into a provider's cache
    is_known: bool = True  # False: the provider did not say; nothing is better than zeros


def total(usages: dict[int, Usage], n: int) -> Usage:
    """Each prompt is counted once, however many choices share it."""
    firsts = [usage for index, usage in usages.items() if index % n == 0]
    return Usage(
        sum(usage.prompt_tokens for usage in firsts),
        sum(usage.completion_tokens for usage in usages.values()),
        sum(usage.cached_tokens for usage in firsts),
        sum(usage.reasoning_tokens for usage in usages.values()),
        sum(usage.cache_write_tokens for usage in firsts),
        all(usage.is_known for usage in usages.values()),
    )


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability under the model, before temperature, penalties and
    filters. None: the first token of a prompt, which nothing predicts.
    """

    token: str  # a character that is spread over tokens shows as U+FFFD here; `raw` is exact
    raw: bytes
    logprob: float | None
    top: tuple[tuple[str, bytes, float], ...] = ()  # the most probable tokens, most probable first


@dataclass(frozen=True, slots=True)
class Started:
    """A choice left the queue and its prompt is computed: its first token is known."""

    index: int
    queue_s: float
    prefill_s: float
    prompt_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TextDelta:
    index: int  # which choice
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()  # of the tokens that end in this text
    tokens: int = 0  # how many were generated since the choice's last event


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """What the model thinks before it answers. `thought`: a piece of it is complete, with its signature."""

    index: int
    text: str
    tokens: int = 0
    thought: Thought | None = None


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a call. The first piece of a call, and no other, has id and name."""

    index: int
    call: int  # which of the choice's calls
    arguments: str = ""
    id: str | None = None
    name: str | None = None
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of one choice; each choice of an accepted request gets exactly one, or the events raise
    ServerError.
    """

    index: int
    reason: FinishReason
    usage: Usage  # prompt_tokens are those of the choice's prompt, completion_tokens of this choice
    decode_s: float = 0.0  # from the first token to the last
    logprobs: tuple[TokenLogprob, ...] = ()  # of a last token that is no text: the end of the turn
    stop: str | None = None  # the stop string that ended it, as far as the backend tells
    own: Json = field(default_factory=dict)  # members of the answer that only this provider has


Event = Started | TextDelta | ReasoningDelta | ToolCallDelta | Finished


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a backend serves under one id."""

    id: str
    owned_by: str  # the provider
    created: int
    max_model_len: int | None  # None: not known
    fingerprint: str | None  # changes when the same seed may give another output; None: not known
    sampling: dict[str, float | int] = field(
        default_factory=dict
    )  # recommended, used when a request gives none


class Backend(Protocol):
    """One source of answers. Started once, closed once; `generate` may be entered many times at once."""

    @property
    def name(self) -> str:
        """The provider: what `/{provider}/v1` and `provider:model` address."""
        ...

    @property
    def unsent(self) -> Set[Feature]:
        """Features that its provider has, but that this backend does not write in the provider's dialect.
        They are lost rather than meaningless, so a strict request that needs one is refused.
        """
        ...

    def features_of(self, model: str) -> Set[Feature]:
        """The features that it has for a model. The gateway refuses or drops what needs any other."""
        ...

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...

    def models(self) -> list[ModelInfo]:
        """What it is known to serve. Cheap."""
        ...

    def find(self, id: str) -> ModelInfo | None:
        """What it serves under an id; a remote provider may serve models that it does not list."""
        ...

    @property
    def is_alive(self) -> bool:
        """Whether it can still answer. Cheap: a liveness probe asks."""
        ...

    def generate(self, request: GenerateRequest) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Start one generation. Entering may refuse (ServerError); leaving always frees what it held."""
        ...

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Raises ServerError; BadRequest when this backend cannot embed."""
        ...

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        """Raises BadRequest when this backend cannot tokenize."""
        ...

    async def detokenize(self, model: str, tokens: list[int]) -> str:
        """Raises BadRequest when this backend cannot tokenize."""
        ...

    async def token_texts(self, model: str, tokens: list[int]) -> list[str]:
        """Each token as text by itself. Raises BadRequest when this backend cannot tokenize."""
        ...

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        """Raises BadRequest when this backend cannot tokenize."""
        ...
