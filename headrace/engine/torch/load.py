"""From a folder of safetensors to a runner that gives what the model gives."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
import transformers

from headrace import __version__
from headrace.config.memory import cache_budget
from headrace.engine.runner import Runner, add_file
from headrace.engine.torch import devices, selftest, weights
from headrace.engine.torch.attention import NotPageable, register
from headrace.engine.torch.decoder import Decoder
from headrace.engine.torch.options import TorchOptions
from headrace.engine.torch.packing import called, pack_matrices
from headrace.engine.torch.runner import TorchRunner
from headrace.engine.torch.sequential import Continuation, SequentialRunner
from headrace.errors import ModelError

log = logging.getLogger(__name__)

LAYOUT = 3  # of a block's bytes
PAGED = "in a paged cache"
SEQUENTIAL: dict[str, Continuation] = {
    "by its own cache, in chunks": "chunks",
    "by its own cache, token by token": "tokens",
    "without a cache": "never",
}


def load_runner(
    folder: Path,
    options: TorchOptions,
    *,
    kv_cache_bytes: int,
    max_model_len: int,
    max_num_seqs: int,
    num_threads: int = 0,
    exact: bool = False,
) -> Runner:
    """Load the model in `folder` (seconds to minutes) and choose its runner by a self-test. Raises
    ModelError.
    """
    if num_threads:
        torch.set_num_threads(num_threads)
    device = devices.device_of(options.device)
    dtype = weights.dtype_of(options, device, exact=exact)
    model = weights.read_model(folder, dtype, device, trusts_code=options.trusts_code)
    damage = partial(weights.damage, folder)
    return choose(
        model,
        damage,
        kv_cache_bytes=kv_cache_bytes,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        fingerprint=_fingerprint(folder, dtype, device),
    )


def choose(
    model: Any,
    damage: Callable[[], str] = lambda: "its weights are damaged",
    *,
    kv_cache_bytes: int,
    max_model_len: int,
    max_num_seqs: int,
    fingerprint: bytes = bytes(16),
) -> Runner:
    """The fastest runner that gives what the model gives, before its matrices are reordered. Raises
    ModelError if there is none. `damage` says why a model computes infinite numbers; `kv_cache_bytes`: 0: a
    share of the memory that is free then.
    """
    register()
    decoder, name = Decoder(model), type(model).__name__
    with called(model) as modules:
        expected, reasons = _reference(decoder, name, damage), ""
    matrices = pack_matrices(modules)
    kv_cache_bytes = cache_budget(kv_cache_bytes, devices.free_bytes(decoder.device))
    sequential = partial(
        SequentialRunner,
        decoder,
        kv_cache_bytes=kv_cache_bytes,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        fingerprint=fingerprint,
    )
    candidates: dict[str, Callable[[], Runner]] = {
        PAGED: partial(
            TorchRunner,
            decoder,
            matrices,
            kv_cache_bytes=kv_cache_bytes,
            max_tokens=max_num_seqs * max_model_len,
            fingerprint=fingerprint,
        ),
        **{how: partial(sequential, continuation=each) for how, each in SEQUENTIAL.items()},
    }
    for how, build in candidates.items():
        runner = _tried(build, expected)
        if not isinstance(runner, str):
            if how != PAGED:
                log.warning("%s is served one sequence at a time, %s: this is slow%s", name, how, reasons)
            return runner
        reasons += f"; not {how}, because {runner}"
    raise ModelError(f"{name} is not served, because no way to continue a text gives its numbers{reasons}")


def _reference(decoder: Decoder, name: str, damage: Callable[[], str]) -> selftest.Reference:
    try:
        reference = selftest.reference(decoder)
    except Exception as exc:  # the model's own, of whatever kind
        raise ModelError(f"{name} cannot be run: {type(exc).__name__}: {str(exc)[:300]}") from exc
    if not reference.is_finite:
        dtype = str(decoder.dtype).removeprefix("torch.")
        raise ModelError(f"{name} computes numbers that are infinite, or none, in {dtype}: {damage()}")
    return reference


def _tried(build: Callable[[], Runner], expected: selftest.Reference) -> Runner | str:
    """The runner, if it gives what is expected; else why it is not used."""
    try:
        runner = build()
        difference = selftest.difference(runner, expected)
    except NotPageable as exc:
        return str(exc)
    except Exception as exc:  # the model's own, of whatever kind
        log.debug("the self-test failed", exc_info=True)
        return f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}"
    if difference <= expected.tolerance:
        return runner
    return f"its logits differ by {difference:.1g} of their spread"


def _fingerprint(folder: Path, dtype: torch.dtype, device: torch.device) -> bytes:
    """16 bytes that change with the weights and with whatever else may change a bit of a block."""
    parts = (
        __version__,
        LAYOUT,
        torch.__version__,
        transformers.__version__,
        sorted(torch.cpu.get_capabilities().items()),
        str(torch.get_num_threads()),
        str(dtype),
        str(device),
    )
    digest = blake2b("\0".join(map(str, parts)).encode(), digest_size=16)
    for path in sorted(folder.glob("*.safetensors")):
        add_file(digest, path)
    return digest.digest()
