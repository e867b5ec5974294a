"""`sekali publish` against a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sekali.client import Client
from tests.clients.commands import figures, run
from tests.serving import Server, unused_port

Start = Callable[..., subprocess.Popen[bytes]]
posix_only = pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGINT for another process")


def event(number: int, **more: Any) -> dict[str, Any]:
    plain = {"topic": "t", "event_id": f"e-{number}", "timestamp": "2024-01-01T00:00:00Z", "source": "test"}
    return {**plain, "payload": {"n": number}, **more}


def stored(server: Server) -> list[Any]:
    with Client(server.url) as client:
        return [(found.event_id, found.payload) for found in client.events()]


def wait_until_stored(server: Server, events: int, running: subprocess.Popen[bytes]) -> None:
    """Looks as fast as the server answers; the command must not end meanwhile."""
    while server.call("GET", "/stats")[1]["unique_processed"] < events:
        assert running.poll() is None, running.communicate()


def test_the_same_file_again_adds_nothing(server: Server, tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    log.write_bytes(b"2025-06-24 14:36:25 started\n\ncaf\xe9\nstarted\n")
    first = run("publish", str(log), "--topic", "app", url=server.url)
    assert (first.returncode, first.stderr) == (0, "")
    expected = {"read": 3, "stored": 3, "duplicates": 0, "conflicts": 0, "rejected": 0, "empty lines": 1}
    assert figures(first.stdout) == expected
    again = run("publish", str(log), "--topic", "app", url=server.url)
    assert figures(again.stdout) == {**expected, "stored": 0, "duplicates": 3}
    log.write_bytes(log.read_bytes() + b"one more\n")
    grown = run("publish", "app.log", "--topic", "app", url=server.url, cwd=tmp_path)
    assert figures(grown.stdout) == {**expected, "read": 4, "stored": 1, "duplicates": 3}


@pytest.mark.parametrize("form", ["ndjson", "json", "pretty"])
def test_events_in_every_form_are_stored_as_they_are(server: Server, tmp_path: Path, form: str) -> None:
    events = [event(1), event(2, payload={"text": "a\nb\u2028c", "deep": [{"x": None}]}, extra="kept")]
    texts = {
        "ndjson": "\n".join(map(json.dumps, events)),
        "json": json.dumps(events),
        "pretty": json.dumps(events, indent=2),
    }
    file = tmp_path / "events"
    file.write_text(texts[form])
    done = run("publish", str(file), url=server.url)
    assert (done.returncode, figures(done.stdout)["stored"]) == (0, 2)
    assert stored(server) == [(sent["event_id"], sent["payload"]) for sent in events]
    assert server.call("GET", "/event?topic=t&event_id=e-2")[1]["extra"] == "kept"


def test_bad_lines_are_told_and_the_good_ones_stored(server: Server) -> None:
    lines = [event(1), event(2, topic=""), event(3), "junk", event(5), event(6, payload={"x": "y" * 1_100_000})]
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    done = run("publish", "-", url=server.url, stdin=text.encode())
    assert done.returncode == 1
    assert {**figures(done.stdout), "read": 6, "stored": 3, "rejected": 3} == figures(done.stdout)
    told = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in told[:-1]] == ["line 2", "line 4", "line 6"]
    assert "empty" in told[0]
    assert "not JSON" in told[1]
    assert "event_too_large" in told[2]
    assert told[-1] == "not stored as sent: 3 lines: 2, 4, 6"
    assert [event_id for event_id, _ in stored(server)] == ["e-1", "e-3", "e-5"]


def test_strict_stops_at_the_first_bad_line(server: Server) -> None:
    lines = [json.dumps(event(1)), json.dumps(event(2)), json.dumps(event(3, topic="")), json.dumps(event(4))]
    done = run("publish", "-", "--strict", "--batch", "2", url=server.url, stdin="\n".join(lines).encode())
    assert done.returncode == 1
    assert "line 3: empty: topic" in done.stderr
    assert [event_id for event_id, _ in stored(server)] == ["e-1", "e-2"]
    assert figures(done.stdout)["unanswered"] == 1


def test_a_conflict_is_told_with_its_line(server: Server) -> None:
    run("publish", "-", url=server.url, stdin=json.dumps(event(1)).encode())
    changed = [event(0), event(1, payload={"n": "changed"})]
    done = run("publish", "-", url=server.url, stdin=json.dumps(changed).encode())
    assert done.returncode == 1
    assert "item 2: conflict" in done.stderr
    assert figures(done.stdout) == {"read": 2, "stored": 1, "duplicates": 0, "conflicts": 1, "rejected": 0}
    assert stored(server)[0] == ("e-1", {"n": 1})


def test_a_dry_run_needs_no_server() -> None:
    text = "\n".join(json.dumps(line) for line in (event(1), event(2, source="")))
    done = run("publish", "-", "--dry-run", url="http://127.0.0.1:9", stdin=text.encode())
    assert (done.returncode, figures(done.stdout)) == (1, {"read": 2, "good": 1, "rejected": 1})
    assert "line 2: empty" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing-there.log"], "cannot read nothing-there.log: No such file"),
        (["-", "--source", "x"], "--topic"),
        (["-", "--format", "text"], "--topic"),
        (["-", "--format", "json", "--topic", "x"], "--topic"),
        (["-", "--topic", " x"], "--topic"),
        (["-", "--topic", "x" * 256], "--topic"),
        (["-", "--topic", "x", "--source", "a\nb"], "--source"),
        (["-", "--url", "ftp://host"], "--url"),
        (["-", "--batch", "0"], "--batch"),
        ([], "FILE"),
    ],
)
def test_a_wrong_command_line_is_exit_2(arguments: list[str], words: str) -> None:
    done = run("publish", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("command", [["publish", "-", "--topic", "x"], ["tail"], ["stats"], ["stats", "--json"]])
@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_no_server_is_one_line_and_exit_1(command: list[str], host: str) -> None:
    url = f"http://{host}:{unused_port()}"
    done = run(*command, url=url, stdin=b"x")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"sekali: cannot reach {url}: ")


def test_an_input_that_is_no_events_is_one_line_and_exit_1(server: Server) -> None:
    done = run("publish", "-", url=server.url, stdin=b"hello\n")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "--topic" in line
    assert run("publish", "-", url=server.url, stdin=b"").returncode == 0


def test_lines_of_a_pipe_are_sent_while_it_stays_open(server: Server, start: Start) -> None:
    process = start("publish", "-", "--topic", "pipe", url=server.url, stdin=subprocess.PIPE)
    assert process.stdin is not None
    for number in (1, 2, 3):
        process.stdin.write(b"line %d\n" % number)
        wait_until_stored(server, number, process)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert figures(out.decode())["stored"] == 3


@posix_only
def test_ctrl_c_ends_with_the_summary_and_exit_130(server: Server, start: Start) -> None:
    process = start("publish", "-", "--topic", "pipe", url=server.url, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"one\ntwo\n")
    wait_until_stored(server, 2, process)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    out = process.stdout.read().decode()
    assert process.wait() == 130
    assert figures(out)["read"] == 2


def test_a_server_killed_meanwhile_costs_nothing(server: Server, start: Start, tmp_path: Path) -> None:
    lines = 20_000
    file = tmp_path / "many.log"
    file.write_text("".join(f"line number {number}\n" for number in range(lines)))
    process = start("publish", str(file), "--topic", "many", "--batch", "50", url=server.url)
    wait_until_stored(server, 1000, process)
    server.kill()
    server.start()
    out, err = process.communicate()
    assert process.returncode == 0, err
    account = figures(out.decode())
    assert account["read"] == account["stored"] + account["duplicates"] == lines
    assert account["requests repeated"] >= 1
    assert "trying again" in err.decode()
    with Client(server.url) as client:
        assert [found.payload["line"] for found in client.events()] == list(range(1, lines + 1))


def test_a_server_that_stays_away_is_given_up(server: Server, start: Start) -> None:
    process = start("publish", "-", "--topic", "x", "--retry-s", "1", url=server.url, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"one\n")
    wait_until_stored(server, 1, process)
    server.kill()
    process.stdin.write(b"two\n")
    out, err = process.communicate()
    assert process.returncode == 1
    assert figures(out.decode())["unanswered"] == 1
    assert err.decode().splitlines()[-1].startswith("sekali: cannot reach")
