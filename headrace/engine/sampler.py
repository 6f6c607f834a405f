"""Chooses the next token: greedily, or at random after temperature, top_k, top_p and min_p. Log-probabilities
describe the model's own distribution, before all of these.

Order: bias, penalties and masks (the tokens that a constraint allows), temperature, top_k, top_p (over what
top_k left), min_p (relative to the most probable token). Each sequence draws from its own generator, and each
row is computed by itself, so a sequence's output never depends on the others in the batch. A row has about
50,000 entries: operations on all of them are single vectorised passes in float32. One pass over all rows at
once is slower, because it does not fit the core's cache.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from headrace.engine.sequence import Logprobs, SamplingParams, Sequence

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Tokens = NDArray[np.int64]
Mask = NDArray[np.int32]  # a bit for each token: whether it may come next
Masks = dict[Sequence, Mask | Exception]  # of those with a constraint; what it raised instead of a mask

# [256, 8]: for each byte of a mask, what is added to its eight tokens: 0 where the bit is set, else minus
# infinity.
PENALTIES = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"),
    np.float32(0),
    np.float32(-np.inf),
)
# Temperatures below this are raised to it: any two float32 logits that differ are already so far apart that
# only the largest is ever drawn.
MIN_TEMPERATURE = 1e-10
# Below this temperature it is faster to find the tokens that can be drawn first, and only exponentiate those.
SPARSE_TEMPERATURE = 0.8
SPARSE_SHARE = 8  # ... if they are less than one in SPARSE_SHARE of the vocabulary
# Log weight relative to the most probable token. All tokens below it weigh less than 1e-7 of it together
# (2^17 · exp(-30) ≈ 1e-8), which is finer than float32 resolves.
FAINTEST = np.float32(-30)
RUN = 128  # weights per partial sum in `Drawing`
# Draws before the nucleus is found by sorting. A draw misses it with probability 1 - top_p at most.
TRIES = 6
# Logits up to this size are exponentiated as they are: the sum of a whole row of exp(40) fits a float32.
MAX_UNSHIFTED_LOGIT = 40
WIDTH = 512  # groups of logits in `_largest`


def adjust(row: Floats, sequence: Sequence, mask: Mask | None) -> Floats:
    """Return row[vocabulary] with the sequence's parameters applied: a copy, or the row itself if nothing
    changes. `mask`: see Constraint.fill.
    """
    params = sequence.params
    has_early_stop = bool(params.stop_token_ids) and sequence.num_generated < params.min_tokens
    if not (params.logit_bias or params.counts_tokens or has_early_stop or mask is not None):
        return row
    row = row.copy()
    if params.counts_tokens:
        _penalize(row, sequence)
    if params.logit_bias:
        count = _below(params.biased, len(row))
        row[params.biased[:count]] += params.bias[:count]
    if mask is not None:
        row += PENALTIES.take(mask.view(np.uint8), axis=0).reshape(-1)[: len(row)]
    if has_early_stop:
        _mask_stop_tokens(row, sequence)
    return row


def _mask_stop_tokens(row: Floats, sequence: Sequence) -> None:
    """Mask the stop tokens, unless a constraint allows no other token."""
    ends = sequence.params.ends[: _below(sequence.params.ends, len(row))]
    logits = row[ends]
    row[ends] = -np.inf
    if sequence.constraint is not None and not np.isfinite(row.max()):
        row[ends] = logits


def _below(tokens: NDArray[np.int64], vocabulary: int) -> int:
    """The number of tokens, which are in ascending order, that are ids of the vocabulary. Callers may send
    larger ids.
    """
    return int(np.searchsorted(tokens, vocabulary))


def _penalize(row: Floats, sequence: Sequence) -> None:
    params = sequence.params
    if params.repetition_penalty != 1:
        seen = _seen(sequence, len(row))
        logits, penalty = row[seen], np.float32(params.repetition_penalty)
        row[seen] = np.where(logits > 0, logits / penalty, logits * penalty)
    if sequence.counts and (params.frequency_penalty or params.presence_penalty):
        tokens = np.fromiter(sequence.counts.keys(), np.int64)
        counts = np.fromiter(sequence.counts.values(), np.float32)
        row[tokens] -= np.float32(params.frequency_penalty) * counts + np.float32(params.presence_penalty)


def _seen(sequence: Sequence, vocabulary: int) -> NDArray[np.int64]:
    """The ids, ascending, of the tokens that occur in the prompt or the answer so far, or in the window."""
    window = sequence.params.repetition_window
    if window is not None:
        ids = np.unique(np.array(sequence.tokens[-window:], np.int64))
        return ids[: _below(ids, vocabulary)]
    if sequence.seen is None:
        sequence.seen = np.zeros(vocabulary, np.bool_)
        tokens = np.array(sequence.tokens, np.int64)
        sequence.seen[tokens[tokens < vocabulary]] = True
    elif sequence.tokens[-1] < vocabulary:
        sequence.seen[sequence.tokens[-1]] = True
    return np.flatnonzero(sequence.seen)


def choose(logits: Floats, sequence: Sequence, mask: Mask | None = None) -> int | None:
    """Choose the sequence's next token from logits[vocabulary]; None where they are not a distribution (NaN,
    infinite, every token masked). `mask`: the tokens that its constraint allows.
    """
    row = adjust(logits, sequence, mask)
    # argmax returns the first NaN if there is one, so one look at the largest logit finds a bad row. What is
    # infinite before the adjustment may be masked after it.
    best = int(row.argmax())
    if not np.isfinite(row[best]) or not (row is logits or np.isfinite(logits.max())):
        return None
    return _draw(row, row[best], sequence) if sequence.params.temperature > 0 else best


def _draw(row: Floats, top: np.float32, sequence: Sequence) -> int:
    """Draw a token with probability softmax(row / temperature), renormalised over those the filters keep."""
    params = sequence.params
    temperature = np.float32(max(params.temperature, MIN_TEMPERATURE))
    drawable = _drawable(row, top, temperature) if temperature < SPARSE_TEMPERATURE else None
    weights = _weights(row if drawable is None else row[drawable], top, temperature)
    chosen = _draw_by_weight(weights, params, sequence.rng)
    return chosen if drawable is None else int(drawable[chosen])


def _drawable(row: Floats, top: np.float32, temperature: np.float32) -> Tokens | None:
    """The ids, ascending, of the tokens that weigh enough to be drawn at all; None when they are many, and
    picking them out would not pay.
    """
    matters = row >= top + FAINTEST * temperature
    return np.flatnonzero(matters) if np.count_nonzero(matters) < len(row) // SPARSE_SHARE else None


def _weights(row: Floats, top: np.float32, temperature: np.float32) -> Floats:
    """exp(row / temperature), up to a common factor. Subtracting the largest logit first costs a pass, and is
    only needed where the exponentials could overflow, or all become zero.
    """
    if temperature == 1 and abs(top) < MAX_UNSHIFTED_LOGIT:
        weights: Floats = np.exp(row)
        return weights
    weights = row - top
    weights /= temperature
    np.exp(weights, out=weights)
    return weights


def _draw_by_weight(weights: Floats, params: SamplingParams, rng: np.random.Generator) -> int:
    """Draw an index by weight, after the filters.

    With top_p alone, this is rejection sampling: draw from all tokens until one lies in the nucleus. The
    distribution is the same, most first draws succeed, and the test needs no sorting.
    """
    if not params.top_k and not params.min_p:
        drawing = Drawing(weights)
        for _ in range(TRIES if params.top_p < 1 else 1):
            token = drawing.draw(1 - rng.random())
            if params.top_p >= 1 or _is_in_nucleus(weights, token, params.top_p * drawing.whole):
                return token
    heaviest = _filter(weights, params)
    return int(heaviest[Drawing(weights[heaviest]).draw(1 - rng.random())])


def _is_in_nucleus(weights: Floats, token: int, share: float) -> bool:
    """Whether the tokens that precede it weigh less than `share` together. The order is by weight, heaviest
    first, and by id among equals.
    """
    weight = weights[token]
    others = float(np.einsum("i,i", weights, (weights >= weight).astype(np.float32))) - float(weight)
    if others < share:  # an upper bound, which counts all equals: usually enough
        return True
    heavier = float(np.einsum("i,i", weights, (weights > weight).astype(np.float32)))
    before = heavier + float(weight) * int(np.count_nonzero(weights[:token] == weight))
    return before < share or before == 0


def _filter(weights: Floats, params: SamplingParams) -> Tokens:
    """The ids, ascending, of the tokens that top_k, top_p and min_p keep.

    Only the weights that may be in the nucleus are sorted, and only their values: the lightest one that is
    kept is a threshold for all others.
    """
    heaviest = None
    if 0 < params.top_k < len(weights):
        heaviest = _heaviest(weights, np.partition(weights, -params.top_k)[-params.top_k], params.top_k)
        weights = weights[heaviest]
    nucleus = _nucleus(weights, params) if params.top_p < 1 else np.arange(len(weights))
    if params.min_p:
        nucleus = nucleus[weights[nucleus] >= params.min_p * weights.max()]
    return nucleus if heaviest is None else heaviest[nucleus]


def _nucleus(weights: Floats, params: SamplingParams) -> Tokens:
    """The ids of the smallest set of heaviest tokens that together weigh `top_p` of the whole."""
    whole = float(weights.sum(dtype=np.float64))
    # There are len(weights) tokens at most below this floor, so together they weigh less than 1 - top_p of
    # the whole: the nucleus lies above it. The factor 0.999 is a margin for rounding.
    floor = min(float(weights.max()), 0.999 * (1 - params.top_p) * whole / len(weights))
    heavy = np.sort(weights[weights >= floor])[::-1]
    count = min(1 + int(np.searchsorted(heavy.cumsum(dtype=np.float64), params.top_p * whole)), len(heavy))
    return _heaviest(weights, heavy[count - 1], count)


def _heaviest(weights: Floats, least: np.float32, count: int) -> Tokens:
    """The ids, ascending, of the `count` heaviest tokens. `least` is the weight of the lightest of them;
    among those that weigh as much, lower ids are kept.
    """
    tokens = np.flatnonzero(weights >= least)
    surplus = len(tokens) - count
    if surplus > 0:
        lightest = np.flatnonzero(weights[tokens] == least)
        tokens = np.delete(tokens, lightest[len(lightest) - surplus :])
    return tokens


class Drawing:
    """Draws indices with probability proportional to weights[n].

    The sums of runs of RUN weights are cumulated once; each draw then cumulates the weights of one run only.
    In float64: cumulated float32 weights would lose the faint tokens at the end of the row.
    """

    def __init__(self, weights: Floats) -> None:
        self._weights = weights
        if len(weights) % RUN:
            runs = np.add.reduceat(weights, np.arange(0, len(weights), RUN))
        else:
            runs = np.einsum("ij->i", weights.reshape(-1, RUN))  # as above, but faster
        self._sums = np.cumsum(runs, dtype=np.float64)

    @property
    def whole(self) -> float:
        return float(self._sums[-1])

    def draw(self, uniform: float) -> int:
        """The first index at which the running sum of the weights reaches `uniform`, in (0, 1], times their
        sum.
        """
        target = uniform * self._sums[-1]
        run = _reach(self._sums, target)
        before = self._sums[run - 1] if run else 0.0
        inside = np.cumsum(self._weights[run * RUN : (run + 1) * RUN], dtype=np.float64)
        return run * RUN + _reach(inside, target - before)


def _reach(cumulated: Doubles, target: float) -> int:
    """The first index whose cumulated weight reaches `target`. `target` is capped, so that rounding never
    selects an index after the last one with a weight.
    """
    return int(np.searchsorted(cumulated, min(target, cumulated[-1])))


class MaskMaker:
    """Computes masks for a vocabulary of that size; in a thread of its own, during the forward pass."""

    def __init__(self, vocabulary: int) -> None:
        self._words = -(-vocabulary // 32)
        self._pool: ThreadPoolExecutor | None = None

    def start(self, sequences: Iterable[Sequence]) -> Future[Masks]:
        """Start computing the masks of all."""
        constrained = [sequence for sequence in sequences if sequence.constraint is not None]
        if not constrained:
            return _NO_MASKS
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="masks")
        return self._pool.submit(lambda: {sequence: self._try(sequence) for sequence in constrained})

    def make(self, sequence: Sequence) -> Mask | None:
        """The mask of one sequence; None without a constraint. Raises what the constraint raises."""
        if sequence.constraint is None:
            return None
        sequence.constraint.fill(mask := np.zeros(self._words, np.int32))
        return mask

    def _try(self, sequence: Sequence) -> Mask | Exception:
        try:
            mask = self.make(sequence)
            assert mask is not None
            return mask
        except Exception as exc:
            log.warning("a constraint failed: %s", exc)
            return exc


_NO_MASKS: Future[Masks] = Future()
_NO_MASKS.set_result({})


def logprobs(row: Floats, token: int, count: int) -> Logprobs:
    """The log-probabilities of `token` and of the `count` most probable tokens of row[vocabulary]. Among
    equals the lower id comes first.
    """
    top = float(row.max())
    # log(sum(exp(x))); the largest logit is subtracted, which costs a pass, only where exp could overflow.
    shift = 0.0 if abs(top) < MAX_UNSHIFTED_LOGIT else top
    whole = shift + float(np.log(np.exp(row - np.float32(shift) if shift else row).sum()))
    best = _largest(row, count) if count else ()
    return Logprobs(float(row[token]) - whole, tuple((int(id), float(row[id]) - whole) for id in best))


def _largest(row: Floats, count: int) -> NDArray[np.int64]:
    """The ids of the `count` largest logits, largest first, without sorting the row.

    Group g consists of the logits g, g + WIDTH, …; the largest of each group take one vectorised pass. The
    `count`-th largest of these peaks is a lower bound for the `count` largest logits of the row, so only
    groups whose peak reaches it are searched.
    """
    count = min(count, len(row))
    grouped = len(row) - len(row) % WIDTH
    peaks = np.concatenate([row[:grouped].reshape(-1, WIDTH).max(0, initial=-np.inf), row[grouped:]])
    least = np.partition(peaks, -count)[-count] if count < len(peaks) else -np.inf
    candidates = np.flatnonzero(peaks >= least)
    groups, rest = candidates[candidates < WIDTH], candidates[candidates >= WIDTH] - WIDTH + grouped
    members = (np.arange(0, grouped, WIDTH)[:, None] + groups).reshape(-1)  # lower ids first
    ids = np.concatenate([members[row[members] >= least], rest])
    return ids[np.argsort(-row[ids], kind="stable")[:count]]
