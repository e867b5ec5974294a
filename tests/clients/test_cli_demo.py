"""`sekali demo` must be able to fail: its checks against servers that lose, double or alter events."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from sekali.cli import demo
from sekali.client import ONCE, Client
from sekali.errors import ServerUnreachable
from tests.clients.commands import invoke

STATS = {
    "topics": [],
    "topics_total": 3,
    "uptime_seconds": 1.0,
    "queue_depth": 0,
    "workers": 2,
    "db_path": "x",
    "conflicts": 0,
}


def served(monkeypatch: pytest.MonkeyPatch, events: list[dict[str, Any]], received: int) -> None:
    """What the demo reads back."""
    lines = [
        json.dumps({**event, "offset": offset, "received_at": "2024-01-01T00:00:00.000000Z"})
        for offset, event in enumerate(events, 1)
    ]
    stats = {**STATS, "received": received, "unique_processed": len(events)}
    stats["duplicate_dropped"] = received - len(events)

    def handler(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/stats":
            return httpx2.Response(200, json=stats)
        return httpx2.Response(200, content="\n".join(lines).encode())

    monkeypatch.setattr(demo, "Client", lambda url: Client(url, transport=httpx2.MockTransport(handler)))


def check(monkeypatch: pytest.MonkeyPatch, sent: list[dict[str, Any]], stored: list[dict[str, Any]]) -> demo.Check:
    served(monkeypatch, stored, 2 * len(sent))
    return demo.compare("http://sekali.test", sent)


def test_all_stored_once_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = demo.make_events(300)
    found = check(monkeypatch, sent, sent[::-1])
    assert found.is_clean
    assert (found.stored, found.duplicates, found.lost, found.doubled) == (300, 300, 0, 0)


def test_a_lost_event_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = demo.make_events(300)
    found = check(monkeypatch, sent, sent[1:])
    assert (found.is_clean, found.lost) == (False, 1)


def test_a_doubled_event_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = demo.make_events(300)
    found = check(monkeypatch, sent, [*sent, sent[7], sent[7]])
    assert (found.is_clean, found.doubled) == (False, 2)


def test_an_altered_event_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = demo.make_events(300)
    found = check(monkeypatch, sent, [*sent[:-1], {**sent[-1], "payload": {}}])
    assert (found.is_clean, found.foreign) == (False, 1)


def test_the_exit_status_tells_of_a_loss_and_the_store_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo.tempfile, "mkdtemp", lambda **_: str(tmp_path))
    monkeypatch.setattr(demo.Show, "run", lambda *_: demo.Check(2, 1, 1, 0, 0, 0, 4, 3))
    done = invoke("demo")
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr
    assert tmp_path.exists()


def test_a_server_that_does_not_start_is_told_with_its_own_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(demo.tempfile, "mkdtemp", lambda **_: str(tmp_path))
    monkeypatch.setenv("SEKALI_DRAIN_S", "-1")
    done = invoke("demo", "--events", "100")
    assert done.returncode == 1
    assert "SEKALI_DRAIN_S" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="Windows ends a process without asking it")
@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGINT, signal.SIGINT]])
def test_ended_early_it_leaves_nothing_behind(
    start: Callable[..., subprocess.Popen[bytes]], numbers: list[signal.Signals]
) -> None:
    process = start("demo", "--events", "100000", PYTHONUNBUFFERED="1")
    assert process.stdout is not None
    first = process.stdout.readline().decode()
    url, folder = re.findall(r"(http://\S+), its store in (\S+)", first)[0]
    assert b"up after" in process.stdout.readline()
    for number in numbers:
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    assert not Path(folder).exists()
    with Client(url, retry=ONCE) as client, pytest.raises(ServerUnreachable):
        client.check()
