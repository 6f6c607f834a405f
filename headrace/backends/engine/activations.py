"""Pairs what probes read with the tokens of one answer, and holds it until the answer's next event."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from headrace.engine.sequence import Readings, Sequence
from headrace.steering.types import Activations, Reading
from headrace.text.tokenizer import Tokenizer
from headrace.types import Event, Finished, ReasoningDelta, TextDelta, ToolCallDelta

CARRIERS = (TextDelta, ReasoningDelta, ToolCallDelta, Finished)


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
        """Add what was read, of what a probe asked for."""
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
