"""I2, I4, I10, I11: clients that race and hang up, readers that follow, copies and exits in the middle of it all."""

from __future__ import annotations

import http.client
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sekali.store.backup import back_up
from tests.faults.clients import Clients, Poller, check, read_back
from tests.faults.evidence import Evidence
from tests.serving import Server
from tests.support.history import Attempt, check_history
from tests.support.stores import wait_for

CLIENTS = 8
EXIT_S_MAX = 10.0
IDLE_CONNECTIONS = 100
STILL_LOOKS = 50

MakeServer = Callable[..., Server]


def work_for(clients: Clients, seconds: float) -> None:
    """Lets them publish for so long: nothing to wait for, by intention."""
    clients.start()
    threading.Event().wait(seconds)
    clients.stop()


def wait_until_still(server: Server) -> None:
    """Until the requests of those who hung up are done with: the counters stay as they are for many looks."""
    looks: list[dict[str, int]] = [{}]

    def is_still() -> bool:
        stats = server.call("GET", "/stats")[1]
        seen = {"received": stats["received"], "queue_depth": stats["queue_depth"]}
        if seen != looks[-1]:
            looks.clear()
        looks.append(seen)
        return len(looks) > STILL_LOOKS and seen["queue_depth"] == 0

    wait_for(is_still, "the server is done with what it was sent")


def test_clients_that_race_for_the_same_ids_and_hang_up(
    server: Server, rng: random.Random, tmp_path: Path, evidence: Evidence
) -> None:
    clients = Clients(CLIENTS, server.port, tmp_path, rng.randrange(1 << 30), drops=0.3)
    try:
        work_for(clients, 2.0)
        wait_until_still(server)
        counts = check(server, clients.attempts())
    finally:
        clients.close()
    assert min(counts["acknowledged"], counts["unknown"]) > 20, counts
    evidence.note("I2", "clients race for the same ids with other payloads, hang up and send again", counts["attempts"])


@pytest.mark.slow
def test_what_a_reader_got_stays_as_it_was_and_nothing_comes_before_it(
    make_server: MakeServer, rng: random.Random, tmp_path: Path, evidence: Evidence
) -> None:
    """Readers follow through kills and restarts; what each got is the log up to its cursor, without a gap."""
    server = make_server(tmp_path).start()
    clients = Clients(4, server.port, tmp_path, rng.randrange(1 << 30))
    pollers = [Poller(server, limit) for limit in (1, 50, 1000)]
    try:
        for _ in range(3):
            work_for(clients, 0.5)
            server.kill()
            server.start()
        stored = read_back(server)
    finally:
        for poller in pollers:
            poller.stop()
        clients.close()
    check_history(clients.attempts(), stored)
    for poller in pollers:
        assert poller.events == stored.events[: len(poller.events)]
    assert len(pollers[2].events) > 100
    evidence.note("I4", "readers follow through kills: no gap, no change, nothing below their cursor", len(pollers))


@pytest.mark.slow
def test_a_copy_made_under_load_holds_what_was_answered_for_before(
    server: Server, make_server: MakeServer, rng: random.Random, tmp_path: Path, evidence: Evidence
) -> None:
    clients = Clients(4, server.port, tmp_path, rng.randrange(1 << 30))
    copies: list[tuple[int, Path]] = []
    try:
        clients.start()
        for number in range(3):
            threading.Event().wait(0.3)
            target = tmp_path / f"copy-{number}" / "store.db"
            target.parent.mkdir()
            copies.append((time.monotonic_ns(), target))
            back_up(server.db_path, target)
        clients.stop()
        attempts = clients.attempts()
    finally:
        clients.close()
    for begun_ns, target in copies:
        copy = make_server(target.parent).start()
        counts = check(copy, [_as_of(attempt, begun_ns) for attempt in attempts])
        copy.kill()
        assert counts["acknowledged"] > 5, counts
    evidence.note("I11", "backup under load, restored and served", len(copies))


def _as_of(attempt: Attempt, begun_ns: int) -> Attempt:
    """What was not answered by then may be in the copy, or not."""
    if attempt.answered_at is not None and attempt.answered_at < begun_ns:
        return attempt
    return Attempt(attempt.name, attempt.sent_at, attempt.events)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM handler runs there")
def test_sigterm_with_100_open_connections_under_load(
    make_server: MakeServer, rng: random.Random, tmp_path: Path, evidence: Evidence
) -> None:
    server = make_server(tmp_path).start()
    idle = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=EXIT_S_MAX) for _ in range(IDLE_CONNECTIONS)]
    clients = Clients(CLIENTS, server.port, tmp_path, rng.randrange(1 << 30))
    try:
        for number, connection in enumerate(idle):
            connection.connect()
            if number % 2:  # kept alive after an answer
                connection.request("GET", "/healthz")
                connection.getresponse().read()
        clients.start()
        threading.Event().wait(0.5)
        begun_s = time.monotonic()
        code = server.terminate(timeout_s=EXIT_S_MAX)
        took_s = time.monotonic() - begun_s
        clients.stop()
        assert code in (0, 128 + signal.SIGTERM, -signal.SIGTERM), server.log
        assert "Traceback" not in server.log
        server.start()
        counts = check(server, clients.attempts())
        assert counts["acknowledged"] > 10, counts
        print(f"ended in {took_s:.2f} s")
    finally:
        clients.close()
        for connection in idle:
            connection.close()
    evidence.note("I10", "SIGTERM with 100 open connections under load: exit within 10 s, every answer true", 1)
