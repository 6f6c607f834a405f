"""uvicorn's WebSocket protocol with limits."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import HeaderLineTooLong, RequestLineTooLong, TooManyHeaders
from websockets.frames import Frame
from websockets.http11 import MAX_LINE_LENGTH, MAX_NUM_HEADERS, Response
from websockets.server import ServerProtocol
from websockets.typing import StatusLike

from headrace.errors import BadRequest
from headrace.offload import SMALL
from headrace.server.connections import Connections
from headrace.server.refusals import HeadTooLarge, TargetTooLong
from headrace.server.writing import Unread
from headrace.wire.errors import to_body

access = logging.getLogger("headrace.access")
_quiet = logging.getLogger("uvicorn.websockets")
_quiet.setLevel(logging.WARNING)

MAX_FRAGMENTS = 4096  # of one message


class _Handshake(ServerProtocol):
    """A handshake whose refusals have OpenAI's shape."""

    def reject(self, status: StatusLike, text: str) -> Response:
        response = super().reject(status, text)
        error = BadRequest(text.strip() or f"there is no WebSocket here ({HTTPStatus(status).phrase})")
        response.body = json.dumps(to_body(error)).encode()
        for name in ("Content-Length", "Content-Type"):
            del response.headers[name]
        response.headers["Content-Length"] = str(len(response.body))
        response.headers["Content-Type"] = "application/json"
        return response


class WebSocketConnection(WebSocketsSansIOProtocol):
    """One WebSocket, from its request to its end."""

    def __init__(self, connections: Connections, **members: Any) -> None:
        super().__init__(**members)
        self._connections = connections
        self._unread = Unread(connections.limits.send_s)
        self.logger = _quiet
        self.conn = _Handshake(max_size=self.config.ws_max_size, logger=self.logger)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.is_busy(self)
        super().connection_lost(exc)

    def drop(self) -> None:
        self.shutdown()

    def check(self, now: float) -> None:
        """Check the connection's time limits. Called every second."""
        if self._unread.is_stuck(self.transport, now):
            self._connections.warn(
                "unread", f"a client read nothing for {self._connections.limits.send_s:g} s: closed"
            )
            self.transport.abort()
        elif self.transport.is_closing():
            self._unread.grows(now)

    def pause_writing(self) -> None:
        self._unread.grows(self.loop.time())
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread.is_read()
        super().resume_writing()

    def send_receive_event_to_app(self) -> None:
        self._connections.is_busy(self)
        if sum(map(len, self.frames)) > SMALL:
            self.curr_msg_data_type = "bytes"  # a long text is decoded with its JSON, in a thread
        super().send_receive_event_to_app()

    async def send(self, message: ASGISendEvent) -> None:
        if not self.handshake_complete:
            self._log(message)
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True  # it was refused; otherwise uvicorn logs an error
        if self.handshake_complete and not self.disconnected:
            self._connections.is_idle(self, may_return=False)  # until its next message

    def _log(self, message: ASGISendEvent) -> None:
        """Log the access, without the query string, which may contain a key and which uvicorn would log."""
        status = 403
        if message["type"] == "websocket.accept":
            status = 101
        elif message["type"] == "websocket.http.response.start":
            status = message["status"]
        elif message["type"] != "websocket.close":
            return
        access.info("WebSocket %s %d", self.scope["path"], status)

    def handle_ping(self) -> None:
        """Answer a ping, unless the client does not read: pongs must not pile up."""
        pong = b"".join(self.conn.data_to_send())
        if self.writable.is_set():
            self.transport.write(pong)

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MAX_FRAGMENTS:
            self.conn.fail(1009, "too many fragments")
            self.handle_parser_exception()
        else:
            super().handle_cont(event)

    def shutdown(self) -> None:
        if self.handshake_initiated:
            super().shutdown()
        else:  # no request has arrived that could be answered
            self.transport.close()


def refused_handshake(connection: WebSocketConnection) -> BadRequest | None:
    """The error for an opening request that could not be parsed, to which nothing has been answered; else
    None.
    """
    why = connection.conn.handshake_exc
    if why is None or connection.handshake_initiated:
        return None
    if isinstance(why, RequestLineTooLong):
        return TargetTooLong(f"the request line of a WebSocket is longer than {MAX_LINE_LENGTH} bytes")
    if isinstance(why, HeaderLineTooLong | TooManyHeaders):
        return HeadTooLarge(
            f"the headers of a WebSocket are more than {MAX_NUM_HEADERS}, or one is longer than "
            f"{MAX_LINE_LENGTH} bytes"
        )
    return BadRequest("a WebSocket is opened by a GET without a body, over HTTP/1.1")
