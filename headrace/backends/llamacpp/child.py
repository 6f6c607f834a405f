"""llama.cpp's server, run as a script in a child process: in one process with OpenVINO it has been seen to
hang. The script imports nothing of Headrace.

The first line of its input has the settings as JSON, so that the process list does not show the key; the
first line of its output has its address. It exits when its input ends, and so does not outlive its parent.
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
    params.kv_unified = False  # when a shared pool is full, all running requests fail
    params.ctx_shift = False  # an overflow is an error instead of dropping the beginning
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["num_threads"]
    if settings["chat_template"] is not None:
        params.chat_template = settings["chat_template"]
    params.verbosity = 1
    # OpenAI's defaults for members that a request leaves out; penalties cover the whole context (-1: nothing)
    sampling = params.sampling
    sampling.temp, sampling.top_k, sampling.top_p, sampling.min_p = 1.0, 0, 1.0, 0.0
    sampling.penalty_last_n = settings["context_length"] or MANY
    return params


if __name__ == "__main__":
    main()
