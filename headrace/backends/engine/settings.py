"""Settings of one engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from headrace.config.memory import CacheType
from headrace.engine.torch.options import TorchOptions


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the configuration sets for one engine."""

    max_model_len: int = 0  # 0: the model's own
    kv_cache_bytes: int = 0  # 0: a share of the free memory
    kv_cache_dtype: CacheType = "auto"
    max_num_seqs: int = 32
    max_queue: int = 256
    max_batch_tokens: int = 512
    num_threads: int = 0
    exact: bool = False
    torch: TorchOptions = field(default_factory=TorchOptions)  # for folders of safetensors
    use_generation_config: bool = True
    max_tokens_default: int = 0  # of an answer whose request sets no limit; 0: what fits
    loop_tokens: int = 1024  # length of a loop that ends an answer without a limit; 0: never
    deterministic: bool = False  # compute every request as if it had a seed
    speculates: bool = True  # compute guesses of the next tokens, too
    max_tokenize_bytes: int = 2**20  # limit of /tokenize
    disk_cache: Path | None = None  # the folder for prefix blocks that leave the memory; None: nowhere
    disk_cache_bytes: int = 0  # what that folder may hold, of all models; 0: nothing
    share_prefix_cache: bool = False  # between owners (API keys)
    steering_root: Path = Path()  # SAEs and control vectors are read from files below it
    steering_attach: tuple[str, ...] = ()  # names of those that are attached from the start
    norms: Path | None = None  # the folder for measured norms of hidden states; None: measured at each start
    max_dose: float = inf  # of a request's edits at one layer, in median norms of the hidden states
    stall_s: float = 0.0  # without a finished step, while there is work: then it is not alive; 0: never
