"""`sekali tail` and `sekali stats` against a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from tests.clients.commands import COMMAND, environment, invoke, run
from tests.serving import Server

Start = Callable[..., subprocess.Popen[bytes]]
posix_only = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo terminal")


def publish(server: Server, topic: str, *numbers: int, **more: Any) -> None:
    events = [
        {"topic": topic, "event_id": f"e-{number}", "timestamp": "2024-01-01T00:00:00Z", "source": "s", "payload": {}}
        for number in numbers
    ]
    status, answer = server.call("POST", "/publish", [{**event, **more} for event in events])
    assert status == 200, answer


def tail(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return invoke("tail", "--no-follow", *arguments, url=server.url)


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


def test_it_shows_the_last_events_in_order(shared_server: Server, topic: str) -> None:
    publish(shared_server, topic, *range(30))
    shown = tail(shared_server, "-t", topic)
    offsets = [int(line.split()[0]) for line in shown.stdout.splitlines()]
    assert offsets == list(range(offsets[0], offsets[0] + 10))
    assert ids(tail(shared_server, "-n", "3", "--json").stdout) == ["e-27", "e-28", "e-29"]
    assert tail(shared_server, "-n", "0").stdout == ""
    everything = tail(shared_server, "--from-start", "--json", "-t", topic)
    assert ids(everything.stdout) == [f"e-{number}" for number in range(30)]


def test_json_is_what_the_server_sends(shared_server: Server, topic: str) -> None:
    publish(shared_server, topic, 1, payload={"price": 1.5, "text": "é\x1b[31m\u009b\u202e"}, extra="x")
    shown = tail(shared_server, "-n", "1", "--json")
    assert json.loads(shown.stdout) == server_answer(shared_server, topic)


def server_answer(server: Server, topic: str) -> Any:
    return server.call("GET", f"/events?topic={quote(topic)}")[1][0]


def test_many_last_events_come_in_several_pages(shared_server: Server, topic: str) -> None:
    publish(shared_server, topic, *range(2500))
    shown = tail(shared_server, "-n", "2200", "--json")
    assert ids(shown.stdout) == [f"e-{number}" for number in range(300, 2500)]


def test_topics_and_times_select(shared_server: Server, topic: str) -> None:
    a, b, c = (f"{topic}/{letter}" for letter in "abc")
    for number, name in enumerate((a, b, c)):
        publish(shared_server, name, number)
    assert ids(tail(shared_server, "-t", a, "-t", c, "--json").stdout) == ["e-0", "e-2"]
    assert ids(tail(shared_server, "-t", b, "-t", c, "--since", "1h", "--json").stdout) == ["e-1", "e-2"]
    assert tail(shared_server, "--since", "2100-01-01T00:00:00Z").stdout == ""
    assert tail(shared_server, "-t", "nothing there").stdout == ""
    refused = tail(shared_server, "--since", "yesterday")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert tail(shared_server, "--since", "1h", "--from-start").returncode == 2


def test_a_number_of_events_counts_among_those_since_then(shared_server: Server, topic: str) -> None:
    publish(shared_server, topic, *range(30))
    shown = ("-t", topic, "--json")
    middle = json.loads(tail(shared_server, *shown, "-n", "1").stdout)["received_at"]
    publish(shared_server, topic, 30, 31)
    assert len(ids(tail(shared_server, *shown, "--since", middle).stdout)) == 32
    assert ids(tail(shared_server, *shown, "--since", middle, "-n", "3").stdout) == ["e-29", "e-30", "e-31"]
    assert ids(tail(shared_server, *shown, "--since", "2100-01-01T00:00:00Z", "-n", "3").stdout) == []
    refused = tail(shared_server, "--from-start", "-n", "3")
    assert (refused.returncode, "-n and --from-start" in refused.stderr) == (2, True)
    assert "with --since, the last N of those" in " ".join(invoke("tail", "--help").stdout.split())


def test_following_goes_over_killed_servers_without_gap_or_repeat(server: Server, start: Start) -> None:
    everything = start("tail", "--json", "--interval", "0.05", url=server.url)
    of_topic = start("tail", "--json", "--interval", "0.05", "--topic", "t", url=server.url)
    shown: dict[int, list[str]] = {everything.pid: [], of_topic.pid: []}
    for number in range(1, 7):
        if number in (3, 5):
            server.kill()
            for process in (everything, of_topic):
                assert process.stderr is not None
                assert b"trying again" in process.stderr.readline()
            server.start()
            for process in (everything, of_topic):
                assert process.stderr is not None
                assert b"the server answers again" in process.stderr.readline()
        publish(server, "t", number)
        publish(server, "t", number)
        publish(server, "other", number)
        for process, lines in ((everything, 2), (of_topic, 1)):
            assert process.stdout is not None
            shown[process.pid] += [process.stdout.readline().decode() for _ in range(lines)]
    topics = [json.loads(line)["topic"] for line in shown[everything.pid]]
    assert topics == ["t", "other"] * 6
    assert ids("".join(shown[everything.pid])) == [f"e-{number}" for number in range(1, 7) for _ in range(2)]
    assert ids("".join(shown[of_topic.pid])) == [f"e-{number}" for number in range(1, 7)]


@posix_only
def test_ctrl_c_ends_following_with_130(shared_server: Server, topic: str, start: Start) -> None:
    publish(shared_server, topic, 1)
    process = start("tail", "--json", url=shared_server.url)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.stderr is not None
    assert process.stderr.read() == b""


@posix_only
def test_a_reader_that_leaves_is_no_traceback(shared_server: Server, topic: str, start: Start) -> None:
    publish(shared_server, topic, *range(5000))
    process = start("tail", "--from-start", "--no-follow", "--json", url=shared_server.url)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.wait(20)
    assert process.stderr is not None
    assert process.stderr.read() == b""


NASTY = "\x1b[2J\x1b]0;owned\x07\r\x9b31m\u202e"


@posix_only
@pytest.mark.parametrize(
    "arguments", [["tail", "--no-follow"], ["tail", "--no-follow", "--json"], ["stats", "--top", "1000"]]
)
def test_nothing_published_can_steer_the_terminal(shared_server: Server, topic: str, arguments: list[str]) -> None:
    publish(shared_server, topic, 1, payload={"line": 1, "message": NASTY})
    publish(shared_server, topic + "\u202e\u2066", 2, payload={"x": NASTY, "y": "[bold]"}, source="\u202e")
    seen = on_terminal(*arguments, url=shared_server.url, NO_COLOR="1").decode()
    plain = seen.replace("\r\n", "\n")
    bad = [character for character in "\x1b\x07\r\x9b\u202e\u2066" if character in plain]
    assert bad == [], plain


@posix_only
def test_colour_is_for_terminals_only(shared_server: Server, topic: str) -> None:
    publish(shared_server, topic, 1)
    for arguments in (["stats"], ["tail", "--no-follow"]):
        assert b"\x1b[" in on_terminal(*arguments, url=shared_server.url)
        assert b"\x1b[" not in on_terminal(*arguments, url=shared_server.url, NO_COLOR="1")
        assert "\x1b" not in invoke(*arguments, url=shared_server.url).stdout


def test_stats_shows_the_counters_and_the_largest_topics_and_goes_on_looking(server: Server, start: Start) -> None:
    publish(server, "small", *range(5))
    publish(server, "large", *range(9))
    publish(server, "large", *range(9))
    shown = invoke("stats", "--top", "1", url=server.url)
    assert shown.returncode == 0
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert ["received", "23"] in rows
    assert ["unique", "14", "stored,", "each", "once"] in rows
    assert any(row[:4] == ["large", "9", "9", "0"] for row in rows)
    assert not any(row[:1] == ["small"] for row in rows)
    as_json = json.loads(invoke("stats", "--json", url=server.url).stdout)
    assert (as_json["received"], as_json["db_path"]) == (23, str(server.db_path))

    process = start("stats", "--json", "--watch", "--interval", "0.1", url=server.url)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["received"] == 23
    publish(server, "small", 99)
    for line in iter(process.stdout.readline, b""):
        if json.loads(line)["received"] == 24:
            return
    pytest.fail(f"it ended with {process.wait()}")


def test_a_terminal_without_unicode_is_written_escapes(shared_server: Server, topic: str) -> None:
    publish(shared_server, f"{topic} 日本", 1)
    shown = run("tail", "--no-follow", url=shared_server.url, PYTHONIOENCODING="ascii")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\\u65e5\\u672c" in shown.stdout
