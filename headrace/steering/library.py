"""The SAEs and control vectors of one served model: loaded from files below a root, attached to its layers.

What is attached is an immutable `Shelf` that is replaced as a whole, so requests read it without a lock;
changes take one, because they compile.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Protocol, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

from headrace.errors import BadRequest, ModelError, NotFound, SteeringRefused
from headrace.steering.formats.control_vector import check_directions, read_vector, write_vector
from headrace.steering.formats.detect import read_sae
from headrace.steering.formats.tensors import read_json
from headrace.steering.sae import LoadedSAE, fold
from headrace.steering.slot import SiteNeeds, length_of
from headrace.steering.statistics import RunningStatistics
from headrace.steering.types import Capture, FeatureStatistics, MinuteStatistics, SAEInfo, VectorInfo

log = logging.getLogger(__name__)

T = TypeVar("T")
Floats = NDArray[np.float32]
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
MAX_ACTIVATION = 1e30  # that a file may state
SAES, VECTORS, FEATURES = "saes", "vectors", "features.json"


class Editor(Protocol):
    """Makes the model's graph editable. Both methods take seconds and block."""

    def set_sites(self, sites: Mapping[int, SiteNeeds]) -> bool:
        """Let requests edit and read these layers, and no others. False, and nothing changes, if running ones
        use another.
        """
        ...

    def median_norms(self, layers: Sequence[int]) -> dict[int, float]:
        """The median norm of hidden states on ordinary text, by layer. The layers are editable."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    info: VectorInfo
    directions: Mapping[int, Floats]  # by layer


@dataclass(frozen=True, slots=True, eq=False)
class AttachedSAE:
    sae: LoadedSAE
    statistics: RunningStatistics
    largest: Floats | None = None  # [features] the largest activations in its training, if a file has them


@dataclass(frozen=True, slots=True, eq=False)
class Shelf:
    """All that is loaded. `layers`: those that are editable; `norms`: the median norms there."""

    saes: Mapping[str, AttachedSAE] = field(default_factory=dict)
    vectors: Mapping[str, Vector] = field(default_factory=dict)
    layers: frozenset[int] = frozenset()
    norms: Mapping[int, float] = field(default_factory=dict)


class ModelLibrary:
    """Methods that load or compile take seconds: call them off the event loop. They raise BadRequest with a
    code `steering_…`, NotFound for an unknown name. Thread-safe.

    Attaching makes the model's graph editable at the layers that are needed, while requests run.
    """

    def __init__(
        self,
        model: str,
        width: int,
        num_layers: int,
        root: Path,
        editor: Editor,
        open_capture: Callable[[], Capture] | None = None,
    ) -> None:
        """`open_capture`: opens the model's hidden states for training; None: they cannot be read."""
        self._open_capture = open_capture
        self.model, self.width, self.num_layers = model, width, num_layers
        self._root, self._editor = root, editor
        self._lock = threading.Lock()  # of changes
        self._sites: dict[int, SiteNeeds] = {}
        self.shelf = Shelf()

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers at which requests may steer and probe now."""
        return tuple(sorted(self.shelf.layers))

    def saes(self) -> tuple[SAEInfo, ...]:
        return tuple(entry.sae.info for entry in self.shelf.saes.values())

    def sae(self, id: str) -> LoadedSAE:
        return self._found_sae(id).sae

    def vectors(self) -> tuple[VectorInfo, ...]:
        return tuple(vector.info for vector in self.shelf.vectors.values())

    def vector(self, id: str) -> Mapping[int, Floats]:
        """The vector's directions, by layer: [width] each."""
        return self._found_vector(id).directions

    def statistics(self, id: str) -> tuple[FeatureStatistics, ...]:
        """The statistics of an SAE's features that were active in what probes read, the most active first."""
        return self._found_sae(id).statistics.features()

    def history(self, id: str, feature: int) -> tuple[MinuteStatistics, ...]:
        """The statistics of one feature in each of the last minutes in which probes read something, the
        oldest first.
        """
        return self._found_sae(id).statistics.history(feature)

    def capture(self) -> Capture:
        """The model's hidden states outside of the engine, to train a vector."""
        if self._open_capture is None:
            raise BadRequest(f"the hidden states of {self.model} cannot be read here", param="model")
        try:
            return self._open_capture()
        except ModelError as exc:
            problem = f"the hidden states of {self.model} cannot be read here: {exc}"
            raise BadRequest(problem, param="model") from exc

    def load_sae(self, id: str, path: Path, *, layer: int | None = None) -> SAEInfo:
        """Read an SAE from a file or folder under the configured root. `layer`: instead of the files' own."""
        path = self._checked(id, path)
        file = read_sae(path)
        of_file = file.layer if layer is None else layer
        if of_file is None:
            raise SteeringRefused(
                f"{path.name} does not say which layer it reads: give one", code="steering_layer_mismatch",
                param="layer",
            )  # fmt: skip
        self._check_layer(of_file)
        norms = read_json((path if path.is_dir() else path.parent) / FEATURES)
        info = SAEInfo(
            id, file.weights.architecture, 0, 0, of_file, format=file.format, model_name=file.model_name,
            path=path, median_norm=self.shelf.norms.get(of_file), labels=labels_of(norms),
        )  # fmt: skip
        sae = fold(file.weights, info)
        self._check_width(sae.info.width, f"the SAE {id}")
        entry = AttachedSAE(sae, RunningStatistics(sae.info.num_features), _largest(norms, sae))
        with self._lock:
            self._check_free(id)
            self.shelf = replace(self.shelf, saes={**self.shelf.saes, id: entry})
        return sae.info

    def open(self, id: str) -> None:
        """Load and attach what is in the root under this name: `saes/{id}` or `vectors/{id}.gguf`."""
        self._check_name(id)
        sae, vector = Path(SAES) / id, Path(VECTORS) / f"{id}.gguf"
        if (self._root / sae).exists():
            self.load_sae(id, sae)
        elif (self._root / vector).exists():
            self.load_vector(id, vector)
        else:
            raise NotFound(f"there is neither {sae} nor {vector} in {self._root}")
        self.attach(id)

    def load_vector(self, id: str, path: Path) -> VectorInfo:
        """Read a control vector (GGUF) from a file under the configured root."""
        path = self._checked(id, path)
        directions, model_name = read_vector(path)
        return self._add_vector(id, directions, path, model_name)

    def add_vector(self, id: str, directions: Mapping[int, Floats]) -> VectorInfo:
        """Add a vector that was trained here, and write it to `{root}/vectors/{id}.gguf`."""
        path = self._root / VECTORS / f"{id}.gguf"
        self._check_name(id)
        directions = {layer: np.asarray(values, np.float32) for layer, values in sorted(directions.items())}
        check_directions(directions, path)
        self._check_width(len(next(iter(directions.values()))), f"the vector {id}")
        write_vector(path, directions, model=self.model, name=id)
        return self._add_vector(id, directions, path, self.model)

    def remove(self, id: str) -> None:
        """Forget an SAE or vector, and detach it. Running requests keep what they have."""
        self.detach(id)
        with self._lock:
            shelf = self.shelf
            self.shelf = replace(shelf, saes=_without(shelf.saes, id), vectors=_without(shelf.vectors, id))

    def attach(self, id: str, *, layer: int | None = None) -> None:
        """Make an SAE or vector usable by requests. `layer`: of an SAE, instead of its own."""
        with self._lock:
            shelf = self.shelf
            if id in shelf.vectors and layer is None:
                vector = shelf.vectors[id]
                vector = replace(vector, info=replace(vector.info, is_attached=True))
                self._install(replace(shelf, vectors={**shelf.vectors, id: vector}))
                return
            if id in shelf.vectors:
                raise BadRequest(f"the vector {id} has its own layers", param="layer")
            entry = self._found_sae(id)
            at = entry.sae.info.layer if layer is None else layer
            self._check_layer(at)
            info = replace(entry.sae.info, layers=tuple(sorted({*entry.sae.info.layers, at})))
            self._install(replace(shelf, saes={**shelf.saes, id: _with_info(entry, info)}))

    def detach(self, id: str) -> None:
        """The opposite of attach. Requests that use it already finish as they began."""
        with self._lock:
            shelf = self.shelf
            if id in shelf.vectors:
                vector = shelf.vectors[id]
                vector = replace(vector, info=replace(vector.info, is_attached=False))
                self._install(replace(shelf, vectors={**shelf.vectors, id: vector}))
            else:
                entry = self._found_sae(id)
                info = replace(entry.sae.info, layers=())
                self._install(replace(shelf, saes={**shelf.saes, id: _with_info(entry, info)}))

    def _install(self, shelf: Shelf) -> None:
        """Make the model editable where the shelf needs it, then show the shelf to requests. Compiles only
        what is missing: an additional layer costs nothing while no request uses it. The last one frees the
        memory.
        """
        needs = _needs(shelf)
        are_met = all(
            layer in self._sites and self._sites[layer].meets(need) for layer, need in needs.items()
        )
        if not needs:
            self.shelf = replace(shelf, layers=frozenset())
            if self._sites and self._editor.set_sites({}):
                self._sites = {}
            return
        norms = dict(shelf.norms)
        if not are_met:
            sites = {layer: _both(self._sites.get(layer), needs.get(layer)) for layer in self._sites | needs}
            self._editor.set_sites(sites)
            self._sites = sites
        unmeasured = [layer for layer in needs if layer not in norms]
        if unmeasured:
            norms |= self._editor.median_norms(unmeasured)
        self.shelf = _measured(replace(shelf, layers=frozenset(needs), norms=norms))

    def _add_vector(
        self, id: str, directions: Mapping[int, Floats], path: Path, model_name: str | None
    ) -> VectorInfo:
        for layer in directions:
            self._check_layer(layer)
        self._check_width(len(next(iter(directions.values()))), f"the vector {id}")
        norms = tuple(length_of(direction) for direction in directions.values())
        info = VectorInfo(id, self.width, tuple(directions), norms, _digest(directions), path, model_name)
        with self._lock:
            self._check_free(id)
            vectors = {**self.shelf.vectors, id: Vector(info, directions)}
            self.shelf = replace(self.shelf, vectors=vectors)
        return info

    def _checked(self, id: str, path: Path) -> Path:
        """The real path of a file below the root. Raises SteeringRefused for others: symbolic links are
        followed first, also those beside it, which may be read with it.
        """
        self._check_name(id)
        root = self._root.resolve()
        try:
            real = (self._root / path).resolve()
            folder = real if real.is_dir() else real.parent
            beside = [
                entry for pattern in ("*", "*/*") for entry in folder.glob(pattern) if entry.is_symlink()
            ]
            outside = [entry for entry in (real, *beside) if not entry.resolve().is_relative_to(root)]
        except (OSError, RuntimeError, ValueError) as exc:  # NUL, a name that is too long, a loop of links
            problem = " ".join(str(exc).split())[:200]
            raise _refused_path(f"{str(path)[:80]!r} cannot be read: {problem}") from exc
        if outside:
            raise _refused_path(f"{outside[0].name} is not below {root}: copy it there")
        return real

    def _check_name(self, id: str) -> None:
        if not NAME.fullmatch(id):
            raise BadRequest(
                f"{id[:80]!r} is no name: letters, digits, '.', '_' and '-', 64 at most", param="id"
            )

    def _check_free(self, id: str) -> None:
        if id in self.shelf.saes or id in self.shelf.vectors:
            raise BadRequest(f"there is already an SAE or vector {id}: remove it first", param="id")

    def _check_layer(self, layer: int) -> None:
        if not -1 <= layer < self.num_layers:
            raise SteeringRefused(
                f"{self.model} has the layers 0 to {self.num_layers - 1}, and -1, the embeddings",
                code="steering_layer_mismatch", param="layer",
            )  # fmt: skip

    def _check_width(self, width: int, what: str) -> None:
        if width != self.width:
            raise SteeringRefused(
                f"{what} is of width {width}; the hidden states of {self.model} are of width {self.width}",
                code="steering_shape_mismatch", param="path",
            )  # fmt: skip

    def _found_sae(self, id: str) -> AttachedSAE:
        sae = self.shelf.saes.get(id)
        if sae is None:
            raise NotFound(f"there is no SAE {id[:80]!r}", param="id")
        return sae

    def _found_vector(self, id: str) -> Vector:
        vector = self.shelf.vectors.get(id)
        if vector is None:
            raise NotFound(f"there is no control vector {id[:80]!r}", param="id")
        return vector


def _needs(shelf: Shelf) -> dict[int, SiteNeeds]:
    """What the runner must be able to do at each layer."""
    needs: dict[int, SiteNeeds] = {}
    for vector in shelf.vectors.values():
        if vector.info.is_attached:
            needs |= {layer: SiteNeeds(layer) for layer in vector.directions if layer not in needs}
    for entry in shelf.saes.values():
        info = entry.sae.info
        for layer in info.layers:
            before = needs.get(layer, SiteNeeds(layer))
            ranks = () if (rank := entry.sae.rank()) is None else (rank,)
            normalizes = before.normalizes or info.normalization != "none"
            needs[layer] = SiteNeeds(layer, normalizes, (*before.ranks, *ranks))
    return needs


def _both(first: SiteNeeds | None, second: SiteNeeds | None) -> SiteNeeds:
    """Merge the needs of both: running requests may still use an SAE or a vector that is detached now."""
    if first is None or second is None:
        needs = first or second
        assert needs is not None
        return needs
    ranks = {rank.digest: rank for rank in (*first.ranks, *second.ranks)}
    return SiteNeeds(first.layer, first.normalizes or second.normalizes, tuple(ranks.values()))


def _measured(shelf: Shelf) -> Shelf:
    """A copy of the shelf with the median norm in each SAE's info."""
    saes = {
        id: _with_info(entry, replace(entry.sae.info, median_norm=shelf.norms.get(entry.sae.info.layer)))
        for id, entry in shelf.saes.items()
    }
    return replace(shelf, saes=saes)


def _with_info(entry: AttachedSAE, info: SAEInfo) -> AttachedSAE:
    return replace(entry, sae=replace(entry.sae, info=info))


def _without(entries: Mapping[str, T], id: str) -> Mapping[str, T]:
    return {name: entry for name, entry in entries.items() if name != id}


def _refused_path(problem: str) -> SteeringRefused:
    return SteeringRefused(problem, code="steering_file_refused", param="path")


def _digest(directions: Mapping[int, Floats]) -> str:
    digest = blake2b(digest_size=16)
    for layer, direction in directions.items():
        digest.update(str(layer).encode())
        digest.update(direction.tobytes())
    return digest.hexdigest()


def labels_of(features: Mapping[str, object]) -> dict[int, str]:
    """The features' names that training wrote, without empty ones."""
    labels = features.get("labels")
    many = labels if isinstance(labels, list) else []
    return {index: label[:200] for index, label in enumerate(many) if isinstance(label, str) and label}


def _largest(features: Mapping[str, object], sae: LoadedSAE) -> Floats | None:
    """The largest activations that training saw."""
    values = features.get("largest")
    if not isinstance(values, list) or len(values) != sae.info.num_features:
        return None
    numbers: Iterable[float] = (v if _is_activation(v) else 0.0 for v in values)
    return np.fromiter(numbers, np.float32, len(values))


def _is_activation(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 <= value <= MAX_ACTIVATION
