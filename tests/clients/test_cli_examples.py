"""Every command's help shows an example, and every example is run as it stands there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sekali import __version__
from sekali.cli import app
from sekali.store.store import Store
from tests.clients.commands import FINISHED_S_MAX, environment, invoke
from tests.serving import Server
from tests.support.stores import store_settings

COMMANDS = [info.callback.__name__ for info in app.registered_commands if info.callback]
EVENT = {"topic": "t", "event_id": "1", "timestamp": "2024-01-01T00:00:00Z", "source": "s", "payload": {"n": 1}}


def examples(command: str) -> list[str]:
    shown = invoke(command, "--help")
    assert shown.returncode == 0
    return re.findall(r"^ *\$ (.+)$", shown.stdout, re.MULTILINE)


EXAMPLES = [(command, example) for command in COMMANDS for example in examples(command)]


@pytest.fixture
def shell(tmp_path: Path, shared_server: Server) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a line of shell, with `sekali` on the path and the files that the examples name, against the server."""
    (tmp_path / "events.ndjson").write_text(json.dumps(EVENT) + "\n")
    Store.open(store_settings(tmp_path / "data" / "store.db")).close()
    if os.name == "nt":
        (tmp_path / "sekali.cmd").write_text(f'@"{sys.executable}" -m sekali %*\n')
    else:
        (tmp_path / "sekali").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sekali "$@"\n')
        (tmp_path / "sekali").chmod(0o755)
    env = environment(SEKALI_URL=shared_server.url, PATH=os.pathsep.join([str(tmp_path), os.environ["PATH"]]))
    started: list[subprocess.Popen[str]] = []

    def begin(line: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            line,
            shell=True,
            cwd=tmp_path,
            env=env,
            text=True,
            encoding="utf-8",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        end_with_children(process)


def end_with_children(process: subprocess.Popen[str]) -> None:
    """The shell, the command it runs, and the server which that may have started."""
    if process.poll() is None and os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.communicate()


def test_every_command_has_an_example() -> None:
    assert COMMANDS == ["serve", "publish", "tail", "stats", "ledger", "backup", "verify", "demo"]
    assert {command for command, _ in EXAMPLES} == set(COMMANDS)


@pytest.mark.parametrize(("command", "example"), EXAMPLES, ids=[example for _, example in EXAMPLES])
def test_an_example_does_what_it_says(
    command: str, example: str, shell: Callable[[str], subprocess.Popen[str]]
) -> None:
    assert f"sekali {command}" in example
    process = shell(example if command != "serve" or os.name == "nt" else f"exec {example}")
    if command == "serve":
        assert process.stdout is not None
        assert "serves http://" in process.stdout.readline()
        process.terminate()
        return
    out, err = process.communicate(timeout=FINISHED_S_MAX)
    if "/var/log/" in example and not Path(re.findall(r"/var/log/\S+", example)[0]).exists():
        assert (process.returncode, "cannot read" in err) == (2, True)
        return
    assert process.returncode == 0, err
    expected = {"publish": "rejected 0", "demo": "nothing lost, nothing doubled", "stats": "received", "tail": ""}
    expected |= {"ledger": "source", "backup": "backup.db: 0 events", "verify": "0 events, 0 duplicates: sound"}
    assert expected[command] in out


def test_help_for_a_pipe_is_plain_text() -> None:
    for command in COMMANDS:
        text = invoke(command, "--help").stdout
        assert text.isascii()
        assert "\x1b" not in text


def test_the_version_is_shown() -> None:
    shown = invoke("--version")
    assert (shown.returncode, shown.stdout) == (0, f"sekali {__version__}\n")


def test_no_command_shows_the_commands_and_an_unknown_one_is_exit_2() -> None:
    assert all(command in invoke("--help").stdout for command in COMMANDS)
    assert invoke().returncode == 2
    assert invoke("serv").returncode == 2
