"""The image, built and run as far as that goes without a Docker engine: every RUN and CMD line in a bare Debian."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.dockerfile import BareDebian, instructions
from tests.serving import ROOT, Server

LINES = instructions((ROOT / "Dockerfile").read_text(encoding="utf-8"))
EVENT = {"topic": "t", "event_id": "1", "timestamp": "2024-01-01T00:00:00Z", "source": "s", "payload": {}}


def argument_of(word: str) -> str:
    (argument,) = [argument for found, argument in LINES if found == word]
    return argument


def test_the_base_is_python_3_11_slim_or_newer() -> None:
    found = re.fullmatch(r"python:3\.(\d+)-slim(-\w+)?", argument_of("FROM"))
    assert found is not None
    assert int(found[1]) >= 11


def test_the_server_runs_as_a_user_with_a_number_that_is_not_root() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", argument_of("USER"))


def test_every_copied_file_is_let_through_by_dockerignore() -> None:
    let_through = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    copied = [source for word, argument in LINES if word == "COPY" for source in argument.split()[:-1]]
    assert set(copied) == set(let_through)
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.slow
def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint has no build for this platform")
    linted = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout) == (0, "")


class ContainerServer(Server):
    """The image's CMD, in a bare Debian."""

    def __init__(self, debian: BareDebian, user: str, folder: Path) -> None:
        super().__init__(folder)
        self._debian = debian
        self._user = user

    def _popen_arguments(self) -> tuple[list[str], Path, dict[str, str]]:
        env = {**self._debian.env, "PORT": str(self.port)}
        return self._debian.command(self._debian.cmd, self._user), Path("/"), env


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareDebian]:
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("a bare root file system needs Linux, root and debootstrap")
    folder = tmp_path_factory.mktemp("debian")
    folder.chmod(0o755)
    built = BareDebian.install(folder / "root", python="3.11")
    for word, argument in LINES:
        built.carry_out(word, argument)
    yield built
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("user", ["the image's", "0:0"])
def test_every_line_runs_in_a_bare_debian(debian: BareDebian, user: str, tmp_path: Path) -> None:
    data = (debian.root / "data").stat()
    assert f"{data.st_uid}:{data.st_gid}" == debian.user
    user = debian.user if user == "the image's" else user
    server = ContainerServer(debian, user, tmp_path).start()
    try:
        assert server.call("POST", "/publish", EVENT)[0] == 200
        stored = server.call("GET", "/stats")[1]
        assert (stored["unique_processed"], stored["db_path"]) == (1, "/data/store.db")
        debian.env["PORT"] = str(server.port)
        debian.run(debian.healthcheck, user=user)
        # uvicorn passes the signal on when it has drained; as a container's first process that has no effect.
        assert server.terminate(timeout_s=15) in (0, -signal.SIGTERM)
        assert not (debian.root / "data" / "store.db-wal").exists(), "a clean stop leaves no write-ahead log"
        with pytest.raises(AssertionError, match="refused"):
            debian.run(debian.healthcheck, user=user)
    finally:
        server.kill()
