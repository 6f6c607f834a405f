"""Three scripted replicas, and Headrace in front of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from headrace.app import create_app
from headrace.assembly import build_providers
from headrace.backends.replicas import Replicas
from headrace.config import Config
from tests.api.relays import CHUNK, STOP
from tests.serving import Served, eventually, serving
from tests.upstream import Answer, Upstream, answer, scripted, sse

MODELS = answer({"object": "list", "data": [{"id": "m"}]})
NOT_FOUND = answer({"detail": "Not Found"}, status=404)
STREAM = Answer(pieces=sse(CHUNK, STOP, "[DONE]"))
BROKEN = Answer(status=0, cut=True)  # the connection closes instead of an answer


@dataclass(frozen=True, slots=True)
class Pool:
    """Replicas by their names, and the server that chooses between them."""

    upstreams: dict[str, Upstream]
    served: Served

    @property
    def backend(self) -> Replicas:
        found = self.served.backend
        assert isinstance(found, Replicas)
        return found

    def states(self) -> list[str]:
        return [stats.state for stats in self.backend.replicas()]

    def chat(self, system: str, question: str = "hi", **members: Any) -> httpx2.Response:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        body = {"model": "pool:m", "messages": messages, "stream": True, **members}
        return self.served.post("/v1/chat/completions", body)

    def preferred(self, system: str, **members: Any) -> str:
        """The replica that gets a chat; all answer."""
        self.reset(STREAM)
        assert self.chat(system, **members).status_code == 200
        (name,) = self.reached()
        return name

    def reached(self) -> list[str]:
        return [name for name, one in self.upstreams.items() for _ in one.posts]

    def reset(self, always: Answer) -> None:
        """Forget all requests; each replica answers like this from now on."""
        eventually(lambda: not self.served.gateway.num_active)
        for one in self.upstreams.values():
            one.requests.clear()
            one.forget()
            one.chooses = lambda _: always


@contextmanager
def pool(number: int = 3, **provider: object) -> Iterator[Pool]:
    with ExitStack() as exits:
        upstreams = [exits.enter_context(scripted()) for _ in range(number)]
        for one in upstreams:
            one.always("/v1/models", MODELS)
            one.always("/ready", answer({"status": "ok"}))
            one.always("/metrics", NOT_FOUND)
        with serving_replicas([one.url + "/v1" for one in upstreams], **provider) as served:
            yield Pool({one.url + "/v1": one for one in upstreams}, served)


@contextmanager
def serving_replicas(urls: Sequence[str], **provider: object) -> Iterator[Served]:
    tables = {"pool": {"kind": "openai", "replicas": urls, "models": ["m"], **provider}}
    config = Config.model_validate({"models": {"default": ""}, "providers": tables})
    with serving(create_app(config, build_providers(config))) as served:
        yield served
