from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from headrace.backends.fake import FakeBackend
from headrace.errors import ConfigError, ModelNotFound, ProviderNotFound
from headrace.gateway.gateway import Gateway
from headrace.types import ModelInfo
from tests.gateway.gateways import gateway, route


def local(id: str) -> FakeBackend:
    return FakeBackend(["local"], id=id, name="headrace")


def remote(name: str, id: str) -> FakeBackend:
    return FakeBackend([name], id=id, name=name)


def targets(found: Gateway, id: str) -> list[str]:
    return [f"{c.provider}:{c.model}" for c in found.router.explain(id).candidates]


def test_everything_that_is_listed_leads_back_to_itself() -> None:
    found = gateway(remote("up", "m:8b"), local("m"), fast=route("m", "up:m:8b"))
    listed = [(info.id, info.owned_by) for info in found.router.models()]
    assert listed == [("m", "headrace"), ("up:m:8b", "up"), ("fast", "headrace")]
    assert [(found.router.model(id).id, found.router.model(id).owned_by) for id, _ in listed] == listed
    assert found.router.model(None).id == "m"
    assert targets(found, "up:m:8b") == ["up:m:8b"]


def test_local_models_come_before_those_of_providers() -> None:
    found = gateway(remote("up", "m"), local("m"))
    assert targets(found, "m") == ["headrace:m"]
    assert targets(found, "up:m") == ["up:m"]
    assert targets(found, "headrace:m") == ["headrace:m"]


def test_model_that_a_provider_lists_is_found_without_its_name() -> None:
    found = gateway(local("m"), remote("up", "qwen3:8b"))
    assert targets(found, "qwen3:8b") == ["up:qwen3:8b"]


def test_provider_without_prefix_lists_its_own_ids() -> None:
    found = Gateway([remote("up", "m")], remote=["up"], bare=["up"])
    assert [info.id for info in found.router.models()] == ["m"]
    assert found.router.model("m").id == "m"


def test_provider_has_its_own_ids_to_itself() -> None:
    found = gateway(local("m"), remote("up", "m"), m=route("up:m"))
    assert [info.id for info in found.router.models("up")] == ["m"]
    assert found.router.model("m", "up").owned_by == "up"
    assert found.router.explain("m", "up").route is None
    assert found.router.model(None, "up").id == "m"


def test_route_hides_the_model_of_its_name_which_may_be_its_target() -> None:
    found = gateway(local("m"), remote("up", "big"), m=route("m", "up:big"))
    assert [info.id for info in found.router.models()] == ["up:big", "m"]
    assert targets(found, "m") == ["headrace:m", "up:big"]
    found.router.check()


@pytest.mark.parametrize(
    ("id", "provider", "error", "param"),
    [
        ("ghost", None, ModelNotFound, "model"),
        ("ghost:m", None, ProviderNotFound, "model"),
        ("up:ghost", None, ModelNotFound, "model"),
        ("ghost", "up", ModelNotFound, "model"),
        ("m", "ghost", ProviderNotFound, "provider"),
        ("up:m", "headrace", ModelNotFound, "model"),
    ],
)
def test_what_is_unknown_is_reported_by_name(
    id: str, provider: str | None, error: type[ModelNotFound], param: str
) -> None:
    found = gateway(local("m"), remote("up", "m"))
    with pytest.raises(error) as raised:
        found.router.explain(id, provider)
    assert raised.value.param == param
    assert "ghost" in raised.value.message or id in raised.value.message


def test_route_to_a_model_that_is_not_here_stops_the_start() -> None:
    found = gateway(local("m"), remote("up", "x"), fast=route("m", "x"))
    with pytest.raises(ConfigError, match=r"routes\.fast\.targets\.1 = 'x'.*served: m.*PROVIDER:MODEL"):
        found.router.check()


def test_target_that_its_provider_does_not_have_is_left_out() -> None:
    found = gateway(local("m"), remote("up", "x"), fast=route("up:gone", "m"), none=route("up:gone"))
    explained = found.router.explain("fast")
    assert [candidate.is_served for candidate in explained.candidates] == [False, True]
    assert found.router.model("none").max_model_len is None
    with pytest.raises(ModelNotFound):
        found.router.plan("none")


def first_of(found: Gateway, id: str) -> str:
    return found.router.plan(id).targets[0].backend.name


def test_neighbours_with_weights_are_drawn_as_often_as_they_are_heavy() -> None:
    heavy, light = {"target": "a:m", "weight": 3}, {"target": "b:m", "weight": 1}
    backends = [remote(name, "m") for name in "abcd"]
    found = gateway(*backends, last=route(heavy, light, "c:m"), first=route("c:m", heavy, light))
    drawn = Counter(first_of(found, "last") for _ in range(2000))
    assert set(drawn) == {"a", "b"}
    assert 0.70 < drawn["a"] / 2000 < 0.80
    assert all(found.router.plan("last").targets[2].backend.name == "c" for _ in range(20))
    assert {first_of(found, "first") for _ in range(20)} == {"c"}


def test_same_seed_draws_the_same() -> None:
    equal = [{"target": f"{name}:m", "weight": 1} for name in "ab"]

    def drawn(seed: int) -> list[str]:
        found = gateway(remote("a", "m"), remote("b", "m"), seed=seed, fast=route(*equal))
        return [first_of(found, "fast") for _ in range(20)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


class AnyModel(FakeBackend):
    """A provider without a list of its models: it is sent whatever name a request has."""

    def find(self, id: str) -> ModelInfo | None:
        return replace(self.models()[0], id=id)


def test_a_provider_that_is_sent_any_name_takes_no_names_but_those_that_it_lists() -> None:
    found = gateway(local("m"), AnyModel(["up"], id="big", name="up"))
    taken = {name: found.router.is_taken(name) for name in ("m", "big", "up:x", "mine")}
    assert taken == {"m": True, "big": True, "up:x": True, "mine": False}


@pytest.mark.parametrize("id", ["ghost", "ghost:m", "up:ghost"])
def test_an_error_lists_the_first_of_many_models(id: str) -> None:
    found = gateway(*(remote("up", f"m{number}") for number in range(200)))
    with pytest.raises((ModelNotFound, ProviderNotFound), match="m19 and 180 more") as caught:
        found.router.model(id)
    assert "m20" not in caught.value.message
