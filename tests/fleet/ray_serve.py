"""Two replicas of Headrace under Ray Serve, asked over HTTP: `make test-ray`, in an environment with
ray[serve]. It prints what it saw.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PORT = 18_777
URL = f"http://127.0.0.1:{PORT}"
CHAT = {
    "model": "smollm2-135m-instruct",
    "max_tokens": 16,
    "messages": [{"role": "user", "content": "What color is the sky?"}],
}
SCRIPT = f"""
import ray, time
from ray import serve
from ray.serve._private import api
api.HTTP_PROXY_TIMEOUT = 600  # on a busy machine a minute is not enough
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
serve.start(http_options={{"host": "127.0.0.1", "port": {PORT}}})
import headrace_ray
two = headrace_ray.Headrace.options(ray_actor_options={{"num_cpus": 0.5}})
serve.run(two.bind(), name="headrace")
print("running", flush=True)
input()
serve.shutdown()
ray.shutdown()
"""


def post(body: dict[str, object]) -> tuple[bytes, str]:
    request = urllib.request.Request(
        URL + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return response.read(), response.headers["x-request-id"]


def check_service() -> None:
    """What deploy/kubernetes/rayservice.yaml says to Ray Serve has Ray's own schema."""
    import yaml
    from ray.serve.schema import ServeDeploySchema

    service = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "rayservice.yaml").read_text())
    found = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    print(f"rayservice.yaml: {found.applications[0].import_path}, as Ray's schema has it")


def main() -> int:
    check_service()
    environment = {
        **os.environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # else it writes a token to ~/.ray
        "RAY_raylet_start_wait_time_s": "300",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "300",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "300",
        "HEADRACE_KV_CACHE_BYTES": "64MiB",
        "HEADRACE_NUM_THREADS": "1",
        "HEADRACE_DISK_CACHE_BYTES": "0",
        "PYTHONPATH": f"{ROOT / 'deploy' / 'ray'}:{ROOT}",
    }
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        with subprocess.Popen(
            [sys.executable, "-c", SCRIPT], cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as ray:  # fmt: skip
            assert ray.stdout is not None
            line = next((line for line in ray.stdout if line.startswith("running")), "")
            assert line, "Ray Serve did not start"
            print(f"two replicas after {time.monotonic() - began:.0f} s")
            check()
            ray.communicate("\n", timeout=120)
    return 0


def check() -> None:
    whole, id = post(CHAT)
    print(f"chat: {json.loads(whole)['choices'][0]['message']['content']!r}, request {id}")
    stream, _ = post({**CHAT, "stream": True})
    events = [line for line in stream.decode().splitlines() if line.startswith("data: ")]
    assert events[-1] == "data: [DONE]", events[-1]
    print(f"stream: {len(events)} events, the last {events[-1]!r}")
    pids = Counter(_process() for _ in range(24))
    print(f"requests by replica: {sorted(pids.values())}")
    assert len(pids) == 2, pids
    status = 200
    try:
        post({**CHAT, "max_tokens": -1})
    except urllib.error.HTTPError as exc:
        status = exc.code
        print(f"a mistake: {status} {json.loads(exc.read())['error']['param']}")
    assert status == 400


def _process() -> str:
    """Which replica answers, by the start time in its metrics."""
    with urllib.request.urlopen(URL + "/metrics", timeout=60) as response:
        text: str = response.read().decode()
    return next(line for line in text.splitlines() if line.startswith("process_start_time_seconds "))


if __name__ == "__main__":
    sys.exit(main())
