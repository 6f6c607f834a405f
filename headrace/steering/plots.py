"""Plots as SVG text, for pages that load nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 50, 46
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a")
TICKS = 7
LEGEND = 18  # the height of the line that names the series
STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#444}.t{font-size:13px;font-weight:bold}.g{stroke:#e4e4e4}"
    "@media(prefers-color-scheme:dark){text{fill:#b4bac2}.g{stroke:#353a40}}"
)


def lines(
    title: str, x: Sequence[float], series: Mapping[str, Sequence[float]], axes: tuple[str, str]
) -> str:
    """A line for each series over the same x. `axes`: the labels of x and y."""
    values = [value for ys in series.values() for value in ys if math.isfinite(value)]
    frame = _Frame(_span(x), _with_margin(_span(values)))
    parts = [frame.axes(title, axes)]
    across = float(LEFT)
    for index, (name, ys) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        points = [frame.point(a, b) for a, b in zip(x, ys, strict=True) if math.isfinite(b)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.5" fill="{colour}"/>' for px, py in points]
        parts.append(_legend(across, name, colour))
        across += 32 + 6.5 * len(name)
    return _svg(parts, title)


def bars(title: str, edges: Sequence[float], counts: Sequence[float], axes: tuple[str, str]) -> str:
    """A histogram: counts[i] values lie from edges[i] to edges[i + 1]."""
    frame = _Frame(_span(edges), (0.0, max([*counts, 1.0])))
    parts = [frame.axes(title, axes)]
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        (x0, y0), (x1, y1) = frame.point(low, 0), frame.point(high, count)
        parts.append(
            f'<rect x="{x0:.1f}" y="{y1:.1f}" width="{max(x1 - x0 - 1, 0.5):.1f}" height="{y0 - y1:.1f}" '
            f'fill="{COLOURS[0]}"/>'
        )
    return _svg(parts, title)


class _Frame:
    """Maps values to pixels."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self._x, self._y = x, y

    def point(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self._x[0]) / (self._x[1] - self._x[0])
        up = (y - self._y[0]) / (self._y[1] - self._y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def axes(self, title: str, labels: tuple[str, str]) -> str:
        """The title, the frame, ticks and the axes' labels."""
        parts = [f'<text x="{LEFT}" y="20" class="t">{escape(title)}</text>']
        for value in _ticks(*self._y):
            _, y = self.point(self._x[0], value)
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="g"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
        for value in _ticks(*self._x):
            x, _ = self.point(value, self._y[0])
            parts.append(
                f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_number(value)}</text>'
            )
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(labels[0])}</text>')
        across = (TOP + HEIGHT - BOTTOM) / 2
        parts.append(
            f'<text transform="translate(14 {across}) rotate(-90)" text-anchor="middle">'
            f"{escape(labels[1])}</text>"
        )
        return "".join(parts)


def _legend(x: float, name: str, colour: str) -> str:
    return (
        f'<rect x="{x:.0f}" y="{LEGEND + 14}" width="10" height="3" fill="{colour}"/>'
        f'<text x="{x + 15:.0f}" y="{LEGEND + 19}">{escape(name)}</text>'
    )


def _svg(parts: Sequence[str], title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" '
        f'aria-label="{escape(title)}"><style>{STYLE}</style>{"".join(parts)}</svg>'
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    """The range of the values, never empty."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    return low, high


def _with_margin(span: tuple[float, float]) -> tuple[float, float]:
    """A little wider, so that no line runs along the frame."""
    margin = (span[1] - span[0]) / 20
    return span[0] - margin, span[1] + margin


def _ticks(low: float, high: float) -> list[float]:
    """About TICKS round numbers from low to high."""
    raw = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:.3g}"
