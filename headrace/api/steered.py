"""What a request says about steering and probing, for the handlers of the endpoints that generate text."""

from __future__ import annotations

from typing import TypeVar

from fastapi import Request

from headrace.api.request import destination
from headrace.callers import Principal
from headrace.turns.steering import Steering
from headrace.wire.steering import HEADER, SteeringMembers

Body = TypeVar("Body", bound=SteeringMembers)


async def steered(http: Request, caller: Principal, body: Body, *, has_choices: bool = False) -> Body:
    """The body with its steering resolved: its own members, the header, the model's suffix, and defaults.
    `has_choices`: it may have n answers. Raises BadRequest, StoreUnavailable.
    """
    steering: Steering = http.app.state.steering
    _, provider = destination(http)
    header = http.headers.get(HEADER) or None
    return await steering.steered(caller.id, body, provider, header, has_choices=has_choices)
