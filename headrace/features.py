"""The features of a request that a backend may lack, in names that belong to no dialect.

The tables of the endpoints (`headrace/wire/tables.py`) map members of a body to features. A backend lists the
features that it carries. `Uses.left_out` computes the difference; docs/compatibility.md shows it for every
endpoint and backend.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from headrace.errors import BadRequest, SteeringRefused, UnsupportedParameter

# What happens to a member whose feature a backend lacks:
# - refused: the output would differ, so the request is a 400.
# - dropped: content or a wish is lost. X-Headrace-Ignored names the member; in strict mode it is a 400.
# - ignored: the output cannot differ. X-Headrace-Ignored names the member.
# - unknown: no table lists the member. As dropped.
Loss = Literal["refused", "dropped", "ignored", "unknown"]


class Feature(Enum):
    """One thing that a backend may be unable to do. Sampling features of other servers are one feature if the
    same backends carry them.
    """

    # endpoints
    TEXT_COMPLETION = auto()
    EMBEDDINGS = auto()
    RERANK = auto()
    # choosing tokens
    TEMPERATURE = auto()
    TOP_P = auto()
    TOP_K = auto()
    MIN_P = auto()
    SEED = auto()
    FREQUENCY_PENALTY = auto()
    PRESENCE_PENALTY = auto()
    REPETITION_PENALTY = auto()
    REPETITION_WINDOW = auto()
    LOGIT_BIAS = auto()
    TYPICAL_P = auto()
    ADVANCED_SAMPLING = auto()  # XTC, Mirostat, DRY, dynamic temperature and others that llama.cpp has
    OTHER_SAMPLING = auto()  # what some server of OpenAI's dialect may have
    # the end of an answer
    MAX_TOKENS = auto()
    MIN_TOKENS = auto()
    STOP = auto()
    STOP_TOKEN_IDS = auto()
    IGNORE_EOS = auto()
    LOOP_DETECTION = auto()
    # what comes back
    CHOICES = auto()  # more than one answer
    LOGPROBS = auto()
    SPECIAL_TOKENS_SHOWN = auto()
    ECHO = auto()
    VERBOSITY = auto()
    # the form of an answer
    JSON_SCHEMA = auto()
    JSON_OBJECT = auto()
    REGEX = auto()
    CHOICE = auto()
    GRAMMAR = auto()
    SCHEMA_DESCRIPTION = auto()
    SCHEMA_NARROWING = auto()  # saying which simplifications of a schema are acceptable
    # tools
    TOOLS = auto()
    TOOL_CHOICE = auto()
    PARALLEL_TOOL_CALLS = auto()  # forbidding them
    STRICT_TOOLS = auto()
    # reasoning
    REASONING_EFFORT = auto()
    THINKING_BUDGET = auto()
    UNSIGNED_REASONING = auto()
    SIGNED_REASONING = auto()
    # the prompt
    SPEAKER_NAMES = auto()
    IMAGE_DETAIL = auto()
    TEMPLATE_VARIABLES = auto()
    NO_GENERATION_PROMPT = auto()
    CONTINUED_MESSAGE = auto()
    PROMPT_TRUNCATION = auto()
    SPECIAL_TOKENS_IN_PROMPT = auto()
    SUFFIX = auto()
    # embeddings
    DIMENSIONS = auto()
    POOLING = auto()
    UNSCALED_VECTORS = auto()
    INPUT_TRUNCATION = auto()
    EMBEDDING_PROMPT = auto()
    # inside the model
    STEERING = auto()
    PROBES = auto()
    # reranking
    INSTRUCTION = auto()
    # the way of a request
    PRIORITY = auto()
    USER = auto()
    PROMPT_CACHE = auto()
    PREDICTION = auto()
    ADVICE = auto()  # for a provider's bookkeeping, speed or price
    SERVICE_TIER = auto()
    ANTHROPIC_ADVICE = auto()  # the same, of Anthropic's API alone
    SERVER_TOOLS = auto()  # settings of tools that Anthropic itself runs

    @property
    def loss(self) -> Loss:
        """What happens to a member that needs this feature, at a backend that lacks it."""
        return "ignored" if self in IGNORED else "dropped" if self in DROPPED else "refused"


IGNORED = frozenset(
    {
        Feature.ADVICE, Feature.ANTHROPIC_ADVICE, Feature.LOOP_DETECTION, Feature.PREDICTION,
        Feature.SERVER_TOOLS, Feature.SERVICE_TIER, Feature.USER, Feature.VERBOSITY,
    }
)  # fmt: skip
DROPPED = frozenset(
    {
        Feature.IMAGE_DETAIL, Feature.PRIORITY, Feature.PROMPT_CACHE, Feature.SCHEMA_DESCRIPTION,
        Feature.SCHEMA_NARROWING, Feature.SIGNED_REASONING, Feature.SPEAKER_NAMES,
        Feature.SPECIAL_TOKENS_IN_PROMPT, Feature.STRICT_TOOLS, Feature.THINKING_BUDGET,
        Feature.UNSIGNED_REASONING,
    }
)  # fmt: skip
# the features that every backend with conversations has so far
COMMON = frozenset(
    {
        Feature.JSON_SCHEMA, Feature.MAX_TOKENS, Feature.PARALLEL_TOOL_CALLS, Feature.REASONING_EFFORT,
        Feature.STOP, Feature.TEMPERATURE, Feature.TOOLS, Feature.TOOL_CHOICE, Feature.TOP_K, Feature.TOP_P,
    }
)  # fmt: skip
# those of servers of open models: our engine's, Ollama's and most of OpenAI's dialect
OPEN_MODELS = COMMON | {
    Feature.DIMENSIONS, Feature.ECHO, Feature.EMBEDDINGS, Feature.FREQUENCY_PENALTY, Feature.INPUT_TRUNCATION,
    Feature.JSON_OBJECT, Feature.LOGPROBS, Feature.MIN_P, Feature.PRESENCE_PENALTY,
    Feature.REPETITION_PENALTY, Feature.SEED, Feature.SUFFIX, Feature.TEMPLATE_VARIABLES,
    Feature.TEXT_COMPLETION, Feature.UNSIGNED_REASONING,
}  # fmt: skip
# those that OpenAI's API and its extensions by vLLM add, and our engine with them
OPENAI_AND_VLLM = OPEN_MODELS | {
    Feature.CHOICES, Feature.CONTINUED_MESSAGE, Feature.IGNORE_EOS, Feature.LOGIT_BIAS, Feature.MIN_TOKENS,
    Feature.NO_GENERATION_PROMPT, Feature.PROMPT_TRUNCATION, Feature.SPEAKER_NAMES,
    Feature.SPECIAL_TOKENS_SHOWN, Feature.STOP_TOKEN_IDS, Feature.STRICT_TOOLS,
}  # fmt: skip
OWN_ENGINE = OPENAI_AND_VLLM | {
    Feature.CHOICE, Feature.EMBEDDING_PROMPT, Feature.GRAMMAR, Feature.INSTRUCTION,
    Feature.LOOP_DETECTION, Feature.POOLING, Feature.PREDICTION, Feature.PRIORITY, Feature.PROBES,
    Feature.PROMPT_CACHE, Feature.REGEX, Feature.REPETITION_WINDOW, Feature.RERANK, Feature.SCHEMA_NARROWING,
    Feature.SERVICE_TIER, Feature.SPECIAL_TOKENS_IN_PROMPT, Feature.STEERING, Feature.UNSCALED_VECTORS,
}  # fmt: skip
NONE: frozenset[Feature] = frozenset()


@dataclass(frozen=True, slots=True)
class Use:
    """A member of a request that needs a feature. `path`: with indices, as errors name it. `feature` None: no
    backend has it.
    """

    path: str
    feature: Feature | None
    loss: Loss
    note: str = ""

    def loss_at(self, unsent: Set[Feature]) -> Loss:
        return "dropped" if self.loss == "ignored" and self.feature in unsent else self.loss


@dataclass(frozen=True, slots=True)
class Uses:
    """The members of a request that some backend may lack the feature for. `is_strict`: a request that loses
    anything is refused.
    """

    members: tuple[Use, ...] = ()
    is_strict: bool = False

    def left_out(self, carried: Set[Feature], unsent: Set[Feature] = NONE) -> list[str]:
        """The paths of the members that have no effect at a backend with these features.

        `unsent`: features that the provider has, but that we do not write in its dialect; an ignored member
        that needs one is dropped. Raises UnsupportedParameter, and BadRequest for unknown members.
        """
        lost = [use for use in self.members if use.feature not in carried]
        for use in lost:
            loss = use.loss_at(unsent)
            if loss == "refused" or (self.is_strict and loss == "dropped"):
                raise unsupported(use.path, use.note, use.feature)
        unknown = [use.path[:200] for use in lost if use.loss == "unknown"]
        if self.is_strict and unknown:
            raise BadRequest(f"unrecognized request member: {unknown[0]}", param=unknown[0])
        return [use.path for use in lost]


NO_USES = Uses()


def unsupported(path: str, note: str = "", feature: Feature | None = None) -> BadRequest:
    """The error of a member that a backend cannot honour."""
    if feature in (Feature.STEERING, Feature.PROBES):
        problem = f"{path}: this model cannot be steered or probed here; models that Headrace runs itself can"
        return SteeringRefused(problem, code="steering_unsupported", param=path)
    hint = f": {note}" if note else ""
    return UnsupportedParameter(f"{path} is not supported here{hint}", param=path)
