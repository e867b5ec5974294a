"""The main job on input that nobody made for a test: the system's own logs, and GitHub's webhooks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sekali.client import Client, EventFilter
from tests.clients.commands import ROOT, figures, run
from tests.serving import Server

SYSTEM_LOGS = [
    "/var/log/dpkg.log",
    "/var/log/alternatives.log",
    "/var/log/apt/history.log",
    "/var/log/apt/term.log",
    "/var/log/bootstrap.log",
    "/var/log/install.log",  # macOS
]
SYSTEM_COMMANDS = (["dpkg", "--list"], ["dmesg"], [sys.executable, "-m", "pip", "list"])
"""Where there is no such log, the first of these that says anything."""

OCTOKIT = ROOT / "scripts" / "octokit_events.py"
OCTOKIT_EVENTS = 329


def system_logs(folder: Path) -> list[Path]:
    found = [Path(name) for name in SYSTEM_LOGS if os.access(name, os.R_OK) and Path(name).stat().st_size]
    if found:
        return found
    for command in SYSTEM_COMMANDS:
        try:
            said = subprocess.run(command, capture_output=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            continue
        if said:
            (folder / "system.log").write_bytes(said)
            return [folder / "system.log"]
    raise AssertionError("this system has no log, and no command that lists anything")


def lines_in(log: Path) -> list[bytes]:
    lines = log.read_bytes().split(b"\n")
    return [line.removesuffix(b"\r") for line in lines]


def test_the_systems_own_logs_are_stored_line_by_line_once(server: Server, tmp_path: Path) -> None:
    for log in system_logs(tmp_path):
        topic = f"os.{log.stem}"
        first = run("publish", str(log), "--topic", topic, url=server.url)
        assert first.returncode == 0, first.stderr
        stored = figures(first.stdout)
        assert stored["stored"] == stored["read"] > 0
        again = figures(run("publish", str(log), "--topic", topic, url=server.url).stdout)
        # A package may be installed meanwhile: then the log has grown.
        assert (again["duplicates"], again["stored"]) == (stored["read"], again["read"] - stored["read"])
        lines = lines_in(log)
        with Client(server.url) as client:
            for event in client.events(EventFilter(topics=(topic,))):
                line = lines[event.payload["line"] - 1]
                if not event.payload.get("escaped"):
                    assert event.payload["message"].encode() == line
        print(f"{log}: {stored['read']} lines, then {again['duplicates']} duplicates")


@pytest.mark.slow
def test_githubs_webhooks_sent_three_times_shuffled_are_stored_once_and_unchanged(server: Server, seed: int) -> None:
    if os.environ.get("SEKALI_OFFLINE") == "1":
        pytest.skip("SEKALI_OFFLINE=1: the webhooks come from npm")
    command = [sys.executable, str(OCTOKIT), "--times", "3", "--shuffle", str(seed)]
    made = subprocess.run(command, capture_output=True, check=False)
    hint = "Install Node.js with npm, or set SEKALI_OFFLINE=1 to do without this test."
    assert made.returncode == 0, f"{made.stderr.decode()}\n{hint}"
    done = run("publish", "-", url=server.url, stdin=made.stdout)
    print(f"seed {seed}: {done.stdout}")
    assert (done.returncode, done.stderr) == (0, "")
    expected = {"read": 3 * OCTOKIT_EVENTS, "stored": OCTOKIT_EVENTS, "duplicates": 2 * OCTOKIT_EVENTS}
    assert figures(done.stdout) == {**expected, "conflicts": 0, "rejected": 0}

    sent = {
        (event["topic"], event["event_id"]): event
        for event in (json.loads(line, parse_float=Decimal) for line in made.stdout.splitlines())
    }
    with Client(server.url) as client:
        stored = list(client.events())
    assert len(stored) == len(sent) == OCTOKIT_EVENTS
    for event in stored:
        original: dict[str, Any] = sent[event.topic, event.event_id]
        assert event.payload == original["payload"]
        assert (event.timestamp, event.source) == (original["timestamp"], original["source"])
