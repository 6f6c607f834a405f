"""64 clients, each with another profile, while vectors come and go: every answer is that of its profile."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from headrace.models.catalog import Model
from tests.serving import Served
from tests.steering.serving import LAYER, SAE, VECTOR, copied, load, steerable

MODEL = "smollm2-135m-instruct"
CLIENTS = 64
SLOWEST_S = 600  # a machine with much else to do; attaching compiles


def profile(number: int) -> dict[str, Any]:
    """One that no other client has: of the vector, of a feature, or of both."""
    vector = {"vector": VECTOR, "value": round(0.02 * (number + 1), 3)}
    at = {"sae": SAE, "layers": [LAYER]}  # else also where the SAE is attached meanwhile
    feature = {**at, "feature": 3 * number, "mode": "add", "value": 0.1, "unit": "relative"}
    clamp = {**at, "feature": 3 * number + 1, "mode": "clamp", "value": 12.0}
    return {"ops": ([vector], [feature], [vector, clamp])[number % 3]}


def answer(served: Served, number: int) -> tuple[str, str]:
    """The fingerprint of the receipt, and the text."""
    body = {
        "model": f"{MODEL}@p{number}",
        "messages": [{"role": "user", "content": f"Say something about the number {number % 4}."}],
        "max_tokens": 5, "temperature": 0, "seed": 1, "steering": {"profile": f"p{number}", "receipt": True},
    }  # fmt: skip
    response = served.http.post("/v1/chat/completions", json=body, timeout=SLOWEST_S)
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    return choice["steering"]["fingerprint"], choice["message"]["content"]


def come_and_go(served: Served, stop: threading.Event) -> int:
    """Attach and detach another vector and another layer until `stop`. Returns how often."""
    count = 0
    body = {"id": "other", "path": "vectors/happy.gguf"}
    while not stop.is_set():
        for path, members in (
            ("/v1/vectors", body),
            (f"/v1/saes/{SAE}/attach", {"layer": 9 + count % 3}),
            ("/v1/vectors/other/detach", None),
        ):
            assert served.http.post(path, json=members, timeout=SLOWEST_S).status_code == 200
        assert served.http.delete("/v1/vectors/other").status_code == 200
        count += 1
    return count


@pytest.mark.parametrize("engine", [{"max_num_seqs": 16, "max_queue": 256}])
def test_every_answer_is_that_of_its_own_profile(
    default_model: Model, tmp_path: Path, engine: dict[str, Any]
) -> None:
    with steerable(default_model, copied(tmp_path / "root"), **engine) as served:
        load(served)
        for number in range(CLIENTS):
            body = {"name": f"p{number}", "steering": profile(number)}
            assert served.post("/v1/steering/profiles", body).status_code == 200
        stop = threading.Event()
        with ThreadPoolExecutor(CLIENTS + 1) as pool:
            changing = pool.submit(come_and_go, served, stop)
            together = list(pool.map(lambda number: answer(served, number), range(CLIENTS)))
            stop.set()
            assert changing.result() >= 1
        assert len({fingerprint for fingerprint, _ in together}) == CLIENTS
        assert [answer(served, number) for number in range(CLIENTS)] == together
