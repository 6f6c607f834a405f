"""Which format a file or folder is of."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path

from headrace.steering.formats import dictionary_learning, gemma_scope, llama_scope, saelens, sparsify
from headrace.steering.formats.tensors import Found, check, refused

PICKLES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")
NAMED = (
    saelens.WEIGHTS, sparsify.WEIGHTS, dictionary_learning.WEIGHTS, *gemma_scope.FILES, llama_scope.WEIGHTS,
)  # fmt: skip
# What files of untrusted origin make numpy, zipfile and json raise.
BROKEN = (
    ArithmeticError, EOFError, LookupError, MemoryError, OSError, RecursionError, RuntimeError, SyntaxError,
    TypeError, ValueError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_sae(path: Path) -> Found:
    """Read an SAE from its folder, or from the file with its weights. Raises SteeringRefused."""
    try:
        file = _read(path)
        check(file.weights, path)
    except BROKEN as exc:
        problem = f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}"
        raise refused(path, f"it cannot be read: {problem}") from exc
    return file


def _read(path: Path) -> Found:
    if not path.exists():
        raise refused(path, "there is no such file or folder")
    if path.suffix in PICKLES:
        raise refused(path, "files of torch's pickle format can run code; convert it to safetensors")
    folder = path if path.is_dir() else path.parent
    name = None if path.is_dir() else path.name
    if name in gemma_scope.FILES:
        return gemma_scope.read(path)
    if name == llama_scope.WEIGHTS:
        return llama_scope.read(path)
    if name is not None and name not in NAMED:
        raise refused(path, f"an SAE's file has one of the names {', '.join(NAMED)}; or give its folder")
    return _of_folder(folder)


def _of_folder(folder: Path) -> Found:
    if (folder / saelens.WEIGHTS).is_file():
        return saelens.read(folder)
    if (folder / sparsify.WEIGHTS).is_file():
        return sparsify.read(folder)
    if (folder / dictionary_learning.WEIGHTS).is_file():
        return dictionary_learning.read(folder)
    for file in gemma_scope.FILES:
        if (folder / file).is_file():
            return gemma_scope.read(folder / file)
    for weights in (folder / "checkpoints" / llama_scope.WEIGHTS, folder / llama_scope.WEIGHTS):
        if weights.is_file():
            return llama_scope.read(weights)
    pickles = sorted(entry.name for entry in folder.iterdir() if entry.suffix in PICKLES)
    hint = f"{pickles[0]} can run code: convert it to safetensors" if pickles else "no SAE's files are in it"
    raise refused(folder, hint)
