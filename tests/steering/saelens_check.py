"""SAEs that we write, read by SAELens itself, and by us: both must encode, decode and edit alike.

SAELens brings 57 packages along, so it is in an environment of its own: `make test-saelens` creates that, and
runs this file there with the arrays that `dump` wrote.

    python -m tests.steering.saelens_check dump FOLDER       with Headrace's environment
    python tests/steering/saelens_check.py check FOLDER      with SAELens's
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32] | NDArray[np.float64]

CLAMPED, VALUE = 7, 3.0  # the feature that is clamped, and to what
TOLERANCE = 1e-5  # relative, in float32


def dump(folder: Path) -> int:
    """Write SAEs of every architecture and normalization, states, and what we compute of them."""
    from headrace.steering.formats.detect import read_sae
    from headrace.steering.sae import fold
    from headrace.steering.slot import Shape
    from tests.steering.operation import edit
    from tests.steering.sae_files import write_saelens
    from tests.steering.synthetic import (
        ARCHITECTURES,
        NORMALIZATIONS,
        WIDTH,
        Defined,
        info_of,
        random_weights,
    )

    states = (np.random.default_rng(1).standard_normal((50, WIDTH)) * 2 + 0.3).astype(np.float32)
    cases = [
        (architecture, normalization, subtracts_bias, ranks_by_norm)
        for architecture in ARCHITECTURES
        for normalization in NORMALIZATIONS
        for subtracts_bias in (True, False)
        for ranks_by_norm in ((False, True) if architecture == "topk" else (False,))
    ]
    for architecture, normalization, subtracts_bias, ranks_by_norm in cases:
        weights = random_weights(
            architecture, normalization, subtracts_bias=subtracts_bias, ranks_by_norm=ranks_by_norm
        )
        bias, norm = ("bias" if subtracts_bias else "plain"), ("ranked" if ranks_by_norm else "by_z")
        path = write_saelens(folder / f"{architecture}-{normalization}-{bias}-{norm}", weights)
        sae = fold(read_sae(path).weights, info_of(weights))
        activations = sae.encode(states)
        length = Defined(weights).lengths[CLAMPED]
        edited = edit(
            states.astype(np.float64),
            [sae.slot(CLAMPED, Shape(0.0, VALUE * float(length)))],
            np.ones((len(states), 1)),
        )
        np.savez(
            path / "ours.npz",
            states=states,
            activations=activations / Defined(weights).lengths,
            decoded=sae.decode(activations, states),
            edited=edited,
        )
    print(f"{len(cases)} SAEs written to {folder}")
    return 0


def check(folder: Path) -> int:
    """Compare with what SAELens computes; prints a line for each SAE."""
    import torch
    from sae_lens import SAE

    failures = 0
    for path in _folders(folder):
        ours = np.load(path / "ours.npz")
        sae = SAE.load_from_disk(path)
        with torch.inference_mode():
            states = torch.from_numpy(ours["states"])
            activations = sae.encode(states)
            decoded = sae.decode(activations)
            error = states - decoded
            changed = sae.encode(states)  # again: decoding forgets the normalization
            changed[:, CLAMPED] = VALUE
            edited = sae.decode(changed) + error
        found = {"activations": activations, "decoded": decoded, "edited": edited}
        errors = {name: _error(ours[name], value.numpy()) for name, value in found.items()}
        is_good = all(error < TOLERANCE for error in errors.values())
        failures += not is_good
        shown = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
        print(f"{'ok  ' if is_good else 'FAIL'} {path.name}: {shown}")
    print(f"{failures} of {len(_folders(folder))} differ")
    return 1 if failures else 0


def _folders(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/ours.npz"))


def _error(ours: Array, theirs: Array) -> float:
    """Relative, over all numbers."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def main() -> int:
    command, folder = sys.argv[1], Path(sys.argv[2])
    return dump(folder) if command == "dump" else check(folder)


if __name__ == "__main__":
    sys.exit(main())
