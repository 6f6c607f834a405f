"""Holds what belongs to the tokens of one answer, until it is sent: log probabilities until the text of their
tokens is shown, and what probes read until the next event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from headrace.engine.sequence import Logprobs, Readings, Sequence
from headrace.steering.types import Activations, Reading
from headrace.text.tokenizer import Tokenizer
from headrace.types import Event, Finished, ReasoningDelta, TextDelta, TokenLogprob, ToolCallDelta

CARRIERS = (TextDelta, ReasoningDelta, ToolCallDelta, Finished)


def token_logprob(tokenizer: Tokenizer, token: int, logprobs: Logprobs) -> TokenLogprob:
    name, raw = tokenizer.token_text, tokenizer.token_raw
    top = tuple((name(other), raw(other), logprob) for other, logprob in logprobs.top)
    return TokenLogprob(name(token), raw(token), logprobs.logprob, top)


def prompt_logprobs(tokenizer: Tokenizer, sequence: Sequence) -> tuple[TokenLogprob, ...]:
    """The logprobs of a prompt that was scored; the first token has none."""
    if not sequence.params.prompt_logprobs:
        return ()
    first, *tokens = sequence.tokens[: sequence.num_prompt]
    pairs = zip(tokens, sequence.prompt_logprobs, strict=True)
    return (
        TokenLogprob(tokenizer.token_text(first), tokenizer.token_raw(first), None),
        *(token_logprob(tokenizer, token, logprobs) for token, logprobs in pairs),
    )


class PendingLogprobs:
    """Logprobs of tokens whose text is not shown yet: text that may begin a stop string is held back, and a
    stop string is cut off.
    """

    def __init__(self) -> None:
        self._waiting = deque[tuple[int, int, TokenLogprob]]()  # start and end of the token's text
        self._num_decoded = 0  # characters
        self.num_shown = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, logprob: TokenLogprob, length: int) -> None:
        """Add the log probability of the next token. `length`: of its text, in characters."""
        start, self._num_decoded = self._num_decoded, self._num_decoded + length
        self._waiting.append((start, self._num_decoded, logprob))

    def take(self, *, is_cut: bool = False) -> tuple[TokenLogprob, ...]:
        """Remove and return those whose text is shown; with `is_cut`, also one that is shown in part."""
        taken = []
        while self._waiting and (self._waiting[0][0] if is_cut else self._waiting[0][1] - 1) < self.num_shown:
            taken.append(self._waiting.popleft()[2])
        return tuple(taken)


class PendingActivations:
    """The activations of one sequence, until they are sent. Every token from the first that is wanted gets
    one entry, in order.
    """

    def __init__(self, sequence: Sequence, tokenizer: Tokenizer) -> None:
        self._sequence, self._tokenizer = sequence, tokenizer
        self._probes = [prober.probe for prober in sequence.probers if prober is not sequence.guard]
        self.end: int | None = None  # the position after the answer's last token; None: that of the sequence
        wants_prompt = any(probe.prompt for probe in self._probes)
        self._next = 0 if wants_prompt else sequence.num_prompt  # the first position without an entry
        self._waiting: list[Activations] = []

    def add(self, readings: Readings) -> None:
        """Add what was read for the request's probes."""
        if not self._probes:
            return
        self._waiting += self.taken(readings)()

    def taken(self, readings: Readings) -> Callable[[], list[Activations]]:
        """Take the readings that were not reported yet. Returns a function that builds their entries, which
        may run in another thread. Positions without a reading came from the prefix cache; readings before the
        first position are of the prompt, and serve another purpose.
        """
        first = self._next
        wanted = tuple(reading for reading in readings if reading[0] >= first)
        self._next = wanted[-1][0] + 1 if wanted else first
        return lambda: self._entries(wanted, first)

    def _entries(self, readings: Readings, first: int) -> list[Activations]:
        entries: list[Activations] = []
        for position, of_token in readings:
            entries += (self._entry(place, is_cached=True) for place in range(first, position))
            entries.append(self._entry(position, self._wanted(position, of_token)))
            first = position + 1
        return entries

    def attach(self, events: list[Event]) -> list[Event]:
        """Attach the waiting readings to the first event of a step that can carry them. If the step ends the
        answer, it also gets those of the last tokens, which were never computed.
        """
        if not self._probes:
            return events
        for place, event in enumerate(events):
            if isinstance(event, CARRIERS):
                if isinstance(events[-1], Finished):
                    self._waiting += self._rest()
                events[place] = replace(event, activations=tuple(self._waiting))
                self._waiting.clear()
                break
        return events

    def _rest(self) -> Iterator[Activations]:
        last = len(self._sequence.tokens) if self.end is None else self.end
        end = last if any(probe.generation for probe in self._probes) else 0
        start, self._next = self._next, max(self._next, end)
        return (self._entry(position) for position in range(start, end))

    def _wanted(self, position: int, readings: tuple[Reading, ...]) -> tuple[Reading, ...]:
        is_prompt = position < self._sequence.num_prompt
        pairs = zip(self._probes, readings, strict=False)  # a guard's reading follows
        return tuple(reading for probe, reading in pairs if (probe.prompt if is_prompt else probe.generation))

    def _entry(
        self, position: int, readings: tuple[Reading, ...] = (), *, is_cached: bool = False
    ) -> Activations:
        token = self._sequence.tokens[position]
        name, raw = self._tokenizer.token_text(token), self._tokenizer.token_raw(token)
        return Activations(position, name, raw, is_cached, readings)
