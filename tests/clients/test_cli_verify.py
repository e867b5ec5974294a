"""`sekali verify` beside a real server, on a sound store and a damaged one; and what the server says of the damage."""

from __future__ import annotations

from pathlib import Path

import apsw

from tests.clients.commands import run
from tests.serving import Server

EVENT = {"topic": "t", "event_id": "1", "timestamp": "2024-01-01T00:00:00Z", "source": "s", "payload": {"n": 1}}


def test_a_served_store_is_sound(server: Server) -> None:
    for event in (EVENT, EVENT, {**EVENT, "payload": {"n": 2}}, {**EVENT, "topic": "u"}):
        assert server.call("POST", "/publish", event)[0] == 200
    done = run("verify", "--db", str(server.db_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{server.db_path}: 2 events, 2 duplicates: sound\n"


def test_damage_is_named_by_verify_and_by_the_server_that_meets_it(server: Server) -> None:
    for event in (EVENT, {**EVENT, "payload": {"n": 2}}):
        assert server.call("POST", "/publish", event)[0] == 200
    assert "damage" not in server.call("GET", "/readyz")[1]
    connection = apsw.Connection(str(server.db_path))
    connection.execute("UPDATE ledger SET stamp_us = stamp_us + 1")
    connection.close()
    done = run("verify", "--db", str(server.db_path))
    assert done.returncode == 1
    assert done.stdout == "The checksum of the ledger of commit 2 does not hold; the file is damaged.\n"
    assert done.stderr == f"sekali: {server.db_path} is damaged: one thing is wrong. Restore it from a backup.\n"
    status, problem = server.call("GET", "/ledger")
    assert (status, problem["code"]) == (500, "store_corrupt")
    status, ready = server.call("GET", "/readyz")
    assert (status, ready["damage"]) == (200, problem["detail"])
    assert server.call("GET", "/events")[1][0]["event_id"] == "1"
    assert server.call("POST", "/publish", {**EVENT, "event_id": "3"})[0] == 200


def test_no_store_is_one_line_and_exit_1(tmp_path: Path) -> None:
    done = run("verify", "--db", str(tmp_path / "none.db"))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    (tmp_path / "text.db").write_text("no store, but text of some length, so that it is read as a header" * 20)
    assert run("verify", "--db", str(tmp_path / "text.db")).returncode == 1
