"""The pages that training writes: HTML with tables and plots, which load nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from headrace.steering import plots
from headrace.steering.dose import Curve
from headrace.steering.quality import CrossEntropy, Quality

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
    return plots.lines(title, x, {curve.name: curve.values for curve in curves}, axes)


def densities(quality: Quality) -> str:
    """How many features are active how often, on a logarithmic scale."""
    alive = quality.density[quality.density > 0]
    counts, edges = (
        np.histogram(np.log10(alive), BINS) if len(alive) else (np.zeros(1), np.array([-1.0, 0.0]))
    )
    return plots.bars(
        "Densities", edges.tolist(), counts.tolist(), ("log10 of the share of tokens", "features")
    )


def distribution(title: str, values: Floats, axes: tuple[str, str]) -> str:
    """How many values lie where, on a logarithmic scale: the few that stand out are seen."""
    counts, edges = np.histogram(values, BINS)
    return plotted(plots.bars(title, edges.tolist(), np.log10(1 + counts).tolist(), axes))


def losses(points: Sequence[tuple[int, float]]) -> str:
    steps, values = [float(step) for step, _ in points], [value for _, value in points]
    return plots.lines("Training", steps, {"unexplained variance": values}, ("step", "share"))


def quality_facts(quality: Quality, loss: CrossEntropy | None) -> dict[str, object]:
    """The measures of a sparse autoencoder, in words."""
    found: dict[str, object] = {
        "held-out tokens": quality.num_tokens,
        "explained variance": f"{quality.explained_variance:.3f}",
        "mean cosine": f"{quality.cosine:.3f}",
        "L0 (active features a token)": f"{quality.l0:.1f}",
        "dead features": f"{quality.num_dead} of {len(quality.density)}",
    }
    if loss is not None:
        found |= {
            "cross-entropy, plain": f"{loss.plain:.3f} nats",
            "cross-entropy, reconstructed": f"{loss.spliced:.3f} nats",
            "cross-entropy, mean instead": f"{loss.ablated:.3f} nats",
            "cross-entropy recovered": f"{100 * loss.recovered:.1f} %",
        }
    return found


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
