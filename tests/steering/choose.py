"""Chooses the features that test_behaviour.py steers by: python -m tests.steering.choose. They are the five
whose first token stands out most, as in the report of training; each with the text before that token in which
it is most active.
"""

from __future__ import annotations

import json

import numpy as np
from platformdirs import user_cache_path

from headrace.backends.engine.capture import open_capture
from headrace.models.catalog import DEFAULT_MODEL, Cache, prepare
from headrace.steering.corpus import library_texts, windows
from headrace.steering.site import Lens
from headrace.steering.token_features import load_sae
from headrace.text.tokenizer import Tokenizer
from tests.steering.serving import DATA, LAYER

COUNT, BEFORE = 5, 24  # features; tokens of text before the target
RARE, FREQUENT = 2e-4, 0.05


def main() -> None:
    model = prepare(DEFAULT_MODEL, Cache(user_cache_path("headrace", appauthor=False)))
    capture = open_capture(model)
    decode = Tokenizer(model.folder).decode
    sae = load_sae(DATA / "docs")
    known = json.loads((DATA / "docs" / "features.json").read_text())
    lens = Lens.read(capture, sae.decoder)
    density = np.array(known["density"])
    fit = (density >= RARE) & (density <= FREQUENT)
    order = [int(i) for i in np.argsort(-np.where(fit, lens.sharpness, -np.inf))]
    chosen = windows(library_texts(), capture.tokens, length=64, tokens=8000, seed=1)
    read = [(tokens, sae.encode(capture.states(tokens, (LAYER,))[LAYER])) for tokens in chosen]
    found: list[dict[str, object]] = []
    for feature in order:
        token = int(lens.top[feature][0])
        text = decode([token])
        if capture.tokens(text) != [token] or not text.startswith(" "):
            continue
        places = [
            (float(activations[place, feature]), tokens[max(0, place - BEFORE) : place + 1])
            for tokens, activations in read
            for place in range(4, len(tokens) - 1)
            if tokens[place + 1] == token and activations[place, feature] > 0
        ]
        if not places:
            continue
        _, before = max(places)
        found.append({"feature": feature, "token": text, "context": decode(before), "next": text})
        if len(found) == COUNT:
            break
    (DATA / "features_tested.json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    print(*found, sep="\n")


if __name__ == "__main__":
    main()
