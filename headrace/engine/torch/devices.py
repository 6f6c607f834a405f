"""Chooses the processor or GPU that computes. Every call of CUDA's own functions is here."""

from __future__ import annotations

import torch

from headrace.errors import ModelError


def device_of(name: str) -> torch.device:
    """`name`: cpu, cuda, cuda:N, or auto: the first GPU, if there is one. Raises ModelError if there is no
    such device.
    """
    count = num_gpus()
    device = torch.device(("cuda" if count else "cpu") if name == "auto" else name)
    if is_gpu(device) and (device.index or 0) >= count:
        raise ModelError(f"engine.device = {name!r}: PyTorch sees {count} GPUs on this machine")
    return device


def num_gpus() -> int:
    """GPUs that PyTorch can use."""
    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0


def is_gpu(device: torch.device) -> bool:
    return bool(device.type == "cuda")


def name_of(device: torch.device) -> str:
    """What the maker calls a GPU; of others, their type."""
    return str(torch.cuda.get_device_name(device) if is_gpu(device) else device.type)


def free_bytes(device: torch.device) -> int | None:
    """Memory of a GPU that is free; None: the device has no memory of its own."""
    return torch.cuda.mem_get_info(device)[0] if is_gpu(device) else None


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16."""
    if is_gpu(device):
        return bool(torch.cuda.is_bf16_supported())
    abilities = torch.cpu.get_capabilities()
    return any(abilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
