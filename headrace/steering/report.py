"""The pages that training writes: HTML with tables and plots, which load nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from headrace.steering import plots
from headrace.steering.dose import Curve
from headrace.steering.quality import CrossEntropy, Quality

STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #ddd;padding:.25rem .6rem;"
    "text-align:left;vertical-align:top}th{background:#f6f6f6}code{background:#f3f3f3;padding:0 .2rem}"
    "mark{background:#ffe9a8}svg{margin:.5rem 1rem .5rem 0}.small{color:#666;font-size:13px}"
)
BINS = 30


def page(title: str, *parts: str) -> str:
    """A whole HTML document."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>{''.join(parts)}</body></html>\n"
    )


def facts(rows: Mapping[str, object]) -> str:
    """A table of names and values."""
    cells = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows.items()
    )
    return f"<table>{cells}</table>"


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
    return f"<table>{head}{''.join(cells)}</table>"
