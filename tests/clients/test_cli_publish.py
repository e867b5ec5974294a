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

from sekali.client import Client, EventFilter
from tests.clients.commands import figures, invoke, run
from tests.serving import Server, unused_port

Start = Callable[..., subprocess.Popen[bytes]]
posix_only = pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGINT for another process")


@pytest.fixture
def event(topic: str) -> Callable[..., dict[str, Any]]:
    def make(number: int, **more: Any) -> dict[str, Any]:
        plain = {"topic": topic, "event_id": f"e-{number}", "timestamp": "2024-01-01T00:00:00Z", "source": "test"}
        return {**plain, "payload": {"n": number}, **more}

    return make


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], str]:
    """A file with that text; its path."""

    def write(text: str) -> str:
        (tmp_path / "input").write_bytes(text.encode())
        return str(tmp_path / "input")

    return write


def lines_of(*events: Any) -> str:
    return "\n".join(event if isinstance(event, str) else json.dumps(event) for event in events)


def stored(server: Server, topic: str) -> list[Any]:
    with Client(server.url) as client:
        return [(found.event_id, found.payload) for found in client.events(EventFilter(topics=(topic,)))]


def wait_until_stored(server: Server, topic: str, events: int, running: subprocess.Popen[bytes]) -> None:
    """Looks as fast as the server answers; the command must not end meanwhile."""
    with Client(server.url) as client:
        while {found.topic: found.events for found in client.topics()}.get(topic, 0) < events:
            assert running.poll() is None, running.communicate()


def test_the_same_file_again_adds_nothing(
    shared_server: Server, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "app.log"
    log.write_bytes(b"2025-06-24 14:36:25 started\n\ncaf\xe9\nstarted\n")
    first = invoke("publish", str(log), "--topic", topic, url=shared_server.url)
    assert (first.returncode, first.stderr) == (0, "")
    expected = {"read": 3, "stored": 3, "duplicates": 0, "conflicts": 0, "rejected": 0, "empty lines": 1}
    assert figures(first.stdout) == expected
    again = invoke("publish", str(log), "--topic", topic, url=shared_server.url)
    assert figures(again.stdout) == {**expected, "stored": 0, "duplicates": 3}
    log.write_bytes(log.read_bytes() + b"one more\n")
    monkeypatch.chdir(tmp_path)
    grown = invoke("publish", "app.log", "--topic", topic, url=shared_server.url)
    assert figures(grown.stdout) == {**expected, "read": 4, "stored": 1, "duplicates": 3}


@pytest.mark.parametrize("form", ["ndjson", "json", "pretty"])
def test_events_in_every_form_are_stored_as_they_are(
    shared_server: Server, topic: str, event: Any, file: Any, form: str
) -> None:
    events = [event(1), event(2, payload={"text": "a\nb\u2028c", "deep": [{"x": None}]}, extra="kept")]
    text = {"ndjson": lines_of(*events), "json": json.dumps(events), "pretty": json.dumps(events, indent=2)}[form]
    done = invoke("publish", file(text), url=shared_server.url)
    assert (done.returncode, figures(done.stdout)["stored"]) == (0, 2)
    assert stored(shared_server, topic) == [(sent["event_id"], sent["payload"]) for sent in events]
    with Client(shared_server.url) as client:
        (_, second) = client.page(EventFilter(topics=(topic,))).lines
    assert json.loads(second.line)["extra"] == "kept"


def test_bad_lines_are_told_and_the_good_ones_stored(shared_server: Server, topic: str, event: Any, file: Any) -> None:
    text = lines_of(event(1), event(2, topic=""), event(3), "junk", event(5), event(6, payload={"x": "y" * 1_100_000}))
    done = invoke("publish", file(text), url=shared_server.url)
    assert done.returncode == 1
    assert figures(done.stdout) == {"read": 6, "stored": 3, "duplicates": 0, "conflicts": 0, "rejected": 3}
    told = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in told[:-1]] == ["line 2", "line 4", "line 6"]
    assert "empty" in told[0]
    assert "not JSON" in told[1]
    assert "event_too_large" in told[2]
    assert told[-1] == "not stored as sent: 3 lines: 2, 4, 6"
    assert [event_id for event_id, _ in stored(shared_server, topic)] == ["e-1", "e-3", "e-5"]


def test_strict_stops_at_the_first_bad_line(shared_server: Server, topic: str, event: Any, file: Any) -> None:
    text = lines_of(event(1), event(2), event(3, source=""), event(4), event(5))
    done = invoke("publish", file(text), "--strict", "--batch", "2", url=shared_server.url)
    assert done.returncode == 1
    assert "line 3: empty: source" in done.stderr
    assert [event_id for event_id, _ in stored(shared_server, topic)] == ["e-1", "e-2"]
    assert figures(done.stdout)["unanswered"] == 1


def test_a_conflict_is_told_with_its_place(shared_server: Server, topic: str, event: Any, file: Any) -> None:
    invoke("publish", file(lines_of(event(1))), url=shared_server.url)
    changed = [event(0), event(1, payload={"n": "changed"})]
    done = invoke("publish", file(json.dumps(changed)), url=shared_server.url)
    assert done.returncode == 1
    assert "item 2: conflict" in done.stderr
    assert figures(done.stdout) == {"read": 2, "stored": 1, "duplicates": 0, "conflicts": 1, "rejected": 0}
    assert stored(shared_server, topic)[0] == ("e-1", {"n": 1})


def test_a_last_line_without_line_end_is_sent_and_told_and_once_ended_it_is_the_same_event(
    shared_server: Server, topic: str, file: Any
) -> None:
    first = invoke("publish", file("one\ntwo"), "--topic", topic, url=shared_server.url)
    assert (first.returncode, figures(first.stdout)["stored"]) == (0, 2)
    (told,) = first.stderr.splitlines()
    assert told.startswith("line 2, the last one, has no line end")
    assert "--complete-lines" in told
    ended = invoke("publish", file("one\ntwo\nthree\n"), "--topic", topic, url=shared_server.url)
    assert (figures(ended.stdout)["stored"], ended.stderr) == (1, "")


def test_complete_lines_sends_a_growing_line_once_when_it_is_whole(
    shared_server: Server, topic: str, file: Any
) -> None:
    command = ("--topic", topic, "--complete-lines")
    half = invoke("publish", file("one\ntw"), *command, url=shared_server.url)
    assert (half.returncode, figures(half.stdout)["read"]) == (0, 1)
    assert half.stderr == "line 2 has no line end and was left out\n"
    whole = invoke("publish", file("one\ntwo\n"), *command, url=shared_server.url)
    assert (figures(whole.stdout)["stored"], whole.stderr) == (1, "")
    assert [payload["message"] for _, payload in stored(shared_server, topic)] == ["one", "two"]


def test_complete_lines_leaves_out_half_an_ndjson_line_and_is_refused_for_a_document(event: Any, file: Any) -> None:
    lines = json.dumps(event(1)) + "\n" + json.dumps(event(2))[:-9]
    half = invoke("publish", file(lines), "--complete-lines", "--dry-run")
    assert (half.returncode, figures(half.stdout)["read"], figures(half.stdout)["rejected"]) == (0, 1, 0)
    assert invoke("publish", file("[]"), "--format", "json", "--complete-lines").returncode == 2


def test_the_last_line_of_a_pipe_is_whole_without_a_line_end(shared_server: Server, topic: str) -> None:
    done = run("publish", "-", "--topic", topic, url=shared_server.url, stdin=b"one")
    assert (done.returncode, figures(done.stdout)["stored"], done.stderr) == (0, 1, "")


def test_a_dry_run_needs_no_server(event: Any, file: Any) -> None:
    done = invoke("publish", file(lines_of(event(1), event(2, source=""))), "--dry-run", url="http://127.0.0.1:9")
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
        ([__file__, "--topic", "x", "--url", "ftp://host"], "--url"),
        (["-", "--batch", "0"], "--batch"),
        ([], "FILE"),
    ],
)
def test_a_wrong_command_line_is_exit_2(arguments: list[str], words: str) -> None:
    done = invoke("publish", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("command", [["publish", __file__, "--topic", "x"], ["tail"], ["stats"], ["stats", "--json"]])
@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_no_server_is_one_line_and_exit_1(command: list[str], host: str) -> None:
    url = f"http://{host}:{unused_port()}"
    done = invoke(*command, url=url)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"sekali: cannot reach {url}: ")


def test_an_input_that_is_no_events_is_one_line_and_exit_1(shared_server: Server, file: Any) -> None:
    done = invoke("publish", file("hello\n"), url=shared_server.url)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "--topic" in line
    nothing = invoke("publish", file(""), url=shared_server.url)
    assert (nothing.returncode, figures(nothing.stdout)["read"]) == (0, 0)


def test_standard_input_is_read(shared_server: Server, topic: str, event: Any) -> None:
    done = run("publish", "-", url=shared_server.url, stdin=lines_of(event(1), event(2)).encode())
    assert (done.returncode, done.stderr, figures(done.stdout)["stored"]) == (0, "", 2)


@posix_only
def test_lines_of_a_pipe_are_sent_while_it_stays_open_and_ctrl_c_sums_up(
    shared_server: Server, topic: str, start: Start
) -> None:
    process = start("publish", "-", "--topic", topic, url=shared_server.url, stdin=subprocess.PIPE)
    assert process.stdin is not None
    for number in (1, 2, 3):
        process.stdin.write(b"line %d\n" % number)
        wait_until_stored(shared_server, topic, number, process)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    out = process.stdout.read().decode()
    assert process.wait() == 130
    assert figures(out)["read"] == 3


def test_a_server_killed_meanwhile_costs_nothing_and_one_that_stays_away_is_given_up(
    server: Server, start: Start, tmp_path: Path
) -> None:
    lines = 10_000
    (tmp_path / "many.log").write_text("".join(f"line number {number}\n" for number in range(lines)))
    command = ("publish", str(tmp_path / "many.log"), "--topic", "many", "--batch", "50")
    process = start(*command, url=server.url)
    wait_until_stored(server, "many", 1000, process)
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

    process = start("publish", "-", "--topic", "x", "--retry-s", "0.5", url=server.url, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"one\n")
    wait_until_stored(server, "x", 1, process)
    server.kill()
    process.stdin.write(b"two\n")
    out, err = process.communicate()
    assert process.returncode == 1
    assert figures(out.decode())["unanswered"] == 1
    assert err.decode().splitlines()[-1].startswith("sekali: cannot reach")
