"""Parameters, as the tables of the endpoints describe them, and the features that a body uses by them.

Every member of a body that has an effect either needs a feature, which a backend may lack, or is handled by
Headrace itself. A member whose value changes nothing (`frequency_penalty: 0`, `tools: []`) needs no feature,
because clients send their defaults. docs/compatibility.md is generated from these tables and from the
features of the backends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel

from headrace.features import Feature, Loss, Use, Uses
from headrace.wire.elsewhere import NOTHING, Neutral
from headrace.wire.validation import RequestBody, members

# How every backend treats a member that needs no feature. ours: Headrace handles it. sent: it is part of
# every request. ignored, dropped, refused: as Loss, in headrace/features.py.
Everywhere = Literal["ours", "sent", "ignored", "dropped", "refused"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A member of a body. Tables map its dotted path, without indices of lists, to this.

    `asks`: the feature that it needs, or how every backend treats it. `note`: for the documentation.
    `is_neutral`: whether a value changes nothing. `is_redundant`: whether the object that has the member
    means the same without it. `loss`: what happens where the feature is missing, if not what the feature
    says.

    From these follow `feature`, and `loss_where_uncarried`: what happens to the member at a backend without
    its feature; None: it has an effect everywhere.
    """

    asks: Feature | Everywhere
    note: str = ""
    is_neutral: Neutral = NOTHING
    is_redundant: Callable[[BaseModel], bool] = lambda _: False
    loss: Loss | None = None
    feature: Feature | None = field(init=False)
    loss_where_uncarried: Loss | None = field(init=False)

    def __post_init__(self) -> None:
        # computed once, because every request looks at every row of a table
        feature = self.asks if isinstance(self.asks, Feature) else None
        if isinstance(self.asks, Feature):
            loss: Loss | None = self.loss or self.asks.loss
        else:
            loss = None if self.asks == "ours" or self.asks == "sent" else self.asks
        object.__setattr__(self, "feature", feature)
        object.__setattr__(self, "loss_where_uncarried", loss)


Table = Mapping[str, Parameter]


def needs(
    feature: Feature,
    note: str = "",
    is_neutral: Neutral = NOTHING,
    *,
    is_redundant: Callable[[BaseModel], bool] = lambda _: False,
    loss: Loss | None = None,
) -> Parameter:
    """A member that needs a feature of the backend."""
    return Parameter(feature, note, is_neutral, is_redundant, loss)


def ours(note: str = "") -> Parameter:
    """A member that Headrace handles itself."""
    return Parameter("ours", note)


def sent(note: str = "") -> Parameter:
    """A member that is part of every request, or that only contains others."""
    return Parameter("sent", note)


def ignored(note: str, is_neutral: Neutral = NOTHING) -> Parameter:
    return Parameter("ignored", note, is_neutral)


def refused(note: str, is_neutral: Neutral) -> Parameter:
    return Parameter("refused", note, is_neutral)


def advice(note: str, is_neutral: Neutral = NOTHING) -> Parameter:
    """A member about a provider's bookkeeping, speed or price. Local models have no use for it."""
    return Parameter(Feature.ADVICE, note, is_neutral)


def foreign(note: str, is_neutral: Neutral = NOTHING) -> Parameter:
    """A member that only Anthropic's own API has a use for."""
    return Parameter(Feature.ANTHROPIC_ADVICE, note, is_neutral)


def of_server_tools(note: str, is_neutral: Neutral = NOTHING) -> Parameter:
    """A member about tools that Anthropic itself runs, which are dropped."""
    return Parameter(Feature.SERVER_TOOLS, note, is_neutral)


MAX_NAMED, MAX_NAME = 20, 200  # members in the header, at most, and characters of each
IGNORED = "X-Headrace-Ignored"


def uses_of(body: RequestBody, table: Table, *, strict: bool = False, more: Iterable[Use] = ()) -> Uses:
    """The features that a body uses, and its members without effect, found in one walk. `more`: uses that no
    single member shows.
    """
    asking = {path for path, known in table.items() if known.loss_where_uncarried is not None}
    uses: list[Use] = []
    for member in members(body, asking):
        known = table.get(member.bare)
        if known is None:
            uses.append(Use(member.path, None, "unknown"))
            continue
        loss = known.loss_where_uncarried
        if loss is not None and not known.is_neutral(member.value) and not known.is_redundant(member.owner):
            uses.append(Use(member.path, known.feature, loss, known.note))
    return Uses((*uses, *more), strict)


def with_named(headers: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """The headers with these names added to X-Headrace-Ignored."""
    # a header is ASCII: other characters are percent-encoded
    entries = [headers.get(IGNORED, ""), *(quote(name[:MAX_NAME], safe="[]:") for name in names[:MAX_NAMED])]
    line = ", ".join(filter(None, entries))[:1024]
    return {**headers, IGNORED: line} if line else dict(headers)
