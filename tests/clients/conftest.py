"""One server for all tests that neither end it nor count everything, and commands that are ended with their test."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.clients import commands
from tests.serving import Server


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Each test has a topic of its own there."""
    server = Server(tmp_path_factory.mktemp("shared")).start()
    yield server
    server.kill()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """This test's own."""
    return str(request.node.nodeid)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """commands.start, for commands that do not end by themselves."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
        process = commands.start(*arguments, **options)  # type: ignore[arg-type]
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
