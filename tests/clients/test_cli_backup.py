"""`sekali backup` beside a real server, and its words."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.clients.commands import run
from tests.serving import Server

EVENT = {"topic": "t", "event_id": "1", "timestamp": "2024-01-01T00:00:00Z", "source": "s", "payload": {"n": 1}}


def test_a_served_store_is_copied_and_the_copy_can_be_served(
    server: Server, make_server: Callable[..., Server], tmp_path: Path
) -> None:
    assert server.call("POST", "/publish", EVENT)[0] == 200
    done = run("backup", "store.db", cwd=tmp_path, DB_PATH=str(server.db_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"store\.db: 1 events, \S+ kB\n", done.stdout)
    assert server.call("POST", "/publish", {**EVENT, "event_id": "2"})[0] == 200
    copy = make_server(tmp_path).start()
    assert [event["event_id"] for event in copy.call("GET", "/events")[1]] == ["1"]
    assert copy.call("POST", "/publish?receipts=true", EVENT)[1]["receipts"][0]["status"] == "duplicate"


def test_a_refusal_is_one_line_and_exit_1(server: Server, tmp_path: Path) -> None:
    (tmp_path / "there.db").write_text("x")
    for target in ("there.db", "no/folder.db", "."):
        done = run("backup", target, "--db", str(server.db_path), cwd=tmp_path)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
        assert done.stderr.startswith("sekali: ")
    assert run("backup", "there.db", "--db", str(server.db_path), "--force", cwd=tmp_path).returncode == 0
    assert run("backup", "x.db", "--db", "none.db", cwd=tmp_path).returncode == 1
