"""Fetches models from the Hugging Face hub with the optional package `huggingface_hub` (the extra `hub`)."""

from __future__ import annotations

import os
from pathlib import Path

from headrace.config import install_command
from headrace.errors import ModelError
from headrace.models import checkpoint, sentences
from headrace.models.model import CONFIG, GRAPH, Progress
from headrace.models.references import HubSource

# The files that the engine loads; an IR repository may have other formats too.
IR_FILES = ["openvino_model.*", "*.json", "*.jinja"]


def fetch(source: HubSource, staging: Path, partial: Path, progress: Progress) -> Path:
    """Fetch a GGUF file, or a folder with an IR model, into `staging`; or a folder of safetensors into the
    hub's own cache, unless it is there. `partial`: a folder for downloads that are to be continued. Raises
    ModelError.
    """
    progress("downloading", 0, 0)
    try:
        found = _download(source, partial)
        return found.replace(staging / found.name) if found.is_relative_to(partial) else found
    except ImportError as exc:
        needed = install_command("hub")
        raise ModelError(f"hf:{source.repo} needs the package huggingface_hub: {needed}") from exc
    except ModelError:
        raise
    except Exception as exc:  # the errors of the package and of its HTTP client have no root in common
        raise ModelError(f"hf:{source.repo} cannot be fetched: {_reason(exc)}") from exc


def _download(source: HubSource, partial: Path) -> Path:
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # else requests describe this machine
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    if source.file is None and (folder := _cached(source)) is not None:
        return folder
    # The list comes first: where the hub is unreachable it fails at once, a download after half a minute.
    files = [file.rfilename for file in HfApi().model_info(source.repo).siblings or []]
    if source.file is None and GRAPH in files:
        return Path(snapshot_download(source.repo, local_dir=partial / "ir", allow_patterns=IR_FILES))
    if source.file is None and _is_checkpoint(files):
        wanted, others = checkpoint.FILES, checkpoint.OTHERS
        return Path(snapshot_download(source.repo, allow_patterns=wanted, ignore_patterns=others))
    return Path(hf_hub_download(source.repo, _choose(source, files), local_dir=partial / "hub"))


def _cached(source: HubSource) -> Path | None:
    """The folder of a complete checkpoint in the hub's own cache, where other programs may have put it."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.repo, CONFIG)
    folder = Path(found).parent if isinstance(found, str) else None
    if folder is None or not (folder / CONFIG).is_file() or not checkpoint.is_checkpoint(folder):
        return None
    try:
        checkpoint.weight_files(folder)
        if sentences.embeds(folder):
            sentences.read(folder)
    except ModelError:
        return None  # an interrupted download: the hub has the rest
    return folder


def _is_checkpoint(files: list[str]) -> bool:
    has_gguf = any(file.endswith(".gguf") for file in files)
    return CONFIG in files and not has_gguf and any(file.endswith(".safetensors") for file in files)


def _choose(source: HubSource, files: list[str]) -> str:
    ggufs = [file for file in files if file.endswith(".gguf")]
    if source.file is not None and source.file in files:
        return source.file
    if source.file is None and len(ggufs) == 1:
        return ggufs[0]
    names = ", ".join(ggufs) or f"neither a GGUF file nor {GRAPH} nor safetensors"
    problem = f"has no {source.file!r}" if source.file else "needs to be told which file, as hf:ORG/REPO:FILE"
    raise ModelError(f"hf:{source.repo} {problem}; it holds {names}")


def _reason(exc: Exception) -> str:
    return str(exc).strip().partition("\n")[0] or type(exc).__name__
