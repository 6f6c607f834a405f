"""/v1/responses over a WebSocket: a client sends `response.create` frames, and gets the events of a stream
for each, one turn at a time.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from fastapi import APIRouter
from pydantic_core import from_json
from starlette.websockets import WebSocket, WebSocketDisconnect

from headrace import logs
from headrace.api.authentication import authenticate
from headrace.api.errors import to_response
from headrace.api.request import BOM, FACTOR, Budget, Charge, work_of
from headrace.callers import Principal
from headrace.errors import BadRequest, Overloaded, PayloadTooLarge, ServerError, UnsupportedParameter
from headrace.finite import size_up_to
from headrace.gateway.lifetime import End, Until, interrupt_after
from headrace.offload import SMALL, aside, cancel_and_wait
from headrace.turns.responses import Responses
from headrace.turns.runs import Run
from headrace.turns.steering import Steering
from headrace.wire.generation import dump
from headrace.wire.items import Item
from headrace.wire.limits import checked_volume
from headrace.wire.parameters import parse
from headrace.wire.responses.body import ResponseBody
from headrace.wire.responses.tables import uses_of_responses
from headrace.wire.steering import HEADER

log = logging.getLogger(__name__)
router = APIRouter()

LIMIT_S = 3600.0  # how long a connection may last
CREATE = "response.create"
ENVELOPE = ("type", "stream")  # members of a frame that are not members of a response's body
# members of a frame that are not supported, with the values that change nothing
OWN = {"background": (None, False), "generate": (None, True), "stream_id": (None,)}


@router.websocket("/v1/responses")
async def converse(socket: WebSocket) -> None:
    logs.REQUEST_ID.set(f"ws_{secrets.token_hex(12)}")
    try:
        caller = await authenticate(socket)
    except ServerError as exc:
        await socket.send_denial_response(to_response(exc))
        return
    await socket.accept()
    await Connection(socket, caller).serve()


class Connection:
    """One WebSocket. `_memory`: the items up to the last response that is not stored, by the response's id.
    `_is_answering`: from a turn's frame until its last event is sent; the turn frees its resources later.
    """

    def __init__(self, socket: WebSocket, caller: Principal) -> None:
        self._socket, self._caller = socket, caller
        self._responses: Responses = socket.app.state.responses
        self._steering: Steering = socket.app.state.steering
        self._profile = socket.headers.get(HEADER) or None
        self._config = socket.app.state.config.server
        self._memory: dict[str, Sequence[Item]] = {}
        self._turn: asyncio.Task[None] | None = None
        self._is_answering = False
        self._size = 0  # the work that the turn's frame is
        self._budget: Budget = socket.app.state.budget
        self._charge = Charge(self._budget)  # of the turn's frame
        self._kept = Charge(self._budget)  # of `_memory`

    async def serve(self) -> None:
        try:
            async with asyncio.timeout(LIMIT_S):
                while True:
                    await self._receive()
        except WebSocketDisconnect:
            pass
        except TimeoutError:
            await self._stop()
            problem = "This connection has lasted for 60 minutes. Open a new one."
            await self._refuse(BadRequest(problem, code="websocket_connection_limit_reached"))
            await self._socket.close()
        finally:
            await self._stop()
            self._charge.release()
            self._forget_all()

    async def _stop(self) -> None:
        await cancel_and_wait(self._turn)

    async def _receive(self) -> None:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        raw = message.get("bytes") or (message.get("text") or "").encode()
        try:
            body = await self._body(raw)
        except ServerError as exc:
            await self._refuse(exc)
            return
        if self._turn is not None:
            await asyncio.wait([self._turn])
        self._is_answering = True
        self._turn = asyncio.create_task(self._answer(body))
        charge = self._charge
        self._turn.add_done_callback(lambda _: charge.release())

    async def _body(self, raw: bytes) -> ResponseBody:
        """The validated frame. Raises BadRequest, PayloadTooLarge, Overloaded."""
        if self._is_answering:
            problem = "A response is being made on this connection: wait for its end."
            raise BadRequest(problem, code="response_in_progress")
        if len(raw) > self._config.max_body_bytes:
            raise PayloadTooLarge(f"the frame is larger than {self._config.max_body_bytes} bytes")
        self._size = work_of(raw)
        charge = Charge(self._budget)
        charge.take(FACTOR * len(raw))
        try:
            body = await aside(self._size, partial(_parsed, raw))
        except BaseException:
            charge.release()
            raise
        self._charge = charge
        return body

    async def _answer(self, body: ResponseBody) -> None:
        """Send the turn's events, or the error that prevents them."""
        try:
            run = await self._run(body)
        except ServerError as exc:
            await self._fail(body, exc)
            return
        except Exception:
            log.exception("a turn failed")
            await self._fail(body, ServerError("the server had an error"))
            return
        try:
            await self._follow(body, run)
        finally:
            self._is_answering = False
            await asyncio.shield(run.cancel())

    async def _run(self, body: ResponseBody) -> Run:
        """Start the turn. Raises ServerError."""
        end: End = asyncio.get_running_loop().create_future()
        timer = interrupt_after(end, self._config.request_timeout_s, body.timeout or 0)
        try:
            async with Until(end):
                body = await self._steering.steered(self._caller.id, body, header=self._profile)
                uses = await aside(self._size, partial(uses_of_responses, body, strict=self._config.strict))
                return await self._responses.create(self._caller.id, body, memory=self._memory, uses=uses)
        finally:
            if timer is not None:
                timer.cancel()

    async def _follow(self, body: ResponseBody, run: Run) -> None:
        await run.wait_for_first()
        if run.first is None and run.error is not None:
            await self._fail(body, run.error)
            return
        run.recorder.is_announced = True
        async for texts in run.follow():
            if run.is_done:  # before the last event is sent: the client may answer it at once
                await self._remember(body, run)
                self._is_answering = False
            for text in texts:
                await self._socket.send_text(text)

    async def _remember(self, body: ResponseBody, run: Run) -> None:
        """Keep the items of a response that is not stored, if there is memory for them."""
        if run.error is not None:
            self._forget(body)
        if run.error is not None or body.store is not False:
            return
        items = [*run.recorder.history.items, *run.recorder.input, *run.encoder.output]
        size = await aside(SMALL + self._size, partial(size_up_to, items, sys.maxsize))
        self._charge.release()
        self._forget_all()
        with suppress(Overloaded):
            self._kept.take(FACTOR * size)
            self._memory = {run.id: items}
            self._budget.forgettable[id(self)] = self._forget_all

    def _forget(self, body: ResponseBody) -> None:
        """Forget a response after a turn that failed to continue it."""
        if body.previous_response_id in self._memory:
            self._forget_all()

    def _forget_all(self) -> None:
        self._memory = {}
        self._kept.release()
        self._budget.forgettable.pop(id(self), None)

    async def _fail(self, body: ResponseBody, error: ServerError) -> None:
        """End a turn with an error."""
        self._forget(body)
        self._is_answering = False
        await self._refuse(error)

    async def _refuse(self, error: ServerError) -> None:
        body = {"code": error.code, "message": error.message, "param": error.param, "type": error.type}
        await self._socket.send_text(dump({"type": "error", "status": error.status, "error": body}))


def _parsed(raw: bytes) -> ResponseBody:
    """The body of a frame. Raises BadRequest."""
    checked_volume(raw)
    frame = _loaded(raw)
    if frame.get("type") != CREATE:
        raise BadRequest(f"frames of type {CREATE} are understood, and no others", param="type")
    for name, neutral in OWN.items():
        if frame.get(name) not in neutral:
            raise UnsupportedParameter(f"{name} is not supported over a WebSocket", param=name)
    members = {name: value for name, value in frame.items() if name not in (*ENVELOPE, *OWN)}
    return parse(ResponseBody, dump({**members, "stream": True}).encode())


def _loaded(raw: bytes) -> dict[str, Any]:
    try:
        frame = from_json(raw.removeprefix(BOM), allow_inf_nan=False)
    except ValueError:
        frame = None
    if not isinstance(frame, dict):
        raise BadRequest("a frame is a JSON object", code="invalid_json")
    return frame
