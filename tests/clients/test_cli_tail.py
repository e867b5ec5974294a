"""`sekali tail` and `sekali stats` against a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.commands import COMMAND, environment, run
from tests.serving import Server

Start = Callable[..., subprocess.Popen[bytes]]
posix_only = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo terminal")


def publish(server: Server, *numbers: int, **more: Any) -> None:
    events = [
        {"topic": "t", "event_id": f"e-{number}", "timestamp": "2024-01-01T00:00:00Z", "source": "s", "payload": {}}
        for number in numbers
    ]
    status, answer = server.call("POST", "/publish", [{**event, **more} for event in events])
    assert status == 200, answer


def ids(text: str) -> list[str]:
    return [json.loads(line)["event_id"] for line in text.splitlines()]


def on_terminal(*arguments: str, url: str, **env: str) -> bytes:
    """What the command writes to a terminal."""
    import pty

    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        env={**environment(SEKALI_URL=url, TERM="xterm-256color", COLUMNS="120"), **env},
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(master)
    assert process.wait() == 0, seen
    return seen


def test_it_shows_the_last_events_in_order(server: Server) -> None:
    publish(server, *range(30))
    shown = run("tail", "--no-follow", url=server.url)
    assert [line.split()[0] for line in shown.stdout.splitlines()] == [str(offset) for offset in range(21, 31)]
    shown = run("tail", "-n", "3", "--no-follow", "--json", url=server.url)
    assert ids(shown.stdout) == ["e-27", "e-28", "e-29"]
    assert run("tail", "-n", "0", "--no-follow", url=server.url).stdout == ""
    everything = run("tail", "--from-start", "--no-follow", "--json", url=server.url)
    assert ids(everything.stdout) == [f"e-{number}" for number in range(30)]


def test_json_is_what_the_server_sends_byte_for_byte(server: Server) -> None:
    publish(server, 1, payload={"price": 1.5, "text": "é\x1b[31m\u009b\u202e"}, extra="x")
    shown = run("tail", "--no-follow", "--json", url=server.url)
    assert json.loads(shown.stdout) == server.call("GET", "/events")[1][0]


def test_many_last_events_come_in_several_pages(server: Server) -> None:
    publish(server, *range(2500))
    shown = run("tail", "-n", "2200", "--no-follow", "--json", url=server.url)
    assert ids(shown.stdout) == [f"e-{number}" for number in range(300, 2500)]


def test_topics_and_times_select(server: Server) -> None:
    publish(server, 1, topic="a")
    publish(server, 2, topic="b")
    publish(server, 3, topic="c")
    assert ids(run("tail", "-t", "a", "-t", "c", "--no-follow", "--json", url=server.url).stdout) == ["e-1", "e-3"]
    assert ids(run("tail", "--since", "1h", "--no-follow", "--json", url=server.url).stdout) == ["e-1", "e-2", "e-3"]
    assert run("tail", "--since", "2100-01-01T00:00:00Z", "--no-follow", "--json", url=server.url).stdout == ""
    assert run("tail", "-t", "nothing", "--no-follow", url=server.url).stdout == ""
    refused = run("tail", "--since", "yesterday", "--no-follow", url=server.url)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert run("tail", "--since", "1h", "--from-start", url=server.url).returncode == 2


@pytest.mark.parametrize("topic", [[], ["--topic", "t"]])
def test_following_goes_over_a_killed_server_without_gap_or_repeat(
    server: Server, start: Start, topic: list[str]
) -> None:
    if not topic:
        publish(server, 0)
    process = start("tail", "--json", "--interval", "0.05", *topic, url=server.url)
    assert process.stdout is not None
    assert process.stderr is not None
    shown: list[str] = []
    if not topic:
        shown += ids(process.stdout.readline().decode())
    for number in range(1, 7):
        if number in (3, 5):
            server.kill()
            assert b"waiting for it" in process.stderr.readline()
            server.start()
            assert b"connected again" in process.stderr.readline()
        publish(server, number)
        publish(server, number)
        publish(server, 100 + number, topic="other") if topic else None
        shown += ids(process.stdout.readline().decode())
    assert shown == [f"e-{number}" for number in range(1 if topic else 0, 7)]


@posix_only
def test_ctrl_c_ends_following_with_130(server: Server, start: Start) -> None:
    publish(server, 1)
    process = start("tail", "--json", url=server.url)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.stderr is not None
    assert process.stderr.read() == b""


@posix_only
def test_a_reader_that_leaves_is_no_traceback(server: Server, start: Start) -> None:
    publish(server, *range(5000))
    process = start("tail", "--from-start", "--no-follow", "--json", url=server.url)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.wait(20)
    assert process.stderr is not None
    assert process.stderr.read() == b""


NASTY = "\x1b[2J\x1b]0;owned\x07\r\x9b31m\u202e"


@posix_only
@pytest.mark.parametrize("arguments", [["tail", "--no-follow"], ["tail", "--no-follow", "--json"], ["stats"]])
def test_nothing_published_can_steer_the_terminal(server: Server, arguments: list[str]) -> None:
    publish(server, 1, payload={"line": 1, "message": NASTY})
    publish(server, 2, payload={"x": NASTY, "y": "[bold]"}, topic="t\u202e\u2066", source="\u202e")
    seen = on_terminal(*arguments, url=server.url, NO_COLOR="1").decode()
    plain = seen.replace("\r\n", "\n")
    bad = [character for character in "\x1b\x07\r\x9b\u202e\u2066" if character in plain]
    assert bad == [], plain


@posix_only
def test_colour_is_for_terminals_only(server: Server) -> None:
    publish(server, 1)
    for arguments in (["stats"], ["tail", "--no-follow"]):
        assert b"\x1b[" in on_terminal(*arguments, url=server.url)
        assert b"\x1b[" not in on_terminal(*arguments, url=server.url, NO_COLOR="1")
        assert "\x1b" not in run(*arguments, url=server.url).stdout


def test_stats_shows_the_counters_and_the_largest_topics(server: Server) -> None:
    publish(server, *range(5), topic="small")
    publish(server, *range(9), topic="large")
    publish(server, *range(9), topic="large")
    shown = run("stats", "--top", "1", url=server.url)
    assert shown.returncode == 0
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert ["received", "23"] in rows
    assert ["unique", "14", "stored,", "each", "once"] in rows
    assert any(row[:4] == ["large", "9", "9", "0"] for row in rows)
    assert not any(row[:1] == ["small"] for row in rows)
    as_json = json.loads(run("stats", "--json", url=server.url).stdout)
    assert (as_json["received"], as_json["db_path"]) == (23, str(server.db_path))


def test_watching_stats_goes_on_looking(server: Server, start: Start) -> None:
    process = start("stats", "--json", "--watch", "--interval", "0.1", url=server.url)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["received"] == 0
    publish(server, 1)
    for line in iter(process.stdout.readline, b""):
        if json.loads(line)["received"] == 1:
            return
    pytest.fail(f"it ended with {process.wait()}")


def test_a_terminal_without_unicode_is_written_escapes(server: Server) -> None:
    publish(server, 1, topic="日本")
    shown = run("tail", "--no-follow", url=server.url, PYTHONIOENCODING="ascii")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\\u65e5\\u672c" in shown.stdout
