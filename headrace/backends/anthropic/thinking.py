"""How much a model thinks: OpenAI's reasoning_effort in Anthropic's terms, and what a model can do.

reasoning_effort | adaptive models         | older ones, which think within a budget
none             | thinking disabled       | thinking disabled
minimal          | effort low              |  1024 tokens
low              | effort low              |  2048
medium           | effort medium           |  8192
high             | effort high             | 16384
xhigh            | effort xhigh            | 24576
max              | effort max              | 32768

An effort that the model is known not to have becomes the next lower one. A budget is at most half of
max_tokens, of which it is a part, but never under 1024, the least that Anthropic takes. Without
reasoning_effort nothing is sent: the model's own default holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.dialects.anthropic import BUDGETS, EFFORTS, MIN_BUDGET
from headrace.errors import BadRequest, UnsupportedParameter

PARAM = "reasoning_effort"

# models that take temperature and top_p together: those before Claude Opus 4.1 and Sonnet 4.5
BOTH = re.compile(r"claude-(?:[23]|instant)|(?:opus|sonnet)-4(?:-0\b|-2025|[@:]|$)")

# models before Claude 4.6, by the names that Anthropic and those who resell it use; all later ones are
# adaptive, and only those
BUDGETED = re.compile(
    r"claude-(?:[23]|instant|4-)|(?:opus|sonnet|haiku)-4(?:[-.][0-5])?(?![0-9]|[-.][0-9](?![0-9]))"
)


@dataclass(frozen=True, slots=True)
class Abilities:
    """Of one model, as GET /v1/models tells them, or as its name does."""

    is_adaptive: bool
    thinks: bool = True
    efforts: tuple[str, ...] = EFFORTS
    max_tokens: int | None = None  # the most that may be asked for; None: not known
    takes_one: bool = True  # of temperature and top_p


def of_name(id: str) -> Abilities:
    """What is likely of a model that is not listed."""
    return Abilities(is_adaptive=not BUDGETED.search(id), takes_one=not BOTH.search(id))


def of_listed(id: str, listed: Mapping[str, Any]) -> Abilities:
    """`listed`: an entry of GET /v1/models; what it leaves out, the name tells."""
    guessed, most = of_name(id), listed.get("max_tokens")
    adaptive = _is_supported(listed, "thinking", "types", "adaptive")
    efforts = tuple(effort for effort in EFFORTS if _is_supported(listed, "effort", effort))
    return Abilities(
        is_adaptive=guessed.is_adaptive if adaptive is None else adaptive,
        thinks=_is_supported(listed, "thinking") is not False,
        efforts=efforts or guessed.efforts,
        max_tokens=most if isinstance(most, int) and most > 0 else None,
        takes_one=guessed.takes_one,
    )


def _is_supported(listed: Mapping[str, Any], *path: str) -> bool | None:
    """None: it does not say."""
    found: Any = listed.get("capabilities")
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    supported = found.get("supported") if isinstance(found, dict) else None
    return supported if isinstance(supported, bool) else None


def thinking(
    asked: str | None, max_tokens: int, abilities: Abilities, budget: int | None = None
) -> dict[str, Any]:
    """The members `thinking` and `output_config` of a request. `budget`: the tokens that the caller named,
    where it did, for models that take a number. Raises BadRequest.
    """
    if asked is None:
        return {}
    if asked == "none":
        return {"thinking": {"type": "disabled"}}
    if not abilities.thinks:
        raise UnsupportedParameter("this model does not think", param=PARAM)
    if not abilities.is_adaptive:
        budget = _budget(asked, max_tokens) if budget is None else fitted_budget(budget, max_tokens)
        return {"thinking": {"type": "enabled", "budget_tokens": budget}}
    # without display, newer models keep their thoughts to themselves
    shown = {"type": "adaptive", "display": "summarized"}
    return {"thinking": shown, "output_config": {"effort": _effort(asked, abilities.efforts)}}


def _effort(asked: str, known: tuple[str, ...]) -> str:
    wanted = EFFORTS.index("low" if asked == "minimal" else asked)
    lower = [effort for effort in known if EFFORTS.index(effort) <= wanted]
    return lower[-1] if lower else known[0]


def fitted_budget(budget: int, max_tokens: int) -> int:
    """What Anthropic takes: it is a part of max_tokens, and not all of it. Raises BadRequest."""
    if max_tokens <= MIN_BUDGET:
        raise BadRequest(
            f"{PARAM} needs more than {MIN_BUDGET} tokens, and max_tokens is {max_tokens}", param=PARAM
        )
    return min(max(budget, MIN_BUDGET), max_tokens - 1)


def _budget(asked: str, max_tokens: int) -> int:
    budget = max(MIN_BUDGET, min(BUDGETS[asked], max_tokens // 2))
    if budget >= max_tokens:
        raise BadRequest(
            f"{PARAM} {asked} needs more than {MIN_BUDGET} tokens, and max_tokens is {max_tokens}",
            param=PARAM,
        )
    return budget
