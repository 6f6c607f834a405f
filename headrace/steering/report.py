"""The pages that training writes: HTML with tables and plots, which load nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from headrace.steering.quality import CrossEntropy, Curve, Quality

Floats = NDArray[np.float32]

STYLE = """
:root{color-scheme:light dark;--ink:#222;--soft:#5f6368;--paper:#fff;--line:#ddd;--shade:#f5f5f6;
--mark:#ffe9a8}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e6;--soft:#a2a8b0;--paper:#16181b;--line:#3a3f45;
--shade:#22262a;--mark:#6b5410}}
body{font:15px/1.5 system-ui,sans-serif;max-width:68rem;margin:2rem auto;padding:0 1rem;color:var(--ink);
background:var(--paper)}
h1{font-size:1.6rem;overflow-wrap:anywhere}h2{font-size:1.2rem;margin-top:2rem}p{max-width:44rem}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:1rem 0}
td,th{border:1px solid var(--line);padding:.25rem .6rem;text-align:left;vertical-align:top;font-weight:normal}
th{background:var(--shade);color:var(--soft)}
code{background:var(--shade);padding:0 .2rem;white-space:pre-wrap}
mark{background:var(--mark);color:inherit}.small{color:var(--soft);font-size:13px;min-width:16rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem}
svg{width:100%;max-width:560px;height:auto}
"""
BINS = 30
WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 50, 46
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a")
TICKS = 7
LEGEND = 18  # the height of the line that names the series
PLOT_STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#444}.t{font-size:13px;font-weight:bold}.g{stroke:#e4e4e4}"
    "@media(prefers-color-scheme:dark){text{fill:#b4bac2}.g{stroke:#353a40}}"
)


def printable(text: str) -> str:
    """The text in one line: what cannot be seen, as its escape (`\\n`)."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def page(title: str, *parts: str) -> str:
    """A whole HTML document."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>{''.join(parts)}</body></html>\n"
    )


def facts(rows: Mapping[str, object]) -> str:
    """A table of names and values."""
    cells = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows.items()
    )
    return f'<div class="wide"><table>{cells}</table></div>'


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def plotted(*drawn: str) -> str:
    """Plots, side by side where there is room."""
    return f'<div class="plots">{"".join(drawn)}</div>'


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def doses(title: str, x: Sequence[float], curves: Sequence[Curve], axes: tuple[str, str]) -> str:
    return lines(title, x, {curve.name: curve.values for curve in curves}, axes)


def densities(quality: Quality) -> str:
    """How many features are active how often, on a logarithmic scale."""
    alive = quality.density[quality.density > 0]
    counts, edges = (
        np.histogram(np.log10(alive), BINS) if len(alive) else (np.zeros(1), np.array([-1.0, 0.0]))
    )
    return bars("Densities", edges.tolist(), counts.tolist(), ("log10 of the share of tokens", "features"))


def distribution(title: str, values: Floats, axes: tuple[str, str]) -> str:
    """How many values lie where, on a logarithmic scale: the few that stand out are seen."""
    counts, edges = np.histogram(values, BINS)
    return plotted(bars(title, edges.tolist(), np.log10(1 + counts).tolist(), axes))


def losses(points: Sequence[tuple[int, float]]) -> str:
    steps, values = [float(step) for step, _ in points], [value for _, value in points]
    return lines("Training", steps, {"unexplained variance": values}, ("step", "share"))


def quality_facts(quality: Quality, loss: CrossEntropy | None) -> dict[str, object]:
    """The measures of a sparse autoencoder, in words."""
    facts: dict[str, object] = {
        "held-out tokens": quality.num_tokens,
        "explained variance": f"{quality.explained_variance:.3f}",
        "mean cosine": f"{quality.cosine:.3f}",
        "L0 (active features a token)": f"{quality.l0:.1f}",
        "dead features": f"{quality.num_dead} of {len(quality.density)}",
    }
    if loss is not None:
        facts |= {
            "cross-entropy, plain": f"{loss.plain:.3f} nats",
            "cross-entropy, reconstructed": f"{loss.spliced:.3f} nats",
            "cross-entropy, mean instead": f"{loss.ablated:.3f} nats",
            "cross-entropy recovered": f"{100 * loss.recovered:.1f} %",
        }
    return facts


def score_table(rows: Sequence[tuple[int, float, str]], unit: str) -> str:
    """One row a feature: index, score, label."""
    head = f"<tr><th>feature</th><th>{escape(unit)}</th><th>writes</th></tr>"
    cells = "".join(
        f"<tr><td>{index}</td><td>{score:.2f}</td><td><code>{escape(label)}</code></td></tr>"
        for index, score, label in rows
    )
    return f'<div class="wide"><table>{head}{cells}</table></div>'


def feature_table(rows: Sequence[tuple[int, str, float, float, Sequence[tuple[str, str, str]]]]) -> str:
    """One row a feature: index, label, density, largest activation, and contexts of those (before, token,
    after).
    """
    cells = []
    for index, label, density, largest, contexts in rows:
        shown = "<br>".join(
            f"{escape(before)}<mark>{escape(token)}</mark>{escape(after)}"
            for before, token, after in contexts
        )
        cells.append(
            f"<tr><td>{index}</td><td><code>{escape(label)}</code></td><td>{100 * density:.2f} %</td>"
            f'<td>{largest:.1f}</td><td class="small">{shown}</td></tr>'
        )
    head = (
        "<tr><th>feature</th><th>writes</th><th>active</th><th>largest</th><th>where it is largest</th></tr>"
    )
    return f'<div class="wide"><table>{head}{"".join(cells)}</table></div>'


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
        f'aria-label="{escape(title)}"><style>{PLOT_STYLE}</style>{"".join(parts)}</svg>'
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    """The range of the values, never empty."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    return low, high


def _with_margin(span: tuple[float, float]) -> tuple[float, float]:
    """The range, a little wider, so that no line runs along the frame."""
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
