"""`sekali ledger`: the newest resends, and who resends most."""

from __future__ import annotations

import json
import subprocess
from typing import Any
from urllib.parse import quote

import pytest

from sekali.cli import ledger as command
from sekali.client import LedgerEntry
from tests.clients.commands import invoke
from tests.clients.test_cli_tail import NASTY, on_terminal, posix_only
from tests.serving import Server


def send(server: Server, topic: str, *numbers: int, source: str = "s", payload: Any = None) -> None:
    event = {"topic": topic, "timestamp": "2024-01-01T00:00:00Z", "source": source, "payload": payload or {}}
    status, answer = server.call("POST", "/publish", [{**event, "event_id": f"e-{number}"} for number in numbers])
    assert status == 200, answer


def ledger(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    shown = invoke("ledger", *arguments, url=server.url)
    assert (shown.returncode, shown.stderr) == (0, "")
    return shown


def ids(text: str) -> list[str]:
    return [json.loads(line)["event_id"] for line in text.splitlines()]


def test_it_shows_the_newest_resends_oldest_of_them_first(shared_server: Server, topic: str) -> None:
    send(shared_server, topic, *range(1500))
    send(shared_server, topic, *range(1500), source="again")
    send(shared_server, topic, 7, source="other", payload={"x": 1})
    shown = ledger(shared_server, "-n", "3").stdout.splitlines()
    assert shown[0].split() == ["received", "status", "topic", "event_id", "offset", "source"]
    assert [line.split()[2] for line in shown[1:]] == ["duplicate", "duplicate", "conflict"]
    assert shown[1].rsplit(maxsplit=3)[1::2] == ["e-1498", "again"]
    assert len(ledger(shared_server).stdout.splitlines()) == 21
    of_topic = ("--json", "-t", topic)
    assert ids(ledger(shared_server, *of_topic, "-n", "1400", "-s", "again").stdout) == [
        f"e-{number}" for number in range(100, 1500)
    ]
    (conflict,) = ledger(shared_server, *of_topic, "--conflicts").stdout.splitlines()
    assert [json.loads(conflict)] == shared_server.call("GET", f"/ledger?status=conflict&topic={quote(topic)}")[1]


def test_no_resends_are_an_empty_table(shared_server: Server, topic: str) -> None:
    assert len(ledger(shared_server, "-t", topic).stdout.splitlines()) == 1
    assert ledger(shared_server, "-t", topic, "--json").stdout == ""
    assert "0 resends, 0 of them conflicts" in ledger(shared_server, "-t", topic, "--summary").stdout


def test_the_summary_counts_by_topic_and_source_over_all_pages(shared_server: Server, topic: str) -> None:
    one, two = f"{topic}/1", f"{topic}/2"
    for name in (one, two):
        send(shared_server, name, *range(1200))
    for _ in range(2):
        send(shared_server, one, *range(1200), source="loud")
    send(shared_server, two, *range(3), source="loud")
    send(shared_server, two, 1, 2, source="quiet", payload={"x": 1})
    chosen = ("--summary", "-t", one, "-t", two)
    found = [json.loads(line) for line in ledger(shared_server, *chosen, "--json").stdout.splitlines()]
    assert [(each["topic"], each["source"], each["resends"], each["conflicts"]) for each in found] == [
        (one, "loud", 2400, 0),
        (two, "loud", 3, 0),
        (two, "quiet", 2, 2),
    ]
    newest = shared_server.call("GET", f"/ledger?order=desc&limit=1&topic={quote(two)}")[1][0]
    assert found[2]["last_received_at"] == newest["received_at"]
    lines = ledger(shared_server, *chosen, "-n", "2").stdout.splitlines()
    assert [line.rsplit(maxsplit=4)[1:3] for line in lines[1:3]] == [["2,400", "0"], ["3", "0"]]
    assert lines[3:] == ["2,405 resends, 2 of them conflicts; pairs of topic and source not shown: 1"]


def entry(source: str, received_at: str = "2024") -> LedgerEntry:
    return LedgerEntry("t", 1, source, received_at, "duplicate")


def test_the_summary_holds_a_bounded_number_of_pairs_and_says_how_short_it_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "PAIRS_HELD_MAX", 10)
    found = command.Summary()
    for number in range(100):
        found.add([entry("loud"), entry(f"once-{number}"), entry("loud")])
        assert len(found.by_pair) <= 10
    (loud,) = found.top(1)
    assert (loud.source, loud.resends) == ("loud", 200)
    assert found.resends == 300
    assert found.let_go == 300 - sum(each.resends for each in found.by_pair.values())


@posix_only
@pytest.mark.parametrize("arguments", [[], ["--json"], ["--summary"], ["--summary", "--json"]])
def test_nothing_published_can_steer_the_terminal(shared_server: Server, topic: str, arguments: list[str]) -> None:
    for _ in range(2):
        send(shared_server, f"{topic}\u202e\u2066", 1, source="\u202e\u2028[bold]", payload={"x": NASTY})
    send(shared_server, f"{topic}\u202e\u2066", 1, source="\u202e", payload={"y": NASTY})
    seen = on_terminal("ledger", *arguments, url=shared_server.url, NO_COLOR="1").decode()
    plain = seen.replace("\r\n", "\n")
    assert [character for character in "\x1b\x07\r\x9b\u202e\u2066\u2028" if character in plain] == []
    assert "[bold]" in plain


def test_a_server_that_is_not_there_is_told_in_one_line() -> None:
    refused = invoke("ledger", url="http://127.0.0.1:1")
    assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (1, "", 1)
