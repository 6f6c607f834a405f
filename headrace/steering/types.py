"""Requests to steer and to probe, and their results: frozen values that are cheap to import.

A *site* is the output of one decoder layer (`resid_post[layer]`; layer -1 is the embeddings). An *op* edits
the hidden state at a site along one direction: an SAE feature's, a control vector's, or the request's own.
`SteeringRequest` has names and units; `headrace.steering.plan` resolves it for one model to raw numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# a: the feature's activation, or the hidden state's product with the unit direction; v: the op's value
Mode = Literal[
    "add",  # h + v·u
    "scale",  # a → v·a
    "clamp",  # a → v
    "floor",  # a → max(a, v)
    "cap",  # a → min(a, v)
    "ablate",  # a → 0
]
Unit = Literal[
    "raw",  # of activations
    "relative",  # of the median norm of the hidden states at the site
    "max",  # of the feature's largest activation that was measured
]
Exemption = Literal["first", "special", "tool_calls", "thinking"]
Architecture = Literal["standard", "jumprelu", "topk", "gated"]
Normalization = Literal["none", "layer_norm", "constant_norm_rescale"]

DEFAULT_EXCEPTIONS: frozenset[Exemption] = frozenset({"first"})


@dataclass(frozen=True, slots=True)
class Apply:
    """On which tokens an op acts: (prompt ∪ generation ∪ prompt_last) ∩ window, without the exceptions.

    `generation` includes the prompt's last token, because its forward pass gives the first generated one.
    """

    prompt: bool = True
    generation: bool = True
    prompt_last: bool = False  # the prompt's last token
    roles: frozenset[str] | None = None  # of messages, to which `prompt` is limited; None: all tokens
    # [begin, end) in positions; negative ones count from the prompt's end, None is no bound
    window: tuple[int | None, int | None] | None = None
    exceptions: frozenset[Exemption] = DEFAULT_EXCEPTIONS


@dataclass(frozen=True, slots=True)
class Direction:
    """Directions that the caller sent as numbers, a row for each layer of the op, or one for all. `data`:
    shape[0] × shape[1] little-endian floats.
    """

    dtype: Literal["float16", "float32"]
    shape: tuple[int, int]
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Op:
    """One edit, as a request has it. It has either `sae` and `feature`, or `vector`, or `direction`."""

    mode: Mode
    value: float = 0.0  # v; the factor of `scale`, which has no unit; meaningless with `ablate`
    unit: Unit = "raw"
    strength: float = 1.0  # multiplies the edit
    sae: str | None = None
    feature: int | None = None
    vector: str | None = None
    direction: Direction | None = None
    layers: tuple[int, ...] | None = None  # each of them; None: where the SAE or vector belongs
    only_if_active: bool = False  # no edit where a ≤ 0
    preserve_norm: bool = False  # rescale the edited hidden state to the norm it had
    apply: Apply | None = None  # None: the request's
    param: str = "steering"  # the request's member, for errors: steering.ops[0]


@dataclass(frozen=True, slots=True)
class Condition:
    """Is met by a feature's activation that is above and below these.

    `SteeringRequest.when`: its largest on the prompt, as it is unsteered, on all tokens but the first.
    `abort_when`: that on a generated token, as it is steered.
    """

    sae: str
    feature: int
    above: float | None = None
    below: float | None = None
    measured: tuple[float, ...] = ()  # the activation on each prompt of the request, once it is known
    param: str = "steering.when"

    def is_met(self, activation: float) -> bool:
        is_above = self.above is None or activation > self.above
        return is_above and (self.below is None or activation < self.below)


@dataclass(frozen=True, slots=True)
class SteeringRequest:
    """All edits of one request, with names and units; profiles are already replaced by their ops."""

    ops: tuple[Op, ...]
    scale: float = 1.0  # multiplies the strength of all
    apply: Apply = Apply()
    sweep: tuple[float, ...] = ()  # the scale of each of the n choices, instead of `scale`
    receipt: bool = False
    has_divergence: bool = False  # the receipt has `divergence`
    profile: str | None = None  # the name it came from, for receipts
    when: Condition | None = None  # steer only prompts that meet it; None: all
    abort_when: Condition | None = None  # end the answer at the first token that meets it; None: never


@dataclass(frozen=True, slots=True)
class Probe:
    """A request to read an SAE's activations. They are those of the hidden state that leaves the site."""

    sae: str
    features: tuple[int, ...] = ()  # always reported
    top_k: int = 0  # ... and so many of the largest
    prompt: bool = True  # read the prompt's tokens
    generation: bool = True  # read the generated ones, but for the last, which is never computed
    require_all: bool = False  # compute prompt tokens that are cached, too
    param: str = "probe"  # its path in the body, for errors; empty: the body is the probe


@dataclass(frozen=True, slots=True)
class Reading:
    """One probe's activations at one token."""

    sae: str
    features: Mapping[int, float]  # of the probe's `features`
    top: tuple[tuple[int, float], ...] = ()  # (feature, activation), the largest first


@dataclass(frozen=True, slots=True)
class Activations:
    """The readings of one token, at its own position. They are known when the token was computed, one step
    after it was chosen; so they come with the next event of the choice.
    """

    position: int  # from 0, the prompt's first token
    token: str
    raw: bytes  # its exact bytes
    cached: bool = False  # taken from the prefix cache, which has no activations: `readings` is empty
    readings: tuple[Reading, ...] = ()  # in the order of the probes; empty for the last generated token, too


@dataclass(frozen=True, slots=True)
class Seen:
    """What probes read on one token of a running request. `index`: the choice; `dropped`: how many before it
    were lost on the way to their reader.
    """

    request_id: str
    model: str
    index: int
    entry: Activations
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class ResolvedOp:
    """An op at one layer, in raw numbers, for receipts."""

    param: str
    mode: Mode
    layer: int
    value: float  # raw
    strength: float  # with the request's scale
    sae: str | None = None
    feature: int | None = None
    vector: str | None = None
    # How far the edit goes along its direction / the median norm there; negative: against it; None: it
    # depends on a.
    relative_dose: float | None = None


@dataclass(frozen=True, slots=True)
class SideEffect:
    """How much the edits of a request changed a feature that they do not name: mean over the tokens."""

    sae: str
    feature: int
    layer: int
    change: float


@dataclass(frozen=True, slots=True)
class ConditionResult:
    activation: float  # the feature's largest on the prompt
    is_met: bool


@dataclass(frozen=True, slots=True)
class Abort:
    """Where `abort_when` was met."""

    position: int  # of the token, from the prompt's first
    activation: float


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was applied to one choice. Counts and achieved values are those at its end."""

    fingerprint: str  # of weights, layers, modes, raw numbers and scopes; not of names
    ops: tuple[ResolvedOp, ...]
    relative_dose: float | None = None  # the largest sum at one layer, of lengths
    tokens_steered: int = 0
    achieved: tuple[
        float | None, ...
    ] = ()  # of each op: a after the edit, mean over the tokens; None: unread
    profile: str | None = None
    condition: ConditionResult | None = None  # None: the request has none
    side_effects: tuple[SideEffect, ...] = ()  # the largest first
    abort: Abort | None = None  # None: the answer was not ended
    divergence: float | None = None  # see engine.probing.Divergence; mean over the answer's tokens


@dataclass(frozen=True, slots=True)
class SAEInfo:
    """A sparse autoencoder that is loaded."""

    id: str
    architecture: Architecture
    width: int  # of the hidden states that it reads
    num_features: int
    layer: int  # where it was trained
    k: int | None = None  # of topk
    normalization: Normalization = "none"
    format: str = ""  # saelens, gemma_scope, …
    model_name: str | None = None  # the model that it was trained on, if its files say so
    digest: str = ""  # of its weights
    path: Path | None = None
    layers: tuple[int, ...] = ()  # where it is attached; none: nowhere
    median_norm: float | None = None  # of the hidden states at `layer`; None: not measured
    labels: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VectorInfo:
    """A control vector that is loaded: a direction for each of some layers."""

    id: str
    width: int
    layers: tuple[int, ...]
    norms: tuple[float, ...]  # of each layer's direction
    digest: str = ""
    path: Path | None = None
    model_name: str | None = None
    is_attached: bool = False


@dataclass(frozen=True, slots=True)
class FeatureStatistics:
    """Statistics of one feature, over the tokens that were probed."""

    feature: int
    count: int
    mean: float
    variance: float
    max: float
    active_share: float  # tokens with a > 0


@dataclass(frozen=True, slots=True)
class MinuteStatistics:
    """Statistics of one feature, over the tokens that were probed in one minute."""

    at: int  # when the minute began, in seconds since 1970
    count: int
    mean: float
    max: float
    active_share: float


class Capture(Protocol):
    """A model whose hidden states can be read: for training vectors and SAEs. `open_capture` in
    headrace.backends.engine.capture creates one from a model's folder, without a server.
    """

    @property
    def width(self) -> int: ...
    @property
    def num_layers(self) -> int: ...

    def tokens(self, text: str) -> list[int]: ...

    def states(self, tokens: Sequence[int], layers: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        """The hidden states of one text at resid_post[layer], by layer: [tokens, width] each."""
        ...

    def logits(
        self, tokens: Sequence[int], replaced: Mapping[int, NDArray[np.float32]] | None = None
    ) -> NDArray[np.float32]:
        """The logits [tokens, vocabulary]. `replaced`: states[tokens, width] that take the place of the
        model's own at these layers, for example an SAE's reconstruction.
        """
        ...
