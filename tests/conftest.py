"""Shared by all tests: seeds that are printed, a free port, a real server."""

from __future__ import annotations

import os
import random
import signal
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.serving import Server, unused_port

BASE_SEED = int(os.environ.get("SEKALI_TEST_SEED", "20260101"))

# The same examples on every run, unless a seed was asked for.
hypothesis.settings.register_profile(
    "sekali", deadline=None, print_blob=True, derandomize="SEKALI_TEST_SEED" not in os.environ
)
hypothesis.settings.load_profile("sekali")


def pytest_configure() -> None:
    """A shell ignores SIGINT for what it runs in the background, and so would every program that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    return f"SEKALI_TEST_SEED={BASE_SEED}"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """This test's own seed. Printed, so a failure shows it; SEKALI_TEST_SEED chooses another."""
    own = BASE_SEED ^ zlib.crc32(request.node.nodeid.encode())
    print(f"seed {own} (SEKALI_TEST_SEED={BASE_SEED})")
    return own


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.fixture
def free_port() -> int:
    return unused_port()


@pytest.fixture
def make_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """`make_server(**env)`: a server not yet started, on a fresh folder (or on `folder=`). All end with the test."""
    made: list[Server] = []

    def make(folder: Path | None = None, **env: str) -> Server:
        server = Server(folder or tmp_path_factory.mktemp("server"), env)
        made.append(server)
        return server

    yield make
    for server in made:
        server.kill()


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    """A running server on a temporary DB_PATH, ready."""
    return make_server().start()
