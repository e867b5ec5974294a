"""Heads of requests, and trailers, are bounded: in size (431), and in the time they may take."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from sekali.http import heads
from sekali.http.heads import HEAD_BYTES_MAX
from tests.serving import ROOT, Server

MIB: Final = 1024 * 1024
GROWTH_BYTES_MAX: Final = 30 * MIB
BODY = b'{"topic":"t","event_id":"%d","timestamp":"2024-01-01T00:00:00Z","source":"s","payload":{}}'


class ImpatientServer(Server):
    """The same server, which gives a head half a second."""

    def _popen_arguments(self) -> tuple[list[str], Path, dict[str, str]]:
        program = (
            "import uvicorn; from src.main import app; import sekali.http.heads as heads; heads.HEAD_S_MAX = 0.5; "
            f"uvicorn.run(app, port={self.port})"
        )
        return [sys.executable, "-c", program], ROOT, {**self._env, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Server]:
    server = ImpatientServer(tmp_path)
    yield server.start()
    server.kill()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("shared"))
    yield server.start()
    server.kill()


def connected(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def request(number: int, headers: bytes) -> bytes:
    body = BODY % number
    return b"POST /publish HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (
        headers,
        len(body),
        body,
    )


def answer(sock: socket.socket) -> tuple[int, bytes]:
    """Status and content; status 0 when the connection was closed without an answer."""
    received = b""
    with suppress(OSError):
        while not (length := re.search(rb"content-length: (\d+)", received)) or len(
            received.partition(b"\r\n\r\n")[2]
        ) < int(length[1]):
            chunk = sock.recv(65536)
            if not chunk:
                break
            received += chunk
    head, _, content = received.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]) if head else 0, content


ONE_LONG = b"X-Long: " + b"a" * HEAD_BYTES_MAX + b"\r\n"
MANY = b"".join(b"X-%d: a\r\n" % number for number in range(HEAD_BYTES_MAX // 10))


@pytest.mark.parametrize("headers", [ONE_LONG, MANY], ids=["one long", "many"])
def test_a_head_that_does_not_end_in_time_for_its_size_is_431_and_stores_nothing(
    server: Server, headers: bytes
) -> None:
    with connected(server) as sock:
        sock.sendall(b"POST /publish HTTP/1.1\r\nHost: a\r\n" + headers)
        status, content = answer(sock)
    assert status == 431
    assert json.loads(content)["code"] == "head_too_large"
    assert server.call("GET", "/stats")[1]["received"] == 0


def test_heads_of_one_connection_are_counted_one_by_one(server: Server) -> None:
    """Large but legal, again and again on one connection, whole or in pieces."""
    headers = b"X-Long: " + b"a" * (HEAD_BYTES_MAX // 2) + b"\r\n"
    with connected(server) as sock:
        for number in range(8):
            data = request(number, headers)
            for start in range(0, len(data), 7000 if number % 2 else len(data)):
                sock.sendall(data[start : start + (7000 if number % 2 else len(data))])
            assert answer(sock)[0] == 200
    assert server.call("GET", "/stats")[1]["unique_processed"] == 8


def test_a_head_that_takes_too_long_ends_the_connection_and_a_body_does_not(impatient: Server) -> None:
    with connected(impatient) as silent, connected(impatient) as half, connected(impatient) as kept:
        half.sendall(b"POST /publish HTTP/1.1\r\nHos")
        kept.sendall(request(1, b"")[:-10])
        assert silent.recv(10) == b""
        assert half.recv(10) == b""
        kept.sendall(request(1, b"")[-10:])
        assert answer(kept)[0] == 200
    with connected(impatient) as again:
        again.sendall(request(2, b""))
        assert answer(again)[0] == 200
        again.sendall(b"GET /he")
        assert again.recv(10) == b""


def test_an_empty_line_does_not_stop_the_clock(impatient: Server) -> None:
    """A server skips empty lines before a request, and uvicorn's own time for a kept connection ends with any byte."""
    with connected(impatient) as fresh, connected(impatient) as kept:
        fresh.sendall(b"\r\n")
        kept.sendall(request(1, b""))
        assert answer(kept)[0] == 200
        kept.sendall(b"\r\n")
        assert fresh.recv(10) == b""
        assert kept.recv(10) == b""


def test_the_rest_of_a_body_that_nobody_reads_does_not_stop_the_clock(impatient: Server) -> None:
    with connected(impatient) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
        assert answer(sock)[0] == 200
        sock.sendall(b"x")
        assert sock.recv(10) == b""


def test_who_sends_a_long_head_at_once_gets_to_see_the_answer(server: Server) -> None:
    with connected(server) as sock:
        sock.sendall(request(1, b"X-Long: " + b"a" * MIB + b"\r\n"))
        status, content = answer(sock)
    assert (status, json.loads(content)["code"]) == (431, "head_too_large")
    assert server.call("GET", "/stats")[1]["received"] == 0


MANY_TRAILERS = b"".join(b"X-%d: a\r\n" % number for number in range(6_000))
CHUNKED = b"POST /publish HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n", MANY_TRAILERS, id="headers"),
        pytest.param(b"GET / HTTP/1.1\r\nX: ", b"a" * 60_000, id="one header"),
        pytest.param(CHUNKED + b"1\r\n[\r\n0\r\n", MANY_TRAILERS, id="trailers"),
        pytest.param(CHUNKED + b"1\r\n[\r\n0\r\nX: ", b"a" * 60_000, id="one trailer"),
        pytest.param(CHUNKED + b"1;x=", b"a" * 60_000, id="extension of a chunk"),
        pytest.param(b"", b"\r\n" * 30_000, id="empty lines"),
    ],
)
def test_fifty_megabytes_that_are_no_body_cost_no_memory(shared: Server, begin: bytes, more: bytes) -> None:
    assert shared.process is not None
    process = psutil.Process(shared.process.pid)
    before = process.memory_info().rss
    peak = 0
    with connected(shared) as sock:
        sock.sendall(begin)
        sent = 0
        with suppress(OSError):  # refused
            while sent < 50 * MIB:
                sock.sendall(more)
                sent += len(more)
                peak = max(peak, process.memory_info().rss)
    print(f"{sent / MIB:.0f} MiB sent, {before / MIB:.0f} to {peak / MIB:.0f} MiB")
    assert peak - before < GROWTH_BYTES_MAX
    assert shared.call("GET", "/stats")[1]["received"] == 0


class Transport(asyncio.Transport):
    """What the protocol says to it."""

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._protocol = protocol
        self.written = b""
        self._is_closing = False

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self._is_closing = True

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def can_write_eof(self) -> bool:
        return False


class Upgraded(asyncio.Protocol):
    """Stands for a library of WebSockets."""

    def __init__(self, **_: Any) -> None: ...


def fed(chunks: list[bytes], then: Callable[[Transport], None], wait_s: float = 0.0) -> None:
    """Hands one connection's protocol these reads, of an application that never answers, and looks at what came of it.

    Which bytes come in one read is up to the kernel, so that a real connection would not show it every time.
    """

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        config = uvicorn.Config(silent, ws=Upgraded, http="httptools", log_config=None)
        config.load()
        made: Any = heads.bounded(HttpToolsProtocol)
        protocol = made(config, ServerState(), {}, asyncio.get_running_loop())
        transport = Transport(protocol)
        protocol.connection_made(transport)
        for chunk in chunks:
            protocol.data_received(chunk)
        if wait_s:
            await asyncio.sleep(wait_s)  # of the loop's own clock: a timer that is due earlier has been called by then
        then(transport)
        for task in protocol.tasks:
            task.cancel()

    asyncio.run(run())


def nothing_happened(transport: Transport) -> None:
    assert (transport.written, transport.is_closing()) == (b"", False)


def closed_without_an_answer(transport: Transport) -> None:
    assert (transport.written, transport.is_closing()) == (b"", True)


def test_a_body_is_not_counted_as_part_of_the_head_that_follows_it() -> None:
    body = b"a" * (2 * HEAD_BYTES_MAX)
    head = b"POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    fed([head, body + b"GET /he"], nothing_happened)
    fed([head + body + b"GET /he"], nothing_happened)


def test_a_long_head_is_not_the_answer_to_the_request_before_it() -> None:
    """That one may have been stored, and 431 says that nothing was."""
    publish = request(1, b"")
    fed([publish, b"GET / HTTP/1.1\r\nX: " + b"a" * HEAD_BYTES_MAX], closed_without_an_answer)


@pytest.mark.parametrize("before", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"], ids=["first", "after a request"])
def test_a_connection_that_becomes_a_websocket_is_left_alone(before: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "HEAD_S_MAX", 0.01)
    upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

    def is_upgraded(transport: Transport) -> None:
        assert isinstance(transport.get_protocol(), Upgraded)
        nothing_happened(transport)

    fed([before + upgrade], is_upgraded, wait_s=0.05)


def test_half_a_head_does_not_end_the_answer_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "HEAD_S_MAX", 0.01)
    fed([b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /he"], nothing_happened, wait_s=0.05)
