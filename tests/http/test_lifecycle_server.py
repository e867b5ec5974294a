"""A real uvicorn process: how it refuses to start, how it drains, how it leaves."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving import ROOT, Server, unused_port
from tests.support.stores import WAIT_S_MAX, wait_for

EXIT_S_MAX = 10.0
"""What the server promises, from SIGTERM to its end."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process at once there")

MakeServer = Callable[..., Server]


def event(event_id: str, **members: Any) -> dict[str, Any]:
    return {
        "topic": "alpha", "event_id": event_id, "timestamp": "2024-01-01T00:00:00Z", "source": "test", "payload": {},
        **members,
    }  # fmt: skip


def run_uvicorn(db_path: Path | str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A server that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "uvicorn", "src.main:app", "--port", str(unused_port()), *arguments],
        cwd=ROOT,
        env={**os.environ, "DB_PATH": str(db_path), "SEKALI_PREDECESSOR_WAIT_S": "0.2", **env},
        check=False,
        capture_output=True,
        text=True,
        timeout=WAIT_S_MAX,
    )


class Connection:
    """A raw connection with a request begun and not ended."""

    def __init__(self, server: Server, request: bytes, receive_buffer_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.settimeout(WAIT_S_MAX)
        self.socket.connect(("127.0.0.1", server.port))
        self.socket.sendall(request)

    def answer(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers, decoded body; the server then closes the connection."""
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        body = json.loads(response.read())
        assert self.socket.recv(1) == b""
        return response.status, {name.lower(): value for name, value in response.getheaders()}, body


@pytest.fixture
def connect() -> Iterator[Callable[..., Connection]]:
    made: list[Connection] = []

    def make(*args: Any, **named: Any) -> Connection:
        made.append(Connection(*args, **named))
        return made[-1]

    yield make
    for connection in made:
        connection.socket.close()


def unfinished_publish(length: int) -> bytes:
    return (
        b"POST /publish HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n["
        % length
    )


def terminate(server: Server) -> int:
    """The exit code, in time."""
    began = time.monotonic()
    code = server.terminate()
    assert time.monotonic() - began < EXIT_S_MAX
    return code


@pytest.mark.parametrize("arguments", [(), ("--loop", "asyncio", "--http", "h11")])
def test_a_store_that_cannot_be_opened_ends_the_server_with_1_and_one_line(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    ended = run_uvicorn(foreign, *arguments)
    assert ended.returncode == 1
    said = [line for line in ended.stderr.splitlines() if not line.startswith("INFO: ")]
    assert len(said) == 1
    assert said[0].startswith("sekali: ")
    assert str(foreign) in said[0]


def test_a_wrong_setting_ends_the_server_with_1_and_names_it(tmp_path: Path) -> None:
    ended = run_uvicorn(tmp_path / "store.db", CONSUMER_WORKERS="many")
    assert ended.returncode == 1
    assert "sekali: CONSUMER_WORKERS: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_second_server_on_the_store_is_refused_naming_the_first(make_server: MakeServer) -> None:
    server = make_server().start()
    assert server.process is not None
    ended = run_uvicorn(server.db_path)
    assert ended.returncode == 1
    assert f"pid {server.process.pid}" in ended.stderr
    assert server.call("GET", "/readyz")[0] == 200


def test_two_workers_are_refused_at_once_since_neither_is_the_others_predecessor(tmp_path: Path) -> None:
    ended = run_uvicorn(tmp_path / "store.db", "--workers", "2", SEKALI_PREDECESSOR_WAIT_S="600")
    assert "is open in another worker of this server (pid " in ended.stderr
    assert "run uvicorn without --workers" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "stopping the parent process" in ended.stderr


def test_sigterm_ends_a_server_that_waits_for_its_predecessor(make_server: MakeServer) -> None:
    first = make_server().start()
    second = make_server(first.db_path.parent, SEKALI_PREDECESSOR_WAIT_S="60").start(wait=False)
    second.log_path = first.log_path
    wait_for(lambda: "sekali: Still opening the store" in second.log, "the second server waits for the first")
    assert terminate(second) == 128 + signal.SIGTERM
    assert "Traceback" not in second.log


def test_a_body_that_is_still_arriving_at_sigterm_is_refused(
    make_server: MakeServer, connect: Callable[..., Connection]
) -> None:
    server = make_server().start()
    slow = [connect(server, unfinished_publish(1_000)) for _ in range(3)]
    wait_for(lambda: bodies_arrive(server), "the server reads")
    codes: list[int] = []
    ending = threading.Thread(target=lambda: codes.append(terminate(server)))
    ending.start()
    for connection in slow:
        status, headers, body = connection.answer()
        assert (status, body["code"], headers["connection"]) == (503, "draining", "close")
        assert int(headers["retry-after"]) > 0
    ending.join(WAIT_S_MAX)
    assert codes == [-signal.SIGTERM]
    server.start()
    assert server.call("GET", "/stats")[1]["received"] == 0


def bodies_arrive(server: Server) -> bool:
    """An answer to a later request means that the earlier ones were begun."""
    return server.call("GET", "/healthz")[0] == 200


def test_an_export_that_nobody_reads_does_not_hold_up_the_exit(
    make_server: MakeServer, connect: Callable[..., Connection]
) -> None:
    server = make_server(SEKALI_DRAIN_S="0.5").start()
    text = "x" * 100_000
    for number in range(4):
        events = [event(f"{number}-{i}", payload={"text": text}) for i in range(100)]
        assert server.call("POST", "/publish", events)[0] == 200
    export = connect(server, b"GET /events HTTP/1.1\r\nhost: test\r\n\r\n", receive_buffer_bytes=4_096)
    assert export.socket.recv(12) == b"HTTP/1.1 200"
    assert terminate(server) == 128 + signal.SIGTERM
    assert "Some connections hold up the exit" in server.log
    received = bytearray()
    try:
        while chunk := export.socket.recv(1 << 20):
            received += chunk
    except ConnectionResetError:
        pass
    assert not received.endswith(b"0\r\n\r\n"), "a stream that was cut must not look whole"


def test_what_was_acknowledged_around_sigterm_is_there_after_the_restart(make_server: MakeServer) -> None:
    server = make_server().start()
    acknowledged: list[set[str]] = [set() for _ in range(4)]
    refused: list[int] = []
    started = threading.Barrier(5, timeout=WAIT_S_MAX)

    def publish(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S_MAX)
        started.wait()
        for number in range(1_000_000):
            ids = [f"{client}-{number}-{i}" for i in range(10)]
            body = json.dumps([event(event_id) for event_id in ids])
            try:
                connection.request("POST", "/publish", body, {"content-type": "application/json"})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                return
            if answer.status != 200:
                refused.append(answer.status)
                return
            acknowledged[client].update(ids)

    threads = [threading.Thread(target=publish, args=(client,)) for client in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    wait_for(lambda: all(len(ids) > 50 for ids in acknowledged), "every client was answered a few times")
    assert terminate(server) == -signal.SIGTERM
    for thread in threads:
        thread.join(WAIT_S_MAX)
    assert set(refused) <= {503}
    server.start()
    stored = {each["event_id"] for each in server.call("GET", "/events")[1]}
    assert set().union(*acknowledged) <= stored
    assert server.call("GET", "/stats")[1]["received"] == len(stored)


def test_a_body_that_trickles_is_408(make_server: MakeServer, connect: Callable[..., Connection]) -> None:
    server = make_server(SEKALI_BODY_DEADLINE_S="0.3").start()
    status, headers, body = connect(server, unfinished_publish(1_000)).answer()
    assert (status, body["code"], headers["connection"]) == (408, "body_too_slow", "close")


def test_a_body_announced_too_large_is_413_and_the_sender_sees_it(make_server: MakeServer) -> None:
    server = make_server().start()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S_MAX)
    connection.request("POST", "/publish", b"x" * (33 * 1024 * 1024), {"content-type": "application/json"})
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (413, "body_too_large")
    assert answer.getheader("connection") == "close"


def test_a_client_that_leaves_in_the_body_stores_nothing(
    make_server: MakeServer, connect: Callable[..., Connection]
) -> None:
    server = make_server().start()
    body = json.dumps(event("half")).encode()
    half = connect(server, unfinished_publish(len(body) + 2)[:-1] + body)
    assert bodies_arrive(server)
    half.socket.close()
    assert server.call("POST", "/publish", event("whole"))[0] == 200
    assert [each["event_id"] for each in server.call("GET", "/events")[1]] == ["whole"]


@pytest.mark.parametrize("loop", ["asyncio", "auto"])
def test_a_server_whose_store_was_taken_away_stops_with_an_error(make_server: MakeServer, loop: str) -> None:
    server = make_server()
    server._arguments = ("--loop", loop)
    server.start()
    assert server.call("POST", "/publish", event("a"))[0] == 200
    server.db_path.rename(server.db_path.with_name("moved.db"))
    status, body = server.call("POST", "/publish", event("b"))
    assert (status, body["code"]) == (503, "outcome_unknown")
    assert server.process is not None
    assert server.process.wait(EXIT_S_MAX) == 70
    assert "The store has stopped: " in server.log


def test_a_server_whose_index_was_removed_ends_as_ever_and_the_next_one_knows_every_id(make_server: MakeServer) -> None:
    """The index is derived: all that was answered for is in the store's file."""
    server = make_server().start()
    assert server.call("POST", "/publish", [event("a"), event("b")])[0] == 200
    shutil.rmtree(server.db_path.with_name("store.db.seen"))
    assert server.call("POST", "/publish", [event("b"), event("c")])[0] == 200
    assert terminate(server) == -signal.SIGTERM
    assert "Traceback" not in server.log
    server.start()
    assert server.call("POST", "/publish", [event(event_id) for event_id in "abcd"])[0] == 200
    assert [each["event_id"] for each in server.call("GET", "/events")[1]] == list("abcd")
    stats = server.call("GET", "/stats")[1]
    assert (stats["unique_processed"], stats["duplicate_dropped"]) == (4, 4)


SERVE_A_STORE_THAT_CANNOT_BE_CLOSED = """
    import sys
    import uvicorn
    from sekali.store.store import Store

    def close(self):
        raise RuntimeError("planted")

    Store.close = close
    uvicorn.run("src.main:app", port=int(sys.argv[1]))
"""


def test_a_store_that_cannot_be_closed_ends_the_server_with_an_error(make_server: MakeServer) -> None:
    server = make_server()
    _, folder, env = server._popen_arguments()
    command = [sys.executable, "-c", textwrap.dedent(SERVE_A_STORE_THAT_CANNOT_BE_CLOSED), str(server.port)]
    importing = {**env, "PYTHONPATH": str(ROOT / "src")}  # the package need not be installed
    server._popen_arguments = lambda: (command, folder, importing)  # type: ignore[method-assign]
    server.start()
    assert terminate(server) == 70
    assert "The store could not be closed: unexpected RuntimeError" in server.log


def test_ctrl_c_ends_the_server_cleanly(make_server: MakeServer) -> None:
    server = make_server().start()
    assert server.process is not None
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(EXIT_S_MAX) == 0
    assert "Traceback" not in server.log


def test_a_second_ctrl_c_ends_a_draining_server_at_once_with_one_line(
    make_server: MakeServer, connect: Callable[..., Connection]
) -> None:
    server = make_server().start()
    assert server.call("POST", "/publish", event("a"))[0] == 200
    half = connect(server, unfinished_publish(1_000))
    assert bodies_arrive(server)
    assert server.process is not None
    server.process.send_signal(signal.SIGINT)
    assert half.answer()[0] == 503, "it drains, and waits for the rest of the body"
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(EXIT_S_MAX) == 130
    assert "Traceback" not in server.log
    assert server.log.splitlines()[-1].startswith("sekali: Ended at once")
    assert [each["event_id"] for each in server.start().call("GET", "/events")[1]] == ["a"]


def test_a_variable_that_is_no_setting_is_told_once_and_it_serves_all_the_same(make_server: MakeServer) -> None:
    server = make_server(SEKALI_TOPIC_MAX="7", SEKALI_TEST_SEED="1", SEKALI_URL="http://elsewhere.test").start()
    told = [line for line in server.log.splitlines() if line.startswith("sekali: ")]
    assert told == [
        "sekali: warning: SEKALI_TOPIC_MAX is not a setting and changes nothing; did you mean SEKALI_TOPICS_MAX?"
    ]
