"""Heads of requests are bounded: in size (431), and in the time they may take."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sekali.http.heads import HEAD_BYTES_MAX
from tests.serving import ROOT, Server

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
