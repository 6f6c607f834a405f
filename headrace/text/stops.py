"""Stop strings over a stream: text is held back as long as it might be the beginning of one, and none ever
leaks.
"""

from __future__ import annotations


class StopMatcher:
    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.stop: str | None = None  # the one that was met

    @property
    def stopped(self) -> bool:
        return self.stop is not None

    def push(self, text: str) -> str:
        """What may be shown now. After a match everything from the match on is dropped."""
        if not self._stops:
            return text
        if self.stopped:
            return ""
        held = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            _, at, self.stop = min(found)  # the first to be complete: the same however the text is cut up
            self._held = ""
            return held[:at]
        keep = max(overlap(held, stop) for stop in self._stops)
        shown, self._held = held[: len(held) - keep], held[len(held) - keep :]
        return shown

    def flush(self) -> str:
        """The stream has ended: what was held was no stop string after all."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a proper beginning of `stop`, which is not empty."""
    if stop[0] not in text:
        return 0
    sizes = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)
