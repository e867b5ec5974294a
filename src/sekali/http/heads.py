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
"""Of the request line and all headers, as far as they have come. nginx takes 32 KiB, h11 64 KiB."""
HEAD_S_MAX: Final = 60.0
"""For a request's head to arrive, and for the first byte of a connection: as nginx."""
_HTTPTOOLS: Final = "uvicorn.protocols.http.httptools_impl"
_STATUS_LINE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"


def bound_heads(server: object) -> None:
    """Bounds the heads of the connections that `server` will accept, if it is uvicorn with httptools."""
    config: Any = getattr(server, "config", None)
    protocol = getattr(config, "http_protocol_class", None)
    httptools = sys.modules.get(_HTTPTOOLS)
    if httptools is not None and protocol is httptools.HttpToolsProtocol:
        config.http_protocol_class = _bounded(protocol)


def _bounded(protocol: Any) -> type[asyncio.Protocol]:
    class BoundedHeads(protocol):  # type: ignore[misc]  # the class is known at run time only
        """The server's protocol, with the bounds."""

        _head_bytes = 0
        """Since the last head was complete."""
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._head_timer = self.loop.call_later(HEAD_S_MAX, self._end_slow_head)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_head_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            scope, cycle = self.scope, self.cycle
            if scope is None or (cycle is not None and cycle.scope is scope):  # the head is complete, or has not begun
                if self._head_timer is not None:
                    self._stop_head_timer()
                self._head_bytes = 0
                return
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse_head()
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_S_MAX, self._end_slow_head)

        def _refuse_head(self) -> None:
            if self.transport.is_closing():
                return
            detail = f"The request line and the headers may have {HEAD_BYTES_MAX} bytes together."
            _, headers, content = problem_bytes(HeadTooLarge(detail))
            lines = [b"%b: %b\r\n" % header for header in (*headers, (b"connection", b"close"))]
            self.transport.write(b"".join((_STATUS_LINE, *lines, b"\r\n", content)))
            self.transport.close()

        def _end_slow_head(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

        def _stop_head_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

    return BoundedHeads
