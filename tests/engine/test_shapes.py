"""The runtime forgets the kernels of shapes that it has not met for long."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.engine.compiled import PROPERTY, VARIABLE, limited
from headrace.models.catalog import Model

ROOT = Path(__file__).parents[2]
# The memory in use after steps of 1 to 50 tokens, and after steps of 51 to 90, in MiB.
PROGRAM = """
import ctypes, sys
from pathlib import Path
from headrace.engine.batch import pack
from headrace.engine.openvino import OpenVINORunner, RunnerOptions
from headrace.engine.sequence import SamplingParams, Sequence

class Memory(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    _fields_ = [(name, ctypes.c_size_t) for name in names]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Memory
runner = OpenVINORunner(Path(sys.argv[1]), RunnerOptions(kv_cache_bytes=2**23, num_threads=1))
for count in range(1, 91):
    sequence = Sequence([5] * count, SamplingParams(max_tokens=1))
    sequence.blocks = [0, 1, 2]
    runner.forward(pack({sequence: count}))
    if count in (50, 90):
        memory = library.mallinfo2()
        print((memory.uordblks + memory.hblkhd) / 2**20)
"""


def test_the_limit_has_room_for_all_that_may_decode_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)
    assert [limited({}, number)[PROPERTY] for number in (1, 32, 64)] == ["32", "32", "64"]
    assert limited({PROPERTY: "5"}, 64) == {PROPERTY: "5"}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it asks glibc for the memory in use")
def test_memory_does_not_grow_with_each_new_number_of_tokens(default_model: Model) -> None:
    """Without the limit it is 1.3 MiB each, 50 in all."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(default_model.folder)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    some, more = map(float, done.stdout.split())
    assert more - some < 10
