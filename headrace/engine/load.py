"""Builds an engine from a model folder."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from headrace.config.memory import CacheType, cache_budget, check_cache
from headrace.engine.disk import BlockFiles
from headrace.engine.engine import Engine
from headrace.engine.phrases import read
from headrace.engine.runner import Runner
from headrace.engine.torch.options import TorchOptions, check_numbers

log = logging.getLogger(__name__)


def load_engine(
    folder: Path,
    *,
    max_model_len: int,
    kv_cache_bytes: int = 0,
    kv_cache_dtype: CacheType = "auto",
    max_num_seqs: int = 32,
    max_batch_tokens: int = 512,
    num_threads: int = 0,
    exact: bool = False,
    speculates: bool = True,
    phrases: Path | None = None,
    disk_cache: Path | None = None,
    disk_cache_bytes: int = 0,
    torch: TorchOptions | None = None,
) -> Engine:
    """Compile the graph in `folder` (seconds), or load its safetensors if there are options for `torch`, and
    reserve the cache. Raises ModelError, ConfigError.

    Without `kv_cache_bytes` the cache takes a share of the free memory, at most what `max_num_seqs`
    sequences of `max_model_len` tokens can fill. `disk_cache`: the folder for blocks that leave it.
    `phrases`: a file of answers for drafts (phrases.py).
    """
    check = partial(check_cache, kv_cache_bytes, max_model_len)
    runner: Runner
    if torch is not None:
        from headrace.engine.torch.load import load_runner

        check_numbers(kv_cache_dtype)
        runner = load_runner(
            folder, torch, kv_cache_bytes=kv_cache_bytes, max_model_len=max_model_len,
            max_num_seqs=max_num_seqs, num_threads=num_threads, exact=exact,
        )  # fmt: skip
    else:
        from headrace.engine.openvino import OpenVINORunner, RunnerOptions

        runner = OpenVINORunner(folder, RunnerOptions(
            kv_cache_bytes=cache_budget(kv_cache_bytes), kv_cache_dtype=kv_cache_dtype,
            max_tokens=max_num_seqs * max_model_len, max_num_seqs=max_num_seqs, exact=exact,
            num_threads=num_threads, check=check,
        ))  # fmt: skip
    check(runner.block_bytes / runner.block_size)  # a runtime may not store numbers as configured
    mib = runner.num_blocks * runner.block_bytes / 2**20
    log.info("KV cache: %d blocks of %d tokens, %.0f MiB", runner.num_blocks, runner.block_size, mib)
    files = _block_files(disk_cache, disk_cache_bytes, runner) if disk_cache and disk_cache_bytes else None
    return Engine(
        runner, max_num_seqs=max_num_seqs, max_batch_tokens=max_batch_tokens, salt=runner.fingerprint,
        speculates=speculates, files=files,
        phrases=read(phrases, runner.vocabulary) if phrases is not None and speculates else None,
    )  # fmt: skip


def _block_files(folder: Path, max_bytes: int, runner: Runner) -> BlockFiles | None:
    """The files of the prefix cache; None, with a warning, where the folder cannot be used."""
    try:
        return BlockFiles(folder, max_bytes, fingerprint=runner.fingerprint, block_bytes=runner.block_bytes)
    except OSError as exc:
        log.warning("the prefix cache is not kept on disk: %s", exc)
        return None
