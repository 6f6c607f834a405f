"""The llama.cpp server of the `xllamacpp` wheel. Arguments: GGUF PORT. Runs until its input ends."""

from __future__ import annotations

import os
import sys

import xllamacpp

SLOTS = 32
TOKENS_A_SLOT = 256


def main() -> None:
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.hostnames = ["127.0.0.1"]
    params.port = int(sys.argv[2])
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * TOKENS_A_SLOT
    params.kv_unified = True  # one pool for all slots, so that a long prompt fits too
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count() or 1
    params.verbosity = 0
    server = xllamacpp.Server(params)
    sys.stdin.read()
    del server


if __name__ == "__main__":
    main()
