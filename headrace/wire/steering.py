"""The members `steering`, `profile` and `probe` of a body: read, merged with a profile, and turned into the
neutral request. docs/steering.md describes them.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from headrace.errors import BadRequest
from headrace.features import Feature, Use
from headrace.steering.types import (
    Apply,
    Condition,
    Direction,
    Exemption,
    Mode,
    Op,
    Probe,
    SteeringRequest,
    Unit,
)
from headrace.types import GenerateRequest
from headrace.wire.limits import (
    MAX_DIRECTION,
    MAX_LAYERS,
    MAX_OPS,
    MAX_PROBED,
    MAX_PROBES,
    MAX_SWEEP,
    MAX_TOP_FEATURES,
    at_most,
)
from headrace.wire.parameters import RequestBody

HEADER, FINGERPRINT = "X-Steering-Profile", "X-Steering-Fingerprint"  # of requests, of responses
NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$"  # of profiles, SAEs and vectors
EVERY_ROLE = ("system", "developer", "user", "assistant", "tool")
SIZES = {"float16": ("e", 2), "float32": ("f", 4)}
NEEDS_NO_VALUE: tuple[Mode, ...] = ("ablate",)

Name = Annotated[str, Field(pattern=NAME)]
Layer = Annotated[int, Field(ge=-1, le=1023)]
Position = Annotated[int, Field(gt=-(2**31), lt=2**31)]
FeatureIndex = Annotated[int, Field(ge=0, lt=2**31)]


class Nested(BaseModel):
    """The base of the objects in here. An unknown member is an error: what is misspelt would be unsteered."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ApplyBody(Nested):
    """On which tokens an op acts. Without `prompt`, `roles`, `generation`, `prompt_last`: on all."""

    prompt: bool | None = Field(None, description="The prompt's tokens.")
    generation: bool | None = Field(
        None, description="The prompt's last token, from which the first one is generated, and what follows."
    )
    prompt_last: bool | None = Field(None, description="The prompt's last token.")
    roles: (
        Annotated[list[Literal["system", "developer", "user", "assistant", "tool"]], at_most(len(EVERY_ROLE))]
        | None
    ) = Field(None, description="Messages of these roles; `assistant` also what is generated.")
    window: Annotated[list[Position | None], at_most(2, least=2)] | None = Field(
        None, description="Only positions from the first up to the second; negative: from the prompt's end."
    )
    except_: Annotated[list[Exemption], at_most(4)] | None = Field(
        None, alias="except", description='Tokens that are left out. Default: ["first"].'
    )


class DirectionBody(Nested):
    dtype: Literal["float16", "float32"] = "float32"
    shape: Annotated[list[Annotated[int, Field(ge=1, le=2**20)]], at_most(2, least=1)]
    data: Annotated[str, Field(max_length=MAX_DIRECTION)] = Field(
        description="Little-endian numbers in base64, a row for each of `layers`, or one for all."
    )


class OpBody(Nested):
    """One edit of the hidden states: of an SAE's feature, a control vector, or a direction."""

    sae: Name | None = None
    feature: FeatureIndex | None = None
    vector: Name | None = None
    direction: DirectionBody | None = None
    mode: Mode = "add"
    value: float | None = Field(None, description="Needed by every mode but ablate.")
    unit: Unit = Field("raw", description="raw, × the median norm there (relative), × the largest (max).")
    strength: float = Field(1.0, description="Multiplies the edit.")
    layers: Annotated[list[Layer], at_most(MAX_LAYERS, least=1)] | None = Field(
        None, description="Default: where the SAE or the vector belongs."
    )
    only_if_active: bool = False
    preserve_norm: bool = False
    apply: Literal["all", "prompt", "generation"] | ApplyBody | None = None


class WhenBody(Nested):
    """A condition: requests whose prompt does not meet it are not steered."""

    sae: Name
    feature: FeatureIndex
    gt: float | None = Field(
        None, description="The feature's largest activation on the prompt is above this."
    )
    lt: float | None = Field(None, description="... is below this.")
    scope: Literal["prompt"] = "prompt"


class AbortBody(Nested):
    """A condition that ends an answer."""

    sae: Name
    feature: FeatureIndex
    gt: float | None = Field(None, description="The feature's activation on a token is above this.")
    lt: float | None = Field(None, description="... is below this.")


class ProfileBody(Nested):
    """What a profile holds."""

    ops: Annotated[list[OpBody], at_most(MAX_OPS)] = Field(default_factory=list)
    scale: float | None = Field(None, description="Multiplies the strength of all ops. Default: 1.")
    apply: Literal["all", "prompt", "generation"] | ApplyBody | None = None
    when: WhenBody | None = Field(None, description="Steer only if the prompt has this.")
    abort_when: AbortBody | None = Field(
        None, description="End the answer, as `content_filter`, at the first generated token that has this."
    )


class SteeringBody(ProfileBody):
    profile: Name | None = Field(None, description="A profile, to whose ops these are appended.")
    sweep: Annotated[list[float], at_most(MAX_SWEEP, least=1)] | None = Field(
        None, description="The scale of each of n answers, instead of `scale`."
    )
    receipt: bool | Literal["kl"] = Field(
        False, description="Return what was applied; kl: and how far the answer's distributions are moved."
    )


class ProbeBody(Nested):
    sae: Name
    features: Annotated[list[FeatureIndex], at_most(MAX_PROBED)] | None = None
    top_k: int = Field(0, ge=0, le=MAX_TOP_FEATURES)
    on: Annotated[list[Literal["prompt", "generation"]], at_most(2, least=1)] | None = None
    require: Literal["any", "all"] = Field(
        "any", description="all: compute prompt tokens that are cached, too."
    )


Labels = Mapping[str, Mapping[int, str]]  # SAE → feature → its label


@dataclass(frozen=True, slots=True)
class Steered:
    """What a request says about steering and probing, with names resolved. `uses`: of the header, and of
    others that are no members. `labels`: reads those of the model's features, once it is in memory.
    """

    steering: SteeringRequest | None = None
    probes: tuple[Probe, ...] = ()
    uses: tuple[Use, ...] = ()
    labels: Callable[[], Labels] = dict

    @property
    def has_receipt(self) -> bool:
        return self.steering is not None and self.steering.receipt

    def applied(self, request: GenerateRequest) -> GenerateRequest:
        """A copy of the request with the steering and the probes."""
        if self.steering is None and not self.probes:
            return request
        return replace(request, steering=self.steering, probes=self.probes)


UNSTEERED = Steered()


class SteeringMembers(RequestBody):
    """The members that every endpoint which generates text has."""

    steering: Literal[False] | str | SteeringBody | None = Field(
        None, description="Extension. false: none; a profile's name; or ops."
    )
    profile: str | None = Field(None, description="Extension. A steering profile.")
    probe: ProbeBody | Annotated[list[ProbeBody], at_most(MAX_PROBES)] | None = Field(
        None, description="Extension. Which features' activations to return."
    )
    _steered: Steered | None = PrivateAttr(default=None)  # None: unsteered, as nearly all are

    @property
    def steered(self) -> Steered:
        """What the members amount to, with names resolved: set once by `with_steered`."""
        return self._steered or UNSTEERED

    def with_steered(self, steered: Steered, **changes: object) -> Self:
        """A copy with this, and with other values of some members."""
        copy = self.model_copy(update=changes)
        copy._steered = steered
        return copy


def use_of(path: str) -> Use:
    """Describe a use of steering outside of the body: a header, or the suffix of a model's name."""
    return Use(path, Feature.STEERING, Feature.STEERING.loss)


def to_steering(body: SteeringBody | None, profile: ProfileBody | None, name: str | None) -> SteeringRequest:
    """The neutral form of a body's object and of the profile that it names, or that applies without one: the
    body's ops follow the profile's; what else it sets replaces the profile's. Raises BadRequest.
    """
    parts = [part for part in (profile, body) if part is not None]
    ops = [] if profile is None else list(_ops(profile.ops, "profile"))
    ops += [] if body is None else list(_ops(body.ops, "steering"))
    scale = next((part.scale for part in reversed(parts) if part.scale is not None), 1.0)
    scope = next((part.apply for part in reversed(parts) if part.apply is not None), None)
    when = next((part.when for part in reversed(parts) if part.when is not None), None)
    abort = next((part.abort_when for part in reversed(parts) if part.abort_when is not None), None)
    receipt = body is not None and body.receipt
    return SteeringRequest(
        tuple(ops), scale, to_apply(scope), tuple(body.sweep or ()) if body is not None else (),
        receipt is not False, receipt == "kl", name,
        None if when is None else _condition(when, "steering.when"),
        None if abort is None else _condition(abort, "steering.abort_when"),
    )  # fmt: skip


def _condition(body: WhenBody | AbortBody, param: str) -> Condition:
    """Raises BadRequest."""
    if body.gt is None and body.lt is None:
        raise _missing(f"{param}.gt", "a condition needs gt, or lt, or both")
    return Condition(body.sae, body.feature, body.gt, body.lt, param=param)


def _ops(bodies: Sequence[OpBody], source: str) -> Iterator[Op]:
    for index, body in enumerate(bodies):
        yield to_op(body, f"{source}.ops[{index}]")


def to_op(body: OpBody, param: str) -> Op:
    """The neutral form of an op. `param`: its path, for errors. Raises BadRequest."""
    kinds = [name for name in ("sae", "vector", "direction") if getattr(body, name) is not None]
    if len(kinds) != 1:
        named = " and ".join(kinds) or "none of them"
        raise BadRequest.at(param, f"an op has one of sae, vector, direction; this one has {named}")
    if (body.sae is None) != (body.feature is None):
        missing = "feature" if body.feature is None else "sae"
        raise _missing(f"{param}.{missing}", "sae and feature belong together")
    if body.value is None and body.mode not in NEEDS_NO_VALUE:
        raise _missing(f"{param}.value", f"the mode {body.mode} needs a value")
    if body.value is not None and body.mode in NEEDS_NO_VALUE:
        raise BadRequest.at(f"{param}.value", f"the mode {body.mode} has no value")
    return Op(
        body.mode, body.value or 0.0, body.unit, body.strength, body.sae, body.feature, body.vector,
        None if body.direction is None else _direction(body, body.direction, f"{param}.direction"),
        None if body.layers is None else tuple(body.layers), body.only_if_active, body.preserve_norm,
        None if body.apply is None else to_apply(body.apply), param,
    )  # fmt: skip


def _missing(param: str, problem: str) -> BadRequest:
    return BadRequest.at(param, problem, code="missing_required_parameter")


def to_apply(body: str | ApplyBody | None) -> Apply:
    """The neutral form of a scope."""
    if body is None or isinstance(body, str):
        return Apply(prompt=body != "generation", generation=body != "prompt")
    named = (body.prompt, body.generation, body.prompt_last, body.roles)
    is_all = all(value is None for value in named)
    roles = None if body.roles is None else frozenset(body.roles)
    has_answer = roles is not None and "assistant" in roles
    first, last = body.window or (None, None)
    return Apply(
        prompt=is_all or (roles is not None if body.prompt is None else body.prompt),
        generation=is_all or (has_answer if body.generation is None else body.generation),
        prompt_last=bool(body.prompt_last),
        roles=roles,
        window=None if body.window is None else (first, last),
        exceptions=frozenset({"first"} if body.except_ is None else body.except_),
    )


def _direction(op: OpBody, body: DirectionBody, param: str) -> Direction:
    """The numbers of an inline direction. Raises BadRequest for data that is no base64, of another size, or
    not finite.
    """
    rows, width = body.shape if len(body.shape) == 2 else (1, body.shape[0])
    if op.layers is None:
        raise _missing(f"{param.rpartition('.')[0]}.layers", "a direction needs layers")
    if rows not in (1, len(op.layers)):
        raise BadRequest.at(
            f"{param}.shape", f"{rows} rows for {len(op.layers)} layers: give one for each, or one"
        )
    letter, size = SIZES[body.dtype]
    try:
        data = base64.b64decode(body.data, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise BadRequest.at(f"{param}.data", "this is no base64") from exc
    if len(data) != rows * width * size:
        raise BadRequest.at(
            f"{param}.data",
            f"{len(data)} bytes; {rows} × {width} {body.dtype} numbers have {rows * width * size}",
        )
    if not all(map(math.isfinite, struct.unpack(f"<{rows * width}{letter}", data))):
        raise BadRequest.at(f"{param}.data", "not all numbers are finite")
    return Direction(body.dtype, (rows, width), data)


def to_probes(body: ProbeBody | Sequence[ProbeBody] | None) -> tuple[Probe, ...]:
    """The neutral form of `probe`. Raises BadRequest."""
    if body is None:
        return ()
    if isinstance(body, ProbeBody):
        return (_probe(body, "probe"),)
    return tuple(_probe(entry, f"probe[{index}]") for index, entry in enumerate(body))


def _probe(body: ProbeBody, param: str) -> Probe:
    if not body.features and not body.top_k:
        raise _missing(f"{param}.top_k", "a probe needs features, or top_k, or both")
    on = body.on or ["prompt", "generation"]
    return Probe(
        body.sae, tuple(body.features or ()), body.top_k, "prompt" in on, "generation" in on,
        body.require == "all", param,
    )  # fmt: skip
