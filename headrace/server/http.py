"""uvicorn's HTTP protocol with limits. Requests that are refused here get an error in OpenAI's shape."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from headrace.api.request import HANG_UP
from headrace.errors import BadRequest, Overloaded, ServerError
from headrace.gateway.lifetime import End, hung_up, interrupt
from headrace.server import refusals
from headrace.server.connections import Connections
from headrace.server.refusals import HeadTooLarge, Refused, TargetTooLong, TooSlow, to_bytes
from headrace.server.upgrades import framing, parser_of_body
from headrace.server.websockets import WebSocketConnection, refused_handshake
from headrace.server.writing import JoinedWrites, Unread, unframed

# After a refusal the connection stays open for so long and reads what the client still sends: a client whose
# connection is closed at once may lose the answer.
LINGER_S = 2.0
LINGER_BYTES = 16 * 2**20
FRAMING = 16  # bytes of chunk sizes and extensions that are allowed for each byte of a body


class _Flow(FlowControl):
    """Flow control that stops reading while too much of the newest request's body is unread."""

    def __init__(self, transport: asyncio.Transport, connection: HTTPConnection) -> None:
        super().__init__(transport)
        self._connection = connection

    def resume_reading(self) -> None:
        if self.read_paused and self._connection.may_read:
            super().resume_reading()


class HTTPConnection(HttpToolsProtocol):
    """One connection, which reads a request's head, then its body, and is idle between requests.

    `_deadline`: when `check` acts on the current state. `_refusal`: the error that stops all reading; it is
    sent after the answers to earlier requests, and then the connection lingers until the client has read it.
    `_running`: the request that is being answered; uvicorn's `cycle` is the one that arrived last.
    """

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._connections, self._limits = connections, connections.limits
        self._in_head = self._in_body = self._is_lingering = False
        self._deadline = math.inf
        self._unread = Unread(self._limits.send_s)
        self._head_bytes = self._head_arrived = self._num_headers = 0
        self._body_bytes = self._progress = self._framing = self._discarded = 0
        self._refusal: ServerError | None = None
        self._running: RequestResponseCycle | None = None
        self._hang_up: End | None = None  # of the running request, if its handler waits for that

    # states of the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self)
        if self._connections.make_room(len(self.connections)):
            self._rest()
        else:
            self._refuse(Overloaded("the server has as many connections as it can take"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.is_busy(self)
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._disconnect(self._running)

    def drop(self) -> None:
        self.connections.discard(self)
        self.transport.abort()

    def shutdown(self) -> None:
        """Take no more requests. A request whose body is incomplete is refused, any other may finish."""
        if self._in_body and self._refusal is None:
            self._refuse(Overloaded("the server is shutting down"))
        elif self._is_lingering:
            self.transport.close()
        else:
            super().shutdown()

    def retire(self) -> None:
        """The process ends: what is idle may be so for a short time only."""
        if not (self._in_head or self._in_body) and self._deadline < math.inf:
            self._deadline = min(self._deadline, self.loop.time() + self._connections.idle_s)

    def check(self, now: float) -> None:
        """Check the connection's time limits. Called every second."""
        if self._unread.is_stuck(self.transport, now):
            self._connections.warn("unread", f"a client read nothing for {self._limits.send_s:g} s: closed")
            self.transport.abort()
        elif self.transport.is_closing():
            self._unread.grows(now)
        elif now >= self._deadline:
            self._expire(now)

    def pause_writing(self) -> None:
        self._unread.grows(self.loop.time())
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread.is_read()
        super().resume_writing()

    @property
    def may_read(self) -> bool:
        if self._refusal is not None:
            return self._is_lingering
        if self.cycle is None or self.cycle.response_complete:  # what is left of an answered body is dropped
            return True
        return len(self.cycle.body) <= HIGH_WATER_LIMIT

    def _rest(self) -> None:
        """Wait for the next request."""
        self._deadline = self.loop.time() + self._connections.idle_s
        self._connections.is_idle(self)

    def _expire(self, now: float) -> None:
        seconds = f"{self._limits.receive_s:g} s"
        if self._in_head:
            self._refuse(TooSlow(f"the head of the request did not arrive within {seconds}"))
        elif not self._in_body:
            self.transport.close()
        elif self._progress >= self._limits.progress or self.flow.read_paused:
            self._progress, self._deadline = 0, now + self._limits.receive_s
        else:
            self._refuse(TooSlow(f"the body of the request made no progress for {seconds}"))

    # reading

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            if self._is_lingering:
                self._discard(data)
            return
        request, was_in_head, was_in_body, body = self.headers, self._in_head, self._in_body, self._body_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._refuse(self._refusal_of(exc))
        except httptools.HttpParserUpgrade as exc:
            self._upgrade(data[exc.args[0] :])
        else:
            if self.headers is not request:  # another request has begun
                return
            if was_in_head and self._in_head:
                self._count_head(len(data))
            elif was_in_body and self._in_body:
                self._count_framing(len(data) - (self._body_bytes - body))

    def _count_head(self, arrived: int) -> None:
        """Limit a head by the bytes that arrive: the parser only reports headers that are complete."""
        self._head_arrived += arrived
        if self._head_arrived > self._limits.head:
            self._refuse(self._too_large())

    def _count_framing(self, arrived: int) -> None:
        """Limit the bytes of a body that are no content: sizes and extensions of chunks, trailers."""
        self._framing += arrived
        if self._framing > self._limits.head + FRAMING * self._body_bytes:
            self._refuse(
                BadRequest("the chunks of the body have extensions that are too large", param="body")
            )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._head_arrived = self._num_headers = 0
        self._body_bytes = self._progress = self._framing = self._discarded = 0
        self._deadline = self.loop.time() + self._limits.receive_s

    def on_url(self, url: bytes) -> None:
        self._head_bytes += len(url)
        if self._head_bytes > self._limits.target:
            raise Refused(
                TargetTooLong(f"the path and query are longer than {self._limits.target} bytes", param="path")
            )
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        self._num_headers += 1
        if self._head_bytes > self._limits.head or self._num_headers > self._limits.headers:
            raise Refused(self._too_large())
        if self._in_head:  # trailers, after the body, are dropped
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        version, method = self.parser.get_http_version(), self.parser.get_method()
        self.url = refusals.checked(version, method, self.url, self.headers)
        self.expect_100_continue = b"expect" in dict(self.headers)
        # a request that is refused up to here has no body yet: nothing of it is to be undone
        self._in_head, self._in_body = False, True
        self._deadline = self.loop.time() + self._limits.receive_s
        self._connections.is_busy(self)
        super().on_headers_complete()
        if self._connections.is_retiring:
            self.cycle.keep_alive = False  # the answer says `Connection: close`
        if len(self.pipeline) > self._limits.pipelined:
            raise Refused(BadRequest(f"more than {self._limits.pipelined} requests wait on this connection"))

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._progress += len(body)
        super().on_body(body)
        if self.cycle is not None and self.cycle.response_complete:
            self._discard(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and not self._should_upgrade():
            return  # the body is still to come: see `upgrades`
        super().on_message_complete()
        self._in_body = False
        self._deadline = math.inf
        if self.cycle is not None and self.cycle.response_complete:  # it was answered before the body's end
            self._rest()

    def _too_large(self) -> HeadTooLarge:
        limits = self._limits
        return HeadTooLarge(
            f"the headers are more than {limits.headers}, or larger than {limits.head} bytes", param="headers"
        )

    # upgrades

    def _upgrade(self, rest: bytes) -> None:
        """Handle a request to upgrade. `rest`: the bytes after its head."""
        if not self._should_upgrade():
            self.parser = parser_of_body(self)
            self.data_received(framing(self.headers) + rest)
        elif self.cycle is not None and not self.cycle.response_complete:
            self._refuse(BadRequest("a WebSocket cannot be opened before the last answer has ended"))
        else:
            self.handle_websocket_upgrade()

    def handle_websocket_upgrade(self) -> None:
        method, version = self.scope["method"].encode(), self.scope["http_version"].encode()
        head = [b"%s %s HTTP/%s\r\n" % (method, self.url, version)]
        head += [b"%s: %s\r\n" % field for field in self.scope["headers"]]
        self._connections.is_busy(self)
        self.connections.discard(self)
        protocol: WebSocketConnection = self.ws_protocol_class(  # type: ignore[assignment, misc, call-arg]
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        protocol.connection_made(self.transport)
        protocol.data_received(b"".join([*head, b"\r\n"]))
        if (error := refused_handshake(protocol)) is None:
            self.transport.set_protocol(protocol)
        else:
            self.connections.discard(protocol)
            self.connections.add(self)
            self._refuse(error)

    # answers

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running, self._hang_up = cycle, None
        cycle.scope[HANG_UP] = self._until_hang_up  # type: ignore[literal-required]
        if cycle.scope["method"] != "HEAD":  # whose answer has a length, but no body
            cycle.transport = JoinedWrites(self.transport, cycle, self.loop)  # type: ignore[assignment]
        is_old = cycle.scope["http_version"] == "1.0"
        super()._start_asgi_task(cycle, unframed(cycle, app) if is_old else app)

    def _until_hang_up(self) -> End:
        """A future that is done when the client of the running request closes the connection. It costs less
        than a task that waits for the message http.disconnect.
        """
        self._hang_up = self.loop.create_future()
        if self._running is not None and self._running.disconnected:
            interrupt(self._hang_up, hung_up())
        self.flow.resume_reading()
        return self._hang_up

    def _disconnect(self, cycle: RequestResponseCycle) -> None:
        """Make a request's handler see a closed connection."""
        cycle.disconnected, cycle.waiting_for_100_continue = True, False
        cycle.message_event.set()
        if self._hang_up is not None:
            interrupt(self._hang_up, hung_up())

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._refusal is not None:
            self._answer_refusal(self._refusal)
        elif self._in_body:  # the request was answered before its body was complete
            self._progress, self._deadline = 0, self.loop.time() + self._limits.receive_s
        elif not self._in_head:
            self._rest()
        self.flow.resume_reading()

    # refusals

    def _refusal_of(self, exc: httptools.HttpParserError) -> ServerError:
        cause = exc.__context__ or exc.__cause__
        if isinstance(cause, Refused):
            return cause.error
        if isinstance(exc, httptools.HttpParserCallbackError):
            return BadRequest("the request cannot be read")
        return BadRequest(f"this is not HTTP: {exc}")

    def _refuse(self, error: ServerError) -> None:
        """Stop reading, send the error after the answers to earlier requests, and close the connection."""
        self._refusal, self._deadline = error, math.inf
        self._connections.warn(
            f"refused {error.status}", f"a connection was closed with {error.status}: {error.message}"
        )
        running = self._running
        if self.transport.is_closing():
            return
        if running is None or (running.response_complete and not self._in_body):
            self._answer_refusal(error)
        elif not self._in_body or running is not self.cycle:  # earlier requests are answered first
            if self._in_body:
                self.pipeline.popleft()
            self.flow.pause_reading()
        elif running.response_started:  # an error can no longer be sent
            self.transport.close()
        else:  # the handler waits for the rest of the body; it is ended, and its answer dropped
            self._disconnect(running)
            self._answer_refusal(error)

    def _answer_refusal(self, error: ServerError) -> None:
        self.transport.write(to_bytes(error, self.server_state.default_headers))
        if self.transport.can_write_eof():  # not over TLS
            self.transport.write_eof()
        self._is_lingering = True
        self._in_head = self._in_body = False
        self._deadline = self.loop.time() + LINGER_S
        self._connections.is_idle(self)
        self.flow.resume_reading()

    def _discard(self, data: bytes) -> None:
        """Count the bytes that come after a refusal, and close the connection when they are too many."""
        self._discarded += len(data)
        if self._discarded > LINGER_BYTES:
            self.transport.abort()
