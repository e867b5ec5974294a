"""I1a: what was acknowledged survives kill -9, again and again, also in the middle of a recovery. And I10, SIGTERM.

A real server, four clients, SIGKILL at a random moment; after every restart everything is read back and checked
against what the clients wrote down.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.clients import Clients, check
from tests.faults.evidence import Evidence
from tests.serving import ROOT, Server
from tests.support.history import HistoryBroken

CLIENTS = 4
LONG_STORES = int(os.environ.get("SEKALI_TEST_KILLED_STORES", "4"))
"""`make faults` kills thirty."""
KILL_AFTER_MS = (50, 1500)
KILL_RECOVERY_AFTER_MS = (0, 900)
KILL_RECOVERY_EVERY = 5
EXIT_S_MAX = 10.0


class PlantedServer(Server):
    """The same server with a bug planted in it, see planted.py."""

    def __init__(self, folder: Path, plant: str) -> None:
        super().__init__(folder, {"SEKALI_TEST_PLANT": plant})

    def start(self, *, wait: bool = True) -> Server:
        command = [sys.executable, "-m", "uvicorn", "tests.faults.planted:app", "--port", str(self.port)]
        environment = {**self._env, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        if wait:
            self.wait_ready()
        return self


def wait_ms(rng: random.Random, span_ms: tuple[int, int]) -> None:
    """The random moment of a kill: nothing to wait for, by intention."""
    threading.Event().wait(rng.randint(*span_ms) / 1000)


def kill_again_and_again(server: Server, rng: random.Random, folder: Path, cycles: int) -> dict[str, int]:
    """Counts of the last check. Raises HistoryBroken at the first broken promise."""
    clients = Clients(CLIENTS, server.port, folder, rng.randrange(1 << 30))
    counts: dict[str, int] = {}
    try:
        server.start()
        for cycle in range(1, cycles + 1):
            clients.start()
            wait_ms(rng, KILL_AFTER_MS)
            server.kill()
            clients.stop()
            if cycle % KILL_RECOVERY_EVERY == 0:
                server.start(wait=False)
                wait_ms(rng, KILL_RECOVERY_AFTER_MS)
                server.kill()
            server.start()
            counts = check(server, clients.attempts())
    finally:
        clients.close()
        server.kill()
    return counts


def test_acknowledged_events_survive_kill_9(server_on: Server, rng: random.Random, tmp_path: Path) -> None:
    counts = kill_again_and_again(server_on, rng, tmp_path, cycles=3)
    assert counts["acknowledged"] > 20, counts


def test_acknowledged_events_survive_kill_9_in_the_middle_of_a_recovery(
    server_on: Server, rng: random.Random, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "KILL_RECOVERY_EVERY", 1)
    counts = kill_again_and_again(server_on, rng, tmp_path, cycles=1)
    assert counts["acknowledged"] > 5, counts


@pytest.mark.slow
@pytest.mark.parametrize("store_no", range(LONG_STORES))
def test_acknowledged_events_survive_kill_9_for_a_long_time(
    store_no: int, server_on: Server, rng: random.Random, tmp_path: Path, evidence: Evidence
) -> None:
    """Stores of ten kills each: all is read back after every one, so one long store would take too long."""
    counts = kill_again_and_again(server_on, rng, tmp_path, cycles=10)
    print(store_no, counts)
    assert counts["acknowledged"] > 100, counts
    evidence.note("I1a", "kill -9 under load, every fifth time again while it recovers", 10)


@pytest.mark.parametrize(
    "plant",
    [
        "answer_before_commit",
        pytest.param("dedup_in_memory_only", marks=pytest.mark.slow),
        pytest.param("commit_trusts_prepare", marks=pytest.mark.slow),
    ],
)
def test_the_harness_catches_a_planted_bug(plant: str, rng: random.Random, tmp_path: Path) -> None:
    with pytest.raises(HistoryBroken) as caught:
        kill_again_and_again(PlantedServer(tmp_path, plant), rng, tmp_path, cycles=10)
    print(caught.value)


# SIGTERM


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM handler runs there")
def test_sigterm_drains_under_load_and_every_answer_is_true(
    server_on: Server, rng: random.Random, tmp_path: Path
) -> None:
    clients = Clients(CLIENTS, server_on.port, tmp_path, rng.randrange(1 << 30))
    try:
        server_on.start()
        for _ in range(2):
            clients.start()
            wait_ms(rng, (300, 800))
            begun = time.monotonic()
            code = server_on.terminate(timeout_s=EXIT_S_MAX)
            took_s = time.monotonic() - begun
            clients.stop()
            assert took_s < EXIT_S_MAX
            assert code in (0, 128 + signal.SIGTERM, -signal.SIGTERM), server_on.log
            server_on.start()
            counts = check(server_on, clients.attempts())
            assert counts["acknowledged"] > 10, counts
        assert "Traceback" not in server_on.log
    finally:
        clients.close()


@pytest.fixture
def server_on(tmp_path: Path) -> Iterator[Server]:
    """A server not yet started; killed with the test."""
    server = Server(tmp_path)
    yield server
    server.kill()
