"""The heads of requests, bounded in size and time, where uvicorn serves with httptools: it bounds neither.

uvicorn asks its configuration for the protocol of each new connection. While our lifespan starts it does not listen
yet, so that a protocol put in place there serves every connection. Under another server, or another protocol, nothing
is changed: h11 has bounds of its own.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

from sekali.errors import HeadTooLarge
from sekali.http.problems import problem_bytes

HEAD_BYTES_MAX: Final = 64 * 1024
"""Of the request line and all headers as far as they have come, or of trailers: what is neither a body nor a head that
is complete. A read in which a body or another head ends is not counted. nginx takes 32 KiB, h11 64 KiB."""
HEAD_S_MAX: Final = 60.0
"""For a request's head to arrive, and for the first byte of a connection: as nginx."""
LINGER_S: Final = 2.0
"""How long what still comes is dropped after a 431, so that its sender gets to see it: a connection that is closed with
unread bytes in it is reset."""
_HTTPTOOLS: Final = "uvicorn.protocols.http.httptools_impl"
_STATUS_LINE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"


def bound_heads(server: object) -> None:
    """Bounds the heads of the connections that `server` will accept, if it is uvicorn with httptools."""
    config: Any = getattr(server, "config", None)
    protocol = getattr(config, "http_protocol_class", None)
    httptools = sys.modules.get(_HTTPTOOLS)
    if httptools is not None and protocol is httptools.HttpToolsProtocol:
        config.http_protocol_class = bounded(protocol)


def bounded(protocol: Any) -> type[asyncio.Protocol]:
    """uvicorn's protocol over httptools, with the bounds."""
    return type("BoundedHeads", (_Bounds, protocol), {})


class _Bounds(asyncio.Protocol):
    """Goes before uvicorn's protocol, whose class and attributes are known at run time only."""

    loop: asyncio.AbstractEventLoop
    transport: Any
    scope: Any
    """Of the head that came last, or is coming."""
    cycle: Any
    """Of the last head that is complete: its request and answer."""
    pipeline: Any

    _has_body = False
    """A part of a body came with what is being received."""
    _head_bytes = 0
    """Since a body or a complete head came."""
    _head_timer: asyncio.TimerHandle | None = None
    """Runs while the client has to send, from the first byte it sends for that. Until then uvicorn's own does."""
    _is_refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def on_body(self, body: bytes) -> None:
        self._has_body = True
        super().on_body(body)  # type: ignore[misc]  # uvicorn's

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        scope_before, cycle_before = self.scope, self.cycle
        self._has_body = False
        super().data_received(data)
        scope, cycle = self.scope, self.cycle
        if self._has_body or cycle is not cycle_before:
            self._head_bytes = 0
        else:
            self._head_bytes = len(data) + (self._head_bytes if scope is scope_before else 0)
        is_in_bounds = self._head_bytes <= HEAD_BYTES_MAX
        if is_in_bounds and cycle is not None and cycle.scope is scope and not cycle.response_complete:
            if self._head_timer is not None:
                self._stop_head_timer()
        elif self._is_upgraded():
            self._stop_head_timer()
        elif not is_in_bounds:
            self._refuse_head()
        elif self._head_timer is None:
            self._start_head_timer()

    def _is_upgraded(self) -> bool:
        """The connection is another protocol's from here on."""
        return self.transport.get_protocol() is not self

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse_head(self) -> None:
        if self.transport.is_closing():
            return
        if self._is_answering() and not self._is_incomplete_and_unanswered():
            self.transport.close()  # a 431 would be taken for the answer to the request before, which may be stored
            return
        self._is_refused = True
        detail = f"The request line and the headers, or trailers, may have {HEAD_BYTES_MAX} bytes together."
        _, headers, content = problem_bytes(HeadTooLarge(detail))
        lines = [b"%b: %b\r\n" % header for header in (*headers, (b"connection", b"close"))]
        self.transport.write(b"".join((_STATUS_LINE, *lines, b"\r\n", content)))
        if self._is_answering():
            self.transport.close()  # or its own answer would come after this one
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._stop_head_timer()
        self._head_timer = self.loop.call_later(LINGER_S, self.transport.close)

    def _is_incomplete_and_unanswered(self) -> bool:
        """The only request under way is the one whose trailers are too large: nothing of it can be stored."""
        cycle = self.cycle
        return cycle.scope is self.scope and cycle.more_body and not cycle.response_started and not self.pipeline

    def _end_slow_head(self) -> None:
        self._head_timer = None
        if self._is_answering():  # what is late is the next request; this one has bounds of its own
            self._start_head_timer()
        elif not self.transport.is_closing():
            self.transport.close()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S_MAX, self._end_slow_head)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
