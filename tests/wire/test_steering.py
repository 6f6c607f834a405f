"""The members `steering`, `profile` and `probe`: what they mean, how a profile joins them, what is wrong."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import replace
from typing import Any

import pytest

from headrace.errors import BadRequest
from headrace.steering.types import (
    Abort,
    Activations,
    Apply,
    Condition,
    Op,
    Probe,
    Reading,
    Receipt,
    ResolvedOp,
)
from headrace.wire.activations import inside, receipt_body
from headrace.wire.chat import ChatBody
from headrace.wire.parameters import parse
from headrace.wire.steering import (
    ProfileBody,
    Steered,
    SteeringBody,
    to_apply,
    to_op,
    to_probes,
    to_steering,
)

ADD = {"sae": "s", "feature": 3, "value": 2.0}


def body(**members: Any) -> ChatBody:
    raw = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **members}
    return parse(ChatBody, json.dumps(raw).encode())


def steering(**members: Any) -> SteeringBody:
    found = body(steering=members).steering
    assert isinstance(found, SteeringBody)
    return found


def inline(numbers: list[float], dtype: str = "float32", **members: Any) -> dict[str, Any]:
    letter = {"float32": "f", "float16": "e"}[dtype]
    data = base64.b64encode(struct.pack(f"<{len(numbers)}{letter}", *numbers)).decode()
    return {"dtype": dtype, "shape": [1, len(numbers)], "data": data, **members}


def test_false_a_name_and_an_object_are_read() -> None:
    assert body(steering=False).steering is False
    assert body(steering="calm").steering == "calm"
    assert steering(ops=[ADD]).ops[0].feature == 3


def test_an_op_is_translated() -> None:
    found = to_steering(
        steering(
            ops=[
                ADD,
                {"vector": "happy", "mode": "add", "value": 0.3, "unit": "relative", "layers": [10, 20]},
                {"sae": "s", "feature": 1, "mode": "ablate", "only_if_active": True, "strength": 0.5},
            ],
            scale=2,
            receipt=True,
        ),
        None,
        None,
    )
    assert found.ops == (
        Op("add", 2.0, sae="s", feature=3, param="steering.ops[0]"),
        Op("add", 0.3, "relative", vector="happy", layers=(10, 20), param="steering.ops[1]"),
        Op("ablate", 0.0, strength=0.5, sae="s", feature=1, only_if_active=True, param="steering.ops[2]"),
    )
    assert (found.scale, found.receipt, found.apply) == (2.0, True, Apply())


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (None, Apply()),
        ("all", Apply()),
        ("prompt", Apply(generation=False)),
        ("generation", Apply(prompt=False)),
        ({}, Apply()),
        ({"roles": ["assistant"]}, Apply(roles=frozenset({"assistant"}))),
        ({"roles": ["user"]}, Apply(generation=False, roles=frozenset({"user"}))),
        ({"prompt_last": True}, Apply(False, False, True)),
        ({"generation": True}, Apply(prompt=False)),
        ({"prompt": True}, Apply(generation=False)),
        ({"window": [2, None]}, Apply(window=(2, None))),
        ({"except": []}, Apply(exceptions=frozenset())),
        ({"except": ["first", "tool_calls"]}, Apply(exceptions=frozenset({"first", "tool_calls"}))),
    ],
)
def test_scopes(scope: Any, expected: Apply) -> None:
    assert to_apply(steering(ops=[], apply=scope).apply) == expected


def test_a_profile_comes_first_and_what_the_body_sets_replaces_what_it_sets() -> None:
    profile = ProfileBody.model_validate({"ops": [ADD], "scale": 3.0, "apply": "prompt"})
    found = to_steering(steering(ops=[{**ADD, "feature": 4}], apply="generation"), profile, "calm")
    assert [op.feature for op in found.ops] == [3, 4]
    assert [op.param for op in found.ops] == ["profile.ops[0]", "steering.ops[0]"]
    assert (found.scale, found.apply, found.profile) == (3.0, Apply(prompt=False), "calm")
    alone = to_steering(None, profile, "calm")
    assert (alone.scale, alone.apply) == (3.0, Apply(generation=False))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_inline_direction_is_read(dtype: str) -> None:
    op = to_op(
        steering(ops=[{"direction": inline([1, -0.5, 2], dtype), "layers": [1, 2], "value": 1}]).ops[0], "p"
    )
    assert op.direction is not None
    assert (op.direction.dtype, op.direction.shape) == (dtype, (1, 3))
    letter = {"float32": "f", "float16": "e"}[dtype]
    assert struct.unpack(f"<3{letter}", op.direction.data) == (1, -0.5, 2)


def test_a_direction_takes_its_memory_once_however_many_layers_it_is_for() -> None:
    numbers = inline([0.5] * 1000)
    for layers in ([1], list(range(256))):
        op = to_op(steering(ops=[{"direction": numbers, "layers": layers, "value": 1}]).ops[0], "p")
        assert op.direction is not None
        assert len(op.direction.data) == 4000


@pytest.mark.parametrize(
    ("op", "param"),
    [
        ({}, "p"),
        ({**ADD, "vector": "v"}, "p"),
        ({"sae": "s", "value": 1}, "p.feature"),
        ({"feature": 1, "vector": "v", "value": 1}, "p.sae"),
        ({"vector": "v"}, "p.value"),
        ({"vector": "v", "mode": "ablate", "value": 1}, "p.value"),
        ({"direction": inline([1.0]), "value": 1}, "p.layers"),
        ({"direction": inline([1.0], data="?"), "layers": [1], "value": 1}, "p.direction.data"),
        ({"direction": inline([1.0], shape=[1, 2]), "layers": [1], "value": 1}, "p.direction.data"),
        ({"direction": inline([float("nan")]), "layers": [1], "value": 1}, "p.direction.data"),
        ({"direction": inline([1.0, 2.0], shape=[2, 1]), "layers": [1], "value": 1}, "p.direction.shape"),
    ],
)
def test_an_op_that_is_at_fault_is_named(op: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        to_op(steering(ops=[op]).ops[0], "p")
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"steering": True}, "steering"),
        ({"steering": 3}, "steering"),
        ({"steering": {"ops": [{**ADD, "feature": -1}]}}, "steering.ops[0].feature"),
        ({"steering": {"ops": [{**ADD, "vlaue": 1}]}}, "steering.ops[0].vlaue"),
        ({"steering": {"ops": [{**ADD, "mode": "multiply"}]}}, "steering.ops[0].mode"),
        ({"steering": {"ops": [{**ADD, "unit": "percent"}]}}, "steering.ops[0].unit"),
        ({"steering": {"ops": [ADD] * 65}}, "steering.ops"),
        ({"steering": {"opps": []}}, "steering.opps"),
        ({"steering": {"abort_when": {"sae": "s"}}}, "steering.abort_when.feature"),
        (
            {"steering": {"abort_when": {"sae": "s", "feature": 1, "scope": "prompt"}}},
            "steering.abort_when.scope",
        ),
        ({"steering": {"when": {"sae": "s"}}}, "steering.when.feature"),
        ({"steering": {"when": {"sae": "s", "feature": 1, "ge": 2}}}, "steering.when.ge"),
        ({"steering": {"when": {"sae": "s", "feature": 1, "gt": 2, "scope": "all"}}}, "steering.when.scope"),
        ({"steering": {"ops": [{**ADD, "sae": "../s"}]}}, "steering.ops[0].sae"),
        ({"steering": {"apply": {"roles": ["robot"]}}}, "steering.apply.roles[0]"),
        ({"steering": {"sweep": []}}, "steering.sweep"),
        ({"steering": {"ops": [{**ADD, "layers": []}]}}, "steering.ops[0].layers"),
        ({"probe": {"sae": "s", "top_k": 65}}, "probe.top_k"),
        ({"probe": [{"sae": "s", "top_k": 1}] * 9}, "probe"),
        ({"probe": {"top_k": 1}}, "probe.sae"),
        ({"profile": 1}, "profile"),
    ],
)
def test_a_member_that_is_at_fault_is_named(members: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        body(**members)
    assert caught.value.param == param


def test_numbers_that_are_not_finite_are_refused() -> None:
    raw = b'{"model":"m","messages":[{"role":"user","content":"a"}],"steering":{"scale":1e999}}'
    with pytest.raises(BadRequest):
        parse(ChatBody, raw)


def test_probes_are_read() -> None:
    assert to_probes(body(probe={"sae": "s", "top_k": 4}).probe) == (Probe("s", (), 4),)
    two = [{"sae": "s", "features": [1, 2], "on": ["prompt"], "require": "all"}, {"sae": "t", "top_k": 1}]
    assert to_probes(body(probe=two).probe) == (
        Probe("s", (1, 2), 0, True, False, True, "probe[0]"),
        Probe("t", (), 1, param="probe[1]"),
    )
    with pytest.raises(BadRequest, match="features, or top_k"):
        to_probes(body(probe={"sae": "s"}).probe)


READ = Activations(4, "he", b"he", readings=(Reading("s", {3: 0.5}, ((7, 2.0), (3, 0.5))),))
CACHED = Activations(1, "x", b"x", cached=True)
RECEIPT = Receipt(
    "f00", (ResolvedOp("steering.ops[0]", "add", 5, 2.0, 1.0, "s", 3, None, 0.25),), 0.25, 9, (1.5,)
)


def test_activations_are_written_with_their_labels() -> None:
    probed = body().with_steered(Steered(probes=(Probe("s", (3,), 2),), labels=lambda: {"s": {7: "the"}}))
    assert inside(probed, [CACHED, READ]) == {
        "feature_activations": {
            "content": [
                {"token": "x", "bytes": [120], "position": 1, "cached": True, "top": [], "features": {}},
                {
                    "token": "he",
                    "bytes": [104, 101],
                    "position": 4,
                    "cached": False,
                    "top": [
                        {"sae": "s", "feature": 7, "activation": 2.0, "label": "the"},
                        {"sae": "s", "feature": 3, "activation": 0.5},
                    ],
                    "features": {"3": 0.5},
                },
            ]
        }
    }


def test_a_receipt_is_written_only_where_it_is_wanted() -> None:
    assert inside(body(), [], RECEIPT) == {}
    wanted = to_steering(steering(ops=[ADD], receipt=True), None, None)
    found = inside(body().with_steered(Steered(wanted)), [], RECEIPT)["steering"]
    assert (found["fingerprint"], found["tokens_steered"], found["relative_dose"]) == ("f00", 9, 0.25)
    assert "warning" not in found
    far = to_steering(steering(ops=[ADD], receipt="kl"), None, None)
    assert (wanted.has_divergence, far.receipt, far.has_divergence) == (False, True, True)
    assert "kl" not in receipt_body(RECEIPT, {})
    assert receipt_body(replace(RECEIPT, divergence=0.25), {})["kl"] == 0.25
    assert "1.50 times" in receipt_body(replace(RECEIPT, relative_dose=1.5), {})["warning"]
    assert found["ops"] == [
        {
            "param": "steering.ops[0]", "mode": "add", "layer": 5, "value": 2.0, "strength": 1.0,
            "relative_dose": 0.25, "achieved": 1.5, "sae": "s", "feature": 3,
        }
    ]  # fmt: skip


def test_what_ends_an_answer_is_read_and_reported() -> None:
    own = {"sae": "s", "feature": 1, "gt": 2.5}
    found = to_steering(
        steering(abort_when=own),
        ProfileBody.model_validate({"abort_when": {"sae": "t", "feature": 9, "lt": 1}}),
        "p",
    )
    assert found.abort_when == Condition("s", 1, 2.5, param="steering.abort_when")
    assert (
        to_steering(steering(), ProfileBody.model_validate({"abort_when": own}), "p").abort_when is not None
    )
    with pytest.raises(BadRequest) as caught:
        to_steering(steering(abort_when={"sae": "s", "feature": 1}), None, None)
    assert caught.value.param == "steering.abort_when.gt"
    assert "abort" not in receipt_body(RECEIPT, {})
    written = receipt_body(replace(RECEIPT, abort=Abort(7, 3.5)), {})
    assert written["abort"] == {"position": 7, "activation": 3.5}
