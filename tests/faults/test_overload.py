"""I6: memory is bounded, and slow or idle senders hold up nobody.

Beside normal publishing a server is given idle connections by the thousand, bodies that trickle in, and many times what
its intake may hold. Resident memory is measured.
"""

from __future__ import annotations

import contextlib
import random
import resource
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from tests.faults.clients import Clients, check
from tests.faults.evidence import Evidence
from tests.serving import Server
from tests.support.history import History
from tests.support.stores import wait_for

MIB: Final = 1024 * 1024
IDLE: Final = 1_000
TRICKLING: Final = 100
SINGLE_S_MAX: Final = 1.0
GROWTH_BYTES_MAX: Final = 100 * MIB

MakeServer = Callable[..., Server]


@pytest.fixture
def many_files() -> None:
    """As many sockets as the tests need, on this side."""
    if sys.platform == "win32":
        pytest.skip("no limit on open files to raise there")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * (IDLE + TRICKLING)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            pytest.skip(f"only {hard} files may be open")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def resident_bytes(server: Server) -> int:
    assert server.process is not None
    return int(psutil.Process(server.process.pid).memory_info().rss)


class Watched:
    """The largest resident memory of a server within the `with` block."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = threading.Event()
        self.before = self.peak = resident_bytes(server)
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            self.peak = max(self.peak, resident_bytes(self._server))

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@contextlib.contextmanager
def connections(server: Server, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as opened:
        address = ("127.0.0.1", server.port)
        yield [opened.enter_context(socket.create_connection(address, timeout=10)) for _ in range(count)]


def event(number: int) -> dict[str, Any]:
    return {
        "topic": "load",
        "event_id": str(number),
        "timestamp": "2024-01-01T00:00:00Z",
        "source": "s",
        "payload": {"n": number},
    }


def answer_of(sock: socket.socket) -> bytes:
    """What came before the connection was closed, or reset."""
    answer = b""
    with contextlib.suppress(OSError):
        while chunk := sock.recv(65536):
            answer += chunk
    return answer


@pytest.mark.slow
def test_idle_and_trickling_senders_hold_up_nobody(
    make_server: MakeServer, many_files: None, rng: random.Random, tmp_path: Path, evidence: Evidence
) -> None:
    server = make_server(tmp_path, SEKALI_BODY_DEADLINE_S="2").start()
    clients = Clients(4, server.port, tmp_path, rng.randrange(1 << 30))
    probe = History(tmp_path / "probe.history", "probe")
    head = b"POST /publish HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n["
    slowest_s = 0.0
    try:
        with connections(server, IDLE), connections(server, TRICKLING) as trickling, Watched(server) as memory:
            for sock in trickling:
                sock.sendall(head)
            clients.start()
            for number in range(50):
                begun_s = time.monotonic()
                call = probe.call([event(number)])
                probe.answer(call, *server.call("POST", "/publish", event(number)))
                slowest_s = max(slowest_s, time.monotonic() - begun_s)
                for sock in trickling:
                    with contextlib.suppress(OSError):  # closed as it was too slow
                        sock.send(b" ")
            answers = Counter(answer_of(sock)[:12] for sock in trickling)
            clients.stop()
        counts = check(server, clients.attempts())
    finally:
        clients.close()
        probe.close()
    print(f"{memory.before / MIB:.0f} to {memory.peak / MIB:.0f} MiB, slowest {slowest_s:.2f} s, {answers}, {counts}")
    assert set(answers) <= {b"HTTP/1.1 408", b""}, answers
    assert answers[b"HTTP/1.1 408"] > TRICKLING // 2, answers
    assert slowest_s < SINGLE_S_MAX
    assert memory.peak - memory.before < GROWTH_BYTES_MAX
    evidence.note("I6", f"{IDLE:,} idle and {TRICKLING} trickling connections beside normal load", 1)


@pytest.mark.slow
def test_ten_times_what_the_intake_holds_is_refused_and_costs_no_memory(
    make_server: MakeServer, rng: random.Random, tmp_path: Path, evidence: Evidence
) -> None:
    server = make_server(tmp_path, SEKALI_INTAKE_EVENTS_MAX="500").start()
    clients = Clients(40, server.port, tmp_path, rng.randrange(1 << 30))
    try:
        with Watched(server) as memory:
            clients.start()
            wait_for(lambda: clients.answers("overloaded") > 200, "requests are refused")
            clients.stop()
        counts = check(server, clients.attempts())
    finally:
        clients.close()
    print(f"{memory.before / MIB:.0f} to {memory.peak / MIB:.0f} MiB, {counts}")
    assert counts["acknowledged"] > 50, counts
    assert counts["unknown"] == 0, counts
    assert memory.peak - memory.before < GROWTH_BYTES_MAX
    evidence.note("I6", "40 clients against an intake of 500 events: 200 or 503, memory flat", counts["attempts"])
