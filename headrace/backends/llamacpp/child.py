"""llama.cpp's server, run as a file in a process of its own: in one process with OpenVINO it has been seen to
hang. It imports nothing of Headrace.

Its first line of input are its settings as JSON, so that no list of processes shows the key; its first line
of output says where it listens. It ends when its input ends: it does not outlive whoever started it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

MANY = 2**15  # tokens

try:
    import xllamacpp
except ImportError:
    sys.exit("the package xllamacpp is not installed")


def main() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)  # the library prints
    settings = json.loads(sys.stdin.readline())
    try:
        server = xllamacpp.Server(parameters(settings))
    except Exception as exc:  # the package raises nothing narrower; the library has printed why
        sys.exit(str(exc))
    os.write(answers, (json.dumps({"url": server.listening_address}) + "\n").encode())
    sys.stdin.read()
    os._exit(0)  # at once, whatever it is computing


def parameters(settings: dict[str, Any]) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.api_keys = [settings["key"]]
    params.n_parallel = settings["num_slots"]
    params.n_ctx = settings["context_length"] * params.n_parallel
    params.kv_unified = False  # out of a pool that all share, all who run would fail when it is full
    params.ctx_shift = False  # what does not fit is an error, and no loss of the beginning
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["num_threads"]
    if settings["chat_template"] is not None:
        params.chat_template = settings["chat_template"]
    params.verbosity = 1
    # what a request does not say is as OpenAI has it; penalties look at the whole context (-1 would be none)
    sampling = params.sampling
    sampling.temp, sampling.top_k, sampling.top_p, sampling.min_p = 1.0, 0, 1.0, 0.0
    sampling.penalty_last_n = settings["context_length"] or MANY
    return params


if __name__ == "__main__":
    main()
