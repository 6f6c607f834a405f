"""The neutral values that dialects and backends translate to and from: frozen, without behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # not at run time, so that importing this module is cheap
    import numpy as np
    from numpy.typing import NDArray

    from headrace.steering.types import Activations, Probe, Receipt, SteeringRequest

Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
Json = Mapping[str, Any]  # a JSON object of the caller: a schema, template variables


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call in an assistant's message of the history. `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Media:
    """An image or document in a message: at `url`, or in base64 as `data`."""

    kind: Literal["image", "document"]
    url: str | None = None
    data: str | None = None
    media_type: str | None = None  # of `data`, e.g. image/png
    name: str | None = None  # of a file
    detail: str | None = None  # of an image: OpenAI's low, high or auto


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of reasoning, signed by its provider. It must be sent back unchanged or not at all."""

    text: str = ""
    signature: str | None = None
    redacted: str | None = None  # instead of text: encrypted by the provider


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    text: str  # all of its text
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None  # of an assistant, before its text
    parts: tuple[str | Media, ...] = ()  # its content in order, if it is not only text
    thoughts: tuple[Thought, ...] = ()  # `reasoning` as the provider signed it
    # of an assistant: everything in order, if a thought follows a text or a call
    in_order: tuple[str | Thought | ToolCall, ...] = ()
    # its content as Anthropic's blocks, if its caller wrote blocks that say more than the members above
    blocks: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters`: a JSON schema; None: no parameters."""

    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: bool = False
    anthropics: Json = field(default_factory=dict)  # further members of Anthropic's dialect, unchanged


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether tools may or must be called. `names`: those that may be called; None: all."""

    mode: Literal["none", "auto", "required"] = "auto"
    names: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages to be answered, with tools and options."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    reasoning_effort: str | None = None
    add_generation_prompt: bool = True  # end the prompt where the assistant begins
    continue_final_message: bool = False  # continue the last message instead of answering it
    template_kwargs: Json = field(default_factory=dict)  # variables of the model's chat template
    verbosity: str | None = None  # the length of answers: low, medium, high
    # tokens, if the caller sent a number; reasoning_effort approximates it
    thinking_budget: int | None = None
    # Members that may be left out for a target that refuses them: reasoning_effort, verbosity,
    # messages.reasoning_content.
    wishes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts to be continued, each as characters or as token ids."""

    prompts: tuple[str | tuple[int, ...], ...]
    suffix: str | None = None  # the answer is the text between each prompt and this
    echo: bool = False  # the answer begins with the prompt
    parse_special: bool = False  # literals of special tokens in the prompts are special tokens


@dataclass(frozen=True, slots=True)
class Format:
    """The required form of an answer. `value`: a schema (a JSON value), a regular expression, a list of
    choices, or a Lark grammar; None for json_object. `param`: the request's member, for errors.
    """

    kind: Literal["json_object", "json_schema", "regex", "choice", "grammar"]
    value: Any = None
    param: str = "response_format"
    name: str | None = None  # of a schema
    description: str | None = None  # of a schema
    strict: bool | None = None  # what the caller says of a schema; our engine enforces all of them


@dataclass(frozen=True, slots=True)
class Sampling:
    """The caller's sampling parameters. None: the model's recommendation, else OpenAI's default."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, number added to its logit)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    logprobs: int | None = None  # how many alternatives to report beside each token; None: no logprobs
    skip_special_tokens: bool = True
    detect_loops: bool | None = None  # end answers that repeat themselves; None: those without a limit
    truncate_prompt_tokens: int | None = None  # keep only the last ones; -1: as many as fit


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A request for answers to a conversation, or for continuations of texts.

    Each text has `n` answers: answer j to text i is choice i * n + j.
    """

    model: str
    prompt: Conversation | Texts
    sampling: Sampling = field(default_factory=Sampling)
    n: int = 1
    format: Format | None = None
    priority: int = 0  # the lower number first
    timeout_s: float | None = None  # the caller's; the server's limit may be shorter
    user: str | None = None  # the caller's identifier of its end user, for providers
    owner: str | None = None  # the principal's id, which separates cached prompts
    flow: str = ""  # the caller, between whom the engine's time is shared: see Principal
    foreign: Json = field(default_factory=dict)  # sampling members of other servers, unchanged
    advice: Json = field(default_factory=dict)  # members of OpenAI's dialect about caching, price and speed
    anthropics: Json = field(default_factory=dict)  # further members of Anthropic's dialect, unchanged
    # of Anthropic's dialect, as the caller sent them
    headers: Mapping[str, str] = field(default_factory=dict)
    narrowings: frozenset[str] | None = None  # allowed when a schema is compiled; None: all
    prediction: str = ""  # a text that the answer may repeat
    steering: SteeringRequest | None = None  # edits of the hidden states; None: none
    probes: tuple[Probe, ...] = ()  # what to read of them

    @property
    def num_choices(self) -> int:
        return self.n * (len(self.prompt.prompts) if isinstance(self.prompt, Texts) else 1)


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Texts to embed, each as characters or as token ids."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None  # keep only the first ones
    pooling: Literal["mean", "last", "cls"] | None = None  # None: the model's own
    normalize: bool | None = None  # scale to length 1; None: as the model's publisher does, else yes
    truncate_prompt_tokens: int | None = None
    timeout_s: float | None = None
    user: str | None = None  # as in GenerateRequest
    owner: str | None = None  # as in GenerateRequest
    flow: str = ""  # as in GenerateRequest
    prompt_name: str | None = None  # of the model's prompts: that which precedes each text


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The vectors of the inputs, in order: float32[inputs, width]."""

    vectors: NDArray[np.float32]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """A text, or a conversation that the model's template renders, to be tokenized."""

    model: str
    prompt: Conversation | str
    add_special_tokens: bool = True  # BOS, if the model uses one


@dataclass(frozen=True, slots=True)
class TokenizerInfo:
    """What a client needs to render and count prompts itself. Tokens as text; None: there is none."""

    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    chat_template: str | None
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of tokens."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # of the prompt, found in the prefix cache
    reasoning_tokens: int = 0  # of the completion
    cache_write_tokens: int = 0  # of the prompt, written to a provider's cache
    accepted_prediction_tokens: int = 0  # of the prediction: computed ahead, and part of the completion
    rejected_prediction_tokens: int = 0  # ... and in vain
    is_known: bool = True  # False: the provider reported none; then no usage is sent


def total(usages: dict[int, Usage], n: int) -> Usage:
    """Add up the usages of choices (index → usage). A prompt counts once for its `n` choices."""
    firsts = [usage for index, usage in usages.items() if index % n == 0]
    return Usage(
        sum(usage.prompt_tokens for usage in firsts),
        sum(usage.completion_tokens for usage in usages.values()),
        sum(usage.cached_tokens for usage in firsts),
        sum(usage.reasoning_tokens for usage in usages.values()),
        sum(usage.cache_write_tokens for usage in firsts),
        sum(usage.accepted_prediction_tokens for usage in usages.values()),
        sum(usage.rejected_prediction_tokens for usage in usages.values()),
        all(usage.is_known for usage in usages.values()),
    )


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with the natural logarithm of its probability under the model, before temperature, penalties
    and filters; None for the first token of a prompt, which has no prediction.
    """

    token: str  # incomplete characters are U+FFFD here; `raw` is exact
    raw: bytes
    logprob: float | None
    top: tuple[tuple[str, bytes, float], ...] = ()  # the most probable tokens, most probable first


@dataclass(frozen=True, slots=True)
class Started:
    """The first token of a choice is known: its prompt has been computed."""

    index: int
    queue_s: float
    prefill_s: float
    prompt_tokens: int = 0
    cached_tokens: int = 0
    receipt: Receipt | None = None  # of a steered choice: what will be applied


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of a choice's text."""

    index: int  # which choice
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()  # of the tokens that end in this text
    tokens: int = 0  # generated since the choice's last event
    activations: tuple[Activations, ...] = ()  # of the tokens that were read since the choice's last event


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of a choice's reasoning. `thought`: set when a signed piece is complete."""

    index: int
    text: str
    tokens: int = 0
    thought: Thought | None = None
    activations: tuple[Activations, ...] = ()  # as in TextDelta


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a call. Only the first piece of a call has id and name."""

    index: int
    call: int  # which of the choice's calls
    arguments: str = ""
    id: str | None = None
    name: str | None = None
    tokens: int = 0
    activations: tuple[Activations, ...] = ()  # as in TextDelta


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a choice. Each choice of an accepted request has exactly one, but for `num_missing`, or the
    events raise ServerError.
    """

    index: int
    reason: FinishReason
    usage: Usage  # prompt_tokens are those of the choice's prompt, completion_tokens of this choice
    decode_s: float = 0.0  # from the first token to the last
    logprobs: tuple[TokenLogprob, ...] = ()  # of a final token without text: the end of the turn
    stop: str | None = None  # the stop string that ended it, if the backend reports it
    own: Json = field(default_factory=dict)  # further members of this provider's answer
    annotations: tuple[Json, ...] = ()  # of the choice's text, in OpenAI's form: its sources
    activations: tuple[Activations, ...] = ()  # as in TextDelta: the last ones
    receipt: Receipt | None = None  # of a steered choice: what was applied
    num_missing: int = 0  # choices that a provider has not sent, because it ignores `n`; the first one has it


Event = Started | TextDelta | ReasoningDelta | ToolCallDelta | Finished


ModelKind = Literal["generative", "embedding", "reranker"]
Modality = Literal["text", "image", "audio"]
TEXT_ONLY: tuple[Modality, ...] = ("text",)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model of a backend. `kind` is known of local models only; providers' count as generative."""

    id: str
    owned_by: str  # the provider
    created: int
    max_model_len: int | None  # None: not known
    fingerprint: str | None  # changes when the same seed may give another output; None: not known
    sampling: dict[str, float | int] = field(default_factory=dict)  # recommended defaults
    kind: ModelKind = "generative"
    runner: str | None = None  # what computes it here; None: something else
    modalities: tuple[Modality, ...] | None = None  # what it reads; None: not known


Capability = Literal["completion", "tools", "insert", "vision", "embedding", "thinking"]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Facts about a model, for people and for programs that choose one. None: unknown.

    `shape`: further numbers by GGUF's names, as `block_count`; `size_bytes`: on disk; `format`: of the files.
    """

    capabilities: frozenset[Capability]
    architecture: str | None = None
    quantization: str | None = None
    num_parameters: int | None = None
    size_bytes: int | None = None
    template: str | None = None
    license: str | None = None
    format: str | None = None
    shape: Mapping[str, int | float] = field(default_factory=dict)
