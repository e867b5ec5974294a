"""`sekali serve`: its start, its refusals, its end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sekali.client import ONCE, Client
from tests.clients.commands import invoke, run

Start = Callable[..., subprocess.Popen[bytes]]


def banner(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """URL and store, once it serves."""
    assert process.stdout is not None
    lines = [process.stdout.readline().decode() for _ in range(2)]
    served = re.fullmatch(r"sekali \S+ serves (http://\S+)\n", lines[0])
    assert served, (lines, process.poll())
    return served[1], lines[1].removeprefix("store  ").strip()


def test_it_says_where_it_serves_and_what(start: Start, tmp_path: Path) -> None:
    process = start("serve", "--port", "0", "--db", "new/folder/my.db", "--workers", "3", cwd=tmp_path, DB_PATH="other")
    url, store = banner(process)
    assert Path(store) == tmp_path / "new" / "folder" / "my.db"
    with Client(url, retry=ONCE) as client:
        figures = client.stats()
    assert (figures.db_path, figures.workers) == (str(Path("new/folder/my.db")), 3)
    process.terminate()
    assert process.wait(20) in (0, -signal.SIGTERM, 1)
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert not (tmp_path / "other").exists()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGINT for another process")
def test_settings_come_from_the_environment_and_ctrl_c_ends_it_well(start: Start, tmp_path: Path) -> None:
    process = start("serve", "--port", "0", DB_PATH=str(tmp_path / "env.db"), CONSUMER_WORKERS="4")
    url, store = banner(process)
    assert store == str(tmp_path / "env.db")
    with Client(url, retry=ONCE) as client:
        assert client.stats().workers == 4
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGINT for another process")
def test_a_second_ctrl_c_ends_it_at_once_with_one_line(start: Start, tmp_path: Path) -> None:
    process = start("serve", "--port", "0", "--db", str(tmp_path / "store.db"))
    url, _ = banner(process)
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 20) as half:
        half.sendall(b"POST /publish HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n")
        assert half.recv(100).startswith(b"HTTP/1.1 100"), "the body is waited for"
        process.send_signal(signal.SIGINT)
        assert b" 503 " in half.recv(100), "it drains"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert process.stderr is not None
    (line,) = process.stderr.read().decode().splitlines()
    assert line.startswith("sekali: Ended at once")


def test_an_address_that_others_can_reach_is_warned_of(start: Start, tmp_path: Path) -> None:
    process = start("serve", "--port", "0", "--host", "0.0.0.0", "--db", str(tmp_path / "store.db"))
    url, _ = banner(process)
    assert url.startswith("http://127.0.0.1:")
    assert process.stderr is not None
    assert b"no keys yet" in process.stderr.readline()
    with Client(url, retry=ONCE) as client:
        client.check()


def test_a_port_in_use_is_one_line_and_exit_1_and_no_store_is_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "--port", port, "--db", str(tmp_path / "store.db"))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line == f"sekali: cannot listen on 127.0.0.1:{port}: the port is in use; choose another with --port"
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_is_not_ours_is_one_line_and_exit_1() -> None:
    for host in ("no-such-host.invalid", "192.0.2.1"):
        done = invoke("serve", "--port", "0", "--host", host)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert host in done.stderr


def test_a_file_that_is_no_store_is_one_line_and_exit_1(tmp_path: Path) -> None:
    foreign = tmp_path / "store.db"
    foreign.write_bytes(b"my diary, volume one" * 100)
    done = run("serve", "--port", "0", "--db", str(foreign))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("sekali: ")
    assert str(foreign) in line
    assert foreign.read_bytes() == b"my diary, volume one" * 100


def test_a_store_that_is_being_served_is_one_line_and_exit_1(start: Start, tmp_path: Path) -> None:
    first = start("serve", "--port", "0", "--db", str(tmp_path / "store.db"))
    banner(first)
    done = run("serve", "--port", "0", "--db", str(tmp_path / "store.db"), SEKALI_PREDECESSOR_WAIT_S="0.1")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert str(first.pid) in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--port", "65536"], "--port"), (["--workers", "0"], "--workers"), (["--workers", "many"], "--workers")],
)
def test_a_wrong_command_line_is_exit_2(arguments: list[str], words: str) -> None:
    done = invoke("serve", *arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_variable_that_is_no_setting_is_told_once_and_it_serves_all_the_same(start: Start, tmp_path: Path) -> None:
    process = start("serve", "--port", "0", "--db", str(tmp_path / "store.db"), SEKALI_DRAINS_S="1")
    banner(process)
    process.terminate()
    assert process.stderr is not None
    assert process.stderr.read().decode().splitlines() == [
        "sekali: warning: SEKALI_DRAINS_S is not a setting and changes nothing; did you mean SEKALI_DRAIN_S?"
    ]


def test_a_setting_out_of_range_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEKALI_DRAIN_S", "-1")
    done = invoke("serve", "--port", "0")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "SEKALI_DRAIN_S" in line
