"""Files as others write them, and files that nobody should have written: an SAE is read exactly, or
refused.
"""

from __future__ import annotations

import json
import os
import random
import zipfile
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from headrace.errors import SteeringRefused
from headrace.steering.formats.control_vector import read_vector, write_vector
from headrace.steering.formats.detect import read_sae
from headrace.steering.formats.tensors import read_tensors
from headrace.steering.library import ModelLibrary
from headrace.steering.slot import SiteNeeds
from tests.steering.sae_files import saelens_arrays, saelens_config, write, write_saelens
from tests.steering.synthetic import FEATURES, WIDTH, Defined, K, random_weights

Arrays = dict[str, NDArray[np.float32]]
H = (np.random.default_rng(3).standard_normal((20, WIDTH)) * 2).astype(np.float32)


class NoEditor:
    """A model without a graph: nothing is attached in here."""

    def set_sites(self, sites: Mapping[int, SiteNeeds]) -> bool:
        return True

    def median_norms(self, layers: Sequence[int]) -> dict[int, float]:
        return dict.fromkeys(layers, 1.0)


def library(root: Path) -> ModelLibrary:
    return ModelLibrary("tiny", WIDTH, 30, root, NoEditor())


def load(root: Path, path: str | Path = "sae", layer: int | None = None) -> ModelLibrary:
    found = library(root)
    found.load_sae("sae", Path(path), layer=layer)
    return found


# Converted from dictionary_learning's `ae.pt`: its buffers of whole numbers are part of the state.
BUFFERS: dict[str, NDArray[np.generic]] = {
    "k": np.array(K, np.int32),
    "group_sizes": np.array([32, 64], np.int64),
    "is_trained": np.array([True]),
}


@pytest.mark.parametrize("kind", ["AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
def test_buffers_of_dictionary_learning(tmp_path: Path, kind: str) -> None:
    is_topk, is_linear = kind == "AutoEncoderTopK", kind != "MatryoshkaBatchTopKSAE"
    weights = random_weights("topk" if is_topk else "jumprelu")
    arrays = saelens_arrays(weights)
    threshold = np.array(-1.0 if is_topk else 0.2, np.float32)
    names = {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "encoder.bias"}
    stored: dict[str, NDArray[np.generic]] = {
        names.get(name, name) if is_linear else name: np.ascontiguousarray(
            array.T if is_linear and name.startswith("W") else array
        )
        for name, array in arrays.items()
    }
    (tmp_path / "sae").mkdir()
    save_file({**stored, **BUFFERS, "threshold": threshold}, tmp_path / "sae" / "ae.safetensors")
    trainer = {"dict_class": kind, "lm_name": "tiny", "layer": 1}
    (tmp_path / "sae" / "config.json").write_text(json.dumps({"trainer": trainer}))
    read = load(tmp_path).sae("sae")
    if not is_topk:
        weights = random_weights("jumprelu")
        object.__setattr__(weights, "threshold", np.full(FEATURES, 0.2, np.float32))
    defined = Defined(weights)
    expected = defined.encode(H.astype(np.float64)) * defined.lengths
    np.testing.assert_allclose(read.encode(H), expected, rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "topk", "gated"])
def test_doubles_and_what_nobody_reads(tmp_path: Path, architecture: str) -> None:
    weights = random_weights(architecture)  # type: ignore[arg-type]  # one of them
    doubles = {name: array.astype(np.float64) for name, array in saelens_arrays(weights).items()}
    more = {"adam": np.full((3, 3), np.nan), "steps": np.array([7], np.int64)}
    (tmp_path / "sae").mkdir()
    save_file({**doubles, **more}, tmp_path / "sae" / "sae_weights.safetensors")
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(saelens_config(weights)))
    defined = Defined(weights)
    expected = defined.encode(H.astype(np.float64)) * defined.lengths
    np.testing.assert_allclose(load(tmp_path).sae("sae").encode(H), expected, rtol=1e-4, atol=3e-5)


def test_negative_thresholds_and_rows_of_zeros(tmp_path: Path) -> None:
    weights = random_weights("jumprelu")
    assert weights.threshold is not None
    weights.threshold[:20] = -0.5
    weights.decoder[5] = 0
    write_saelens(tmp_path / "sae", weights)
    defined = Defined(weights)
    lengths = np.where(defined.lengths == 0, 1, defined.lengths)
    read = load(tmp_path).sae("sae")
    expected = defined.encode(H.astype(np.float64))
    np.testing.assert_allclose(read.encode(H), expected * lengths, rtol=1e-4, atol=3e-5)
    np.testing.assert_allclose(
        read.decode(read.encode(H), H), defined.decode(expected, H.astype(np.float64)), rtol=1e-4, atol=1e-4
    )


def standard(folder: Path, change: Arrays | None = None, **config: object) -> None:
    weights = random_weights("standard")
    write(
        folder / "sae" / "sae_weights.safetensors",
        {**saelens_arrays(weights), **(change or {})},
        saelens_config(weights) | config,
    )


def of(architecture: str, **change: NDArray[np.float32]) -> Callable[[Path], None]:
    """Writes an SAE with other arrays in the place of some."""

    def build(root: Path) -> None:
        weights = random_weights(architecture)  # type: ignore[arg-type]  # one of them
        arrays = {**saelens_arrays(weights), **change}
        write(root / "sae" / "sae_weights.safetensors", arrays, saelens_config(weights))

    return build


def npz(content: Callable[[zipfile.ZipFile], None]) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        (root / "sae").mkdir()
        with zipfile.ZipFile(root / "sae" / "params.npz", "w") as archive:
            content(archive)

    return build


def huge(archive: zipfile.ZipFile) -> None:
    """An array whose header promises a petabyte."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**48,)})
    archive.writestr("b_dec.npy", header.getvalue())


def spoilt(archive: zipfile.ZipFile) -> None:
    """An array that is said to be compressed and is not."""
    data = BytesIO()
    np.save(data, np.zeros(WIDTH, np.float32))
    archive.writestr("b_dec.npy", data.getvalue())
    archive.filelist[0].compress_type = zipfile.ZIP_DEFLATED


def json_text(text: str) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        standard(root)
        (root / "sae" / "cfg.json").write_text(text)

    return build


def llama(**config: object) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        weights = random_weights("jumprelu")
        arrays = {
            "encoder.weight": weights.encoder.T, "encoder.bias": weights.encoder_bias,
            "decoder.weight": weights.decoder.T, "decoder.bias": weights.decoder_bias,
        }  # fmt: skip
        write(root / "sae" / "final.safetensors", arrays)
        (root / "sae" / "hyperparams.json").write_text(json.dumps({"hook_point_in": "layers.1", **config}))

    return build


def learned(arrays: Arrays, **trainer: object) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        config = {"trainer": {"dict_class": "AutoEncoder", "layer": 1, **trainer}}
        write(root / "sae" / "ae.safetensors", arrays, config, "config.json")

    return build


def looped(root: Path) -> None:
    os.symlink("sae", root / "sae")


def unreadable(root: Path) -> None:
    """A folder in the place of the weights."""
    standard(root)
    (root / "sae" / "sae_weights.safetensors").unlink()
    (root / "sae" / "sae_weights.safetensors").mkdir()


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


BROKEN: dict[str, Callable[[Path], None]] = {
    "threshold of another length": of("jumprelu", threshold=zeros(FEATURES - 1)),
    "bias of two rows": of("standard", b_enc=zeros(2, FEATURES)),
    "b_mag of another length": of("gated", b_mag=zeros(3)),
    "r_mag that overflows": of("gated", r_mag=np.full(FEATURES, 1e4, np.float32)),
    "log_threshold that overflows": of("jumprelu", log_threshold=np.full(FEATURES, 1e4, np.float32)),
    "nothing in b_dec": of("standard", b_dec=zeros(0)),
    "no features": of("standard", b_enc=zeros(0), W_enc=zeros(WIDTH, 0), W_dec=zeros(0, WIDTH)),
    "three dimensions": of("standard", W_enc=zeros(1, WIDTH, FEATURES)),
    "npz: a header that promises too much": npz(huge),
    "npz: spoilt": npz(spoilt),
    "npz: no arrays": npz(lambda archive: archive.writestr("b_dec.npy", b"text")),
    "deep configuration": json_text("[" * 200_000),
    "configuration of infinite numbers": llama(jump_relu_threshold=float("nan")),
    "configuration of huge numbers": llama(jump_relu_threshold=10**400),
    "layer without end": llama(hook_point_in="layers." + "9" * 5000),
    "layer that is no number": learned({"bias": zeros(4), "encoder.weight": zeros(6, 4)}, layer=True),
    "dictionary without numbers": learned({"bias": zeros(0), "encoder.weight": zeros(0, 0)}),
    "dictionary: bias of another length": learned(
        {"bias": zeros(WIDTH), "encoder.weight": zeros(6, WIDTH), "decoder.weight": zeros(WIDTH, 6),
         "encoder.bias": zeros(7)}
    ),
    "k of nothing": learned(
        {"b_dec": zeros(WIDTH), "encoder.weight": zeros(6, WIDTH), "decoder.weight": zeros(WIDTH, 6),
         "encoder.bias": zeros(6), "k": zeros(0)}, dict_class="AutoEncoderTopK"
    ),
    "symbolic link to itself": looped,
    "folder in the place of a file": unreadable,
}  # fmt: skip


@pytest.mark.parametrize("build", BROKEN.values(), ids=BROKEN.keys())
def test_what_cannot_be_read_exactly_is_refused(tmp_path: Path, build: Callable[[Path], None]) -> None:
    build(tmp_path)
    with pytest.raises(SteeringRefused):
        load(tmp_path)


def _params(root: Path, change: Mapping[str, NDArray[np.generic]]) -> Path:
    """Gemma Scope's file, compressed, with some other arrays."""
    weights = random_weights("jumprelu")
    assert weights.threshold is not None
    arrays = {"W_enc": weights.encoder, "W_dec": weights.decoder, "b_enc": weights.encoder_bias,
              "b_dec": weights.decoder_bias, "threshold": weights.threshold}  # fmt: skip
    path = root / "params.npz"
    np.savez_compressed(path, **{**arrays, **change})  # type: ignore[arg-type]
    return path


def test_an_archive_that_unpacks_to_many_times_its_size_is_refused(tmp_path: Path) -> None:
    assert "W_enc" in read_tensors(_params(tmp_path, {}))
    path = _params(tmp_path, {"more": np.zeros(2**23, np.float32)})
    assert path.stat().st_size < 2**20
    with pytest.raises(SteeringRefused, match="unpacks to"):
        read_tensors(path)


@pytest.mark.parametrize("kind", [np.complex64, np.str_, np.dtype("M8[s]")])
def test_arrays_of_no_real_numbers_are_refused(tmp_path: Path, kind: np.dtype[np.generic]) -> None:
    tensors = read_tensors(_params(tmp_path, {"W_enc": np.zeros((2, 2), kind), "more": np.zeros(1, kind)}))
    with pytest.raises(SteeringRefused, match="W_enc has the type"):
        tensors.get("W_enc")
    assert len(tensors.get("b_enc"))


@pytest.mark.parametrize(
    "path", ["a\0b", "x" * 5000, "../up", "/etc/passwd", "missing", "sae/other.safetensors"]
)
def test_paths_that_lead_nowhere_or_elsewhere_are_refused(tmp_path: Path, path: str) -> None:
    """The last one is a file beside those of an SAE."""
    standard(tmp_path)
    (tmp_path / "sae" / "other.safetensors").write_bytes(b"")
    found = library(tmp_path)
    for read in (found.load_sae, found.load_vector):
        with pytest.raises(SteeringRefused):
            read("new", Path(path))


def test_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    standard(tmp_path / "outside")
    (tmp_path / "root").mkdir()
    os.symlink(tmp_path / "outside" / "sae", tmp_path / "root" / "sae")
    with pytest.raises(SteeringRefused, match="not below"):
        load(tmp_path / "root")
    # Also that of a file in a folder that is inside.
    (tmp_path / "root" / "inner").mkdir()
    for name in ("cfg.json", "sae_weights.safetensors"):
        os.symlink(tmp_path / "outside" / "sae" / name, tmp_path / "root" / "inner" / name)
    with pytest.raises(SteeringRefused):
        load(tmp_path / "root", "inner")


def test_another_models_width_is_refused_naming_both(tmp_path: Path) -> None:
    write_saelens(tmp_path / "sae", random_weights("standard", width=32))
    with pytest.raises(SteeringRefused, match=f"width 32; .* tiny .* {WIDTH}"):
        load(tmp_path)


@pytest.mark.parametrize(
    "features",
    [
        {"labels": [1, None, "x"], "largest": ["a"] * FEATURES},
        {"largest": [float("nan")] * FEATURES},
        {"largest": "text"},
        {"largest": [10**400] * FEATURES},
        {"largest": [-1, True, None, []] * (FEATURES // 4)},
    ],
)
def test_measurements_beside_an_sae_are_used_as_far_as_they_are_right(
    tmp_path: Path, features: dict[str, object]
) -> None:
    standard(tmp_path)
    (tmp_path / "sae" / "features.json").write_text(json.dumps(features))
    entry = load(tmp_path).shelf.saes["sae"]
    assert entry.largest is None or np.isfinite(entry.largest).all()


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut short, or with some bytes changed: of the header, as a rule, which is where a reader goes wrong."""
    if rng.random() < 0.2:
        return content[: rng.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(rng.choice([1, 2, 8])):
        changed[rng.randrange(min(rng.choice([64, 400, 2**30]), len(content)))] = rng.choice(
            [0, 255, rng.randrange(256)]
        )
    return bytes(changed)


@pytest.mark.parametrize("kind", ["gguf", "npz", "safetensors"])
def test_random_damage_never_ends_in_another_error(tmp_path: Path, kind: str) -> None:
    weights, rng = random_weights("jumprelu"), random.Random(kind)
    if kind == "gguf":
        path, read = tmp_path / "v.gguf", read_vector
        write_vector(path, {layer: np.arange(8, dtype=np.float32) for layer in (3, 5)}, model="tiny")
    elif kind == "npz":
        path, read = tmp_path / "layer_3" / "params.npz", read_sae  # type: ignore[assignment]
        write(path, saelens_arrays(weights))
    else:
        path, read = tmp_path / "sae_weights.safetensors", read_sae  # type: ignore[assignment]
        write(path, saelens_arrays(weights), saelens_config(weights))
    content, num_refused = path.read_bytes(), 0
    for _ in range(300):
        path.write_bytes(damaged(content, rng))
        try:
            read(path)
        except SteeringRefused:
            num_refused += 1
    assert num_refused > 100
