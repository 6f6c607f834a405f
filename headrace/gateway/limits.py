"""What requests may use, and what they have used: reserved before they start, and settled at their end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from headrace.callers import RATES, Principal
from headrace.config import PriceConfig
from headrace.config.tables import LOCAL
from headrace.encoder_types import RerankRequest, question
from headrace.errors import BadRequest
from headrace.gateway.lifetime import Tally
from headrace.gateway.routing import Target
from headrace.limits.demand import Demand, Limiter, Reservation
from headrace.relay_types import RelayRequest, num_prompts
from headrace.types import Conversation, EmbedRequest, GenerateRequest, Message, Texts, TokenizeRequest, Usage

ANSWER = 4096  # tokens that an answer may have whose caller has set no limit
SHORT = 64  # ... and that must be left for each answer
LIMITS = ("max_completion_tokens", "max_tokens")
BYTES = 3  # of a token, where the tokenizer is not known: a little more tokens than most texts have
MEDIA = 1000  # tokens of an image, where the tokenizer is not known
FAILED = (500, 502, 503)  # statuses; not 504, because a caller may set the timeout
MILLION = 10**6
BILLION = 10**9


@dataclass(frozen=True, slots=True)
class Prices:
    """What models cost, by their ids, or by PROVIDER:MODEL. Costs are in billionths."""

    prices: Mapping[str, PriceConfig] = field(default_factory=dict)

    def of(self, provider: str, model: str) -> PriceConfig | None:
        return self.prices.get(f"{provider}:{model}") or self.prices.get(model) if self.prices else None

    def cost(self, provider: str, model: str, usage: Usage) -> int:
        price = self.of(provider, model)
        if price is None:
            return 0
        cached = price.prompt if price.cached_prompt is None else price.cached_prompt
        new = usage.prompt_tokens - usage.cached_tokens
        whole = new * price.prompt + usage.cached_tokens * cached + usage.completion_tokens * price.completion
        return round(whole * BILLION / MILLION)


class Charge:
    """The use that a request has reserved of its key's limits. At the end of the request its real use
    replaces the reservation, once.
    """

    def __init__(self, reservation: Reservation, reserved: Demand, prices: Prices) -> None:
        self.answer = reservation.answer
        self._reservation, self._reserved, self._prices = reservation, reserved, prices

    async def settle(self, tally: Tally) -> None:
        """A request that failed here or at a provider costs nothing, nor does one that was not answered. One
        whose answer has begun, and whose usage is not known, costs what it has reserved.
        """
        usage = tally.usage or Usage(0, 0)
        if tally.status in FAILED:
            usage = Usage(0, 0)
        elif tally.usage is None and tally.began is not None:
            usage = tally.assumed = Usage(self._reserved.prompt, self.answer)
        tokens = usage.prompt_tokens + usage.completion_tokens
        await self._reservation.settle(
            tokens, self._prices.cost(tally.provider or "", tally.served or "", usage)
        )


class Settling:
    """Settles `charge`, if there is one, when the body of an `async with` ends; an error of the body is
    recorded first.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self.charge: Charge | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _: object, exc: BaseException | None, __: object) -> None:
        if self.charge is not None and exc is not None:
            self._tally.end(exc)
        await self.settle()

    async def settle(self) -> None:
        """Settle, once. It comes before the answer's end: who has read it may use what it has left."""
        charge, self.charge = self.charge, None
        if charge is not None:
            await charge.settle(self._tally)


@dataclass(frozen=True, slots=True)
class Charging:
    """Reserves what requests may use, for callers whose keys have limits."""

    limiter: Limiter
    prices: Prices

    async def generate(
        self, caller: Principal, request: GenerateRequest, target: Target
    ) -> tuple[Charge, GenerateRequest]:
        """Reserve, and limit the answers to what was granted. Raises RateLimited, Overloaded."""
        if not caller.limits.count_tokens:
            return await self._reserve(caller, Demand()), request
        prompt, number = await _count(request.prompt, target), request.num_choices
        least, most = _answer_tokens(caller, request, prompt, target.info.max_model_len)
        demand = self._demand(target, prompt, least * number, most * number)
        charge = await self._reserve(caller, demand)
        if request.sampling.max_tokens is None:
            limited = replace(request.sampling, max_tokens=charge.answer // number)
            request = replace(request, sampling=limited)
        return charge, request

    async def embed(self, caller: Principal, request: EmbedRequest, target: Target) -> Charge:
        """Reserve the tokens of the texts. Raises RateLimited, Overloaded."""
        demand = Demand()
        if caller.limits.count_tokens:
            texts = Texts(request.inputs)
            demand = self._demand(target, await _count(texts, target), 0, 0)
        return await self._reserve(caller, demand)

    async def rerank(self, caller: Principal, request: RerankRequest, target: Target) -> Charge:
        """Reserve the tokens of the documents, and for each those of the question about it. Raises
        RateLimited, Overloaded.
        """
        demand = Demand()
        if caller.limits.count_tokens:
            is_judge = target.backend.name == LOCAL and target.info.kind == "generative"
            repeated: Conversation | Texts = Texts((request.query,))
            if is_judge:
                system, user = question(request, "")
                repeated = Conversation((Message("system", system), Message("user", user)))
            around = await _count(repeated, target) * len(request.documents)
            demand = self._demand(target, around + await _count(Texts(request.documents), target), 0, 0)
        return await self._reserve(caller, demand)

    async def relay(self, caller: Principal, request: RelayRequest, target: Target) -> Charge:
        """Reserve, and limit the request's answers to what was granted. Raises RateLimited, Overloaded."""
        if not caller.limits.count_tokens:
            return await self._reserve(caller, Demand())
        prompt, answer = request.body.size // BYTES, answer_limit(request)
        if answer is not None:
            return await self._reserve(caller, self._demand(target, prompt, answer, answer))
        number, longest = request.body.members.get("n", 1), target.info.max_model_len  # `is_limitable`
        most = ANSWER if longest is None else min(ANSWER, longest - prompt)
        least = _least(caller, prompt, number, most)
        charge = await self._reserve(caller, self._demand(target, prompt, least * number, most * number))
        request.max_tokens = charge.answer // number
        return charge

    def _demand(self, target: Target, prompt: int, least: int, most: int) -> Demand:
        price = self.prices.of(target.backend.name, target.info.id)
        if price is None:
            return Demand(prompt, least, most)
        each = BILLION // MILLION
        return Demand(prompt, least, most, round(price.prompt * each), round(price.completion * each))

    async def _reserve(self, caller: Principal, demand: Demand) -> Charge:
        reservation = await self.limiter.reserve(caller, demand)
        rates = RATES.get()
        if rates is not None:
            rates.append(reservation)
        return Charge(reservation, demand, self.prices)


def answer_limit(request: RelayRequest) -> int | None:
    """The tokens that the answers of a request may have, as its body says; None: it does not say, or with a
    number that a provider may understand otherwise (some take -1 for no limit).
    """
    member = request.body.members.get
    if request.endpoint in ("/embeddings", "/messages/count_tokens"):
        return 0
    limits = [limit for name in LIMITS if (limit := member(name)) is not None]
    numbers = [member("n") or 1, member("best_of") or 1]
    if not limits or not all(type(number) is int and number > 0 for number in (*limits, *numbers)):
        return None
    return int(max(limits) * max(numbers) * num_prompts(request.body.members))


def is_limitable(request: RelayRequest, longest: int | None) -> bool:
    """Whether a request that does not limit its answers can be passed on with a limit added. `longest`:
    tokens of the context.
    """
    members = request.body.members
    number, options = members.get("n", 1), members.get("stream_options")
    return (
        request.endpoint == "/chat/completions"
        and request.dialect == "openai"
        and members.get("max_tokens") is None
        and members.get("max_completion_tokens") is None
        and isinstance(options, dict | None)
        and type(number) is int
        and number > 0
        and (longest is None or longest - request.body.size // BYTES >= SHORT)
    )


def is_patient(request: RelayRequest) -> bool:
    """Whether a request's `priority` can only make it wait for others, however a provider reads it."""
    priority = request.body.members.get("priority")
    return priority is None or (type(priority) is int and priority >= 0)


def hides_usage(request: RelayRequest) -> bool:
    """Whether a stream can be passed on with its usage added, which its caller has not requested."""
    if not request.is_streamed or request.endpoint not in ("/chat/completions", "/completions"):
        return False
    options = request.body.members.get("stream_options") or {}
    return isinstance(options, dict) and options.get("include_usage") is not True


def _answer_tokens(
    caller: Principal, request: GenerateRequest, prompt: int, longest: int | None
) -> tuple[int, int]:
    """The fewest and the most tokens of each answer. `prompt`: tokens; `longest`: tokens of the context."""
    is_single = request.num_choices == request.n
    room = ANSWER if longest is None else max(0, longest - (prompt if is_single else 0))
    if request.sampling.max_tokens is not None:
        most = request.sampling.max_tokens if longest is None else min(room, request.sampling.max_tokens)
        return most, most
    most = min(room, ANSWER)
    return _least(caller, prompt, request.num_choices, most), most


def _least(caller: Principal, prompt: int, number: int, most: int) -> int:
    """The fewest tokens that must be left for each of `number` answers."""
    least, limit = min(most, SHORT), caller.limits.tokens_per_minute
    if limit is None:
        return least
    return min(least, max(1, (limit - prompt) // (4 * number)))  # a small limit is no reason to refuse all


async def _count(prompt: Conversation | Texts, target: Target) -> int:
    """The tokens of a prompt; about, where the tokenizer is not known."""
    parts: list[Conversation | str] = []
    total = 0
    if isinstance(prompt, Conversation):
        parts.append(prompt)
    else:
        for text in prompt.prompts:
            if isinstance(text, str):
                parts.append(text)
            else:
                total += len(text)
    for part in parts:
        try:
            request = TokenizeRequest(target.info.id, part)
            total += len(await target.backend.tokenize(request))
        except BadRequest:  # no tokenizer; what is wrong with the prompt, the target itself says
            total += _estimate(part)
    return total


def _estimate(part: Conversation | str) -> int:
    if isinstance(part, str):
        return len(part.encode(errors="replace")) // BYTES + 1
    total = 0
    for message in part.messages:
        total += len(message.text.encode(errors="replace")) // BYTES + 8
        total += MEDIA * sum(not isinstance(piece, str) for piece in message.parts)
        total += sum(len(call.arguments) // BYTES + 8 for call in message.tool_calls)
    for tool in part.tools:
        total += _size(tool.parameters) // BYTES + len(tool.description or "") // BYTES + 8
    return total


def _size(value: Any) -> int:
    return len(str(value)) if value is not None else 0
