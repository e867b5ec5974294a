"""I7: a full disk is a clean 507; reads go on; publishing resumes by itself once there is room.

The store lies on a small file system in memory, which clients fill. Without the water marks the real ENOSPC is met in
the middle of commits, compactions and checkpoints, and of RocksDB's flushes where the index has a file system of its
own.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.clients import Clients, check
from tests.faults.evidence import Evidence
from tests.serving import Server
from tests.support.stores import wait_for

CLIENTS: Final = 4
WATER_MARKS: Final = {"SEKALI_DISK_FREE_BYTES_MIN": "4000000", "SEKALI_DISK_FREE_BYTES_RESUME": "6000000"}
NO_WATER_MARKS: Final = {"SEKALI_DISK_FREE_BYTES_MIN": "0", "SEKALI_DISK_FREE_BYTES_RESUME": "0"}
SMALL_MEMTABLE: Final = {"SEKALI_INDEX_MEMTABLE_BYTES": str(1024 * 1024)}
FULL: Final = "disk_full"

MakeServer = Callable[..., Server]


class SmallDisk:
    """A tmpfs of so many mebibytes."""

    def __init__(self, path: Path, mib: int) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._run("mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(path))

    def resize(self, mib: int) -> None:
        self._run("mount", "-o", f"remount,size={mib}m", str(self.path))

    def unmount(self) -> None:
        self._run("umount", str(self.path))

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)


MakeDisk = Callable[[Path, int], SmallDisk]


@pytest.fixture
def make_disk() -> Iterator[MakeDisk]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small file system takes Linux and root")
    made: list[SmallDisk] = []

    def make(path: Path, mib: int) -> SmallDisk:
        try:
            made.append(SmallDisk(path, mib))
        except subprocess.CalledProcessError as error:
            pytest.skip(f"nothing can be mounted here: {error.stderr!r}")
        return made[-1]

    yield make
    for disk in reversed(made):
        disk.unmount()


@pytest.fixture
def server_in(make_disk: MakeDisk) -> Iterator[MakeServer]:
    """`server_in(folder, env)`: not yet started; ended before its disks are unmounted."""
    made: list[Server] = []

    def make(folder: Path, env: dict[str, str]) -> Server:
        made.append(Server(folder, env))
        return made[-1]

    yield make
    for server in made:
        server.kill()


def fill(server: Server, clients: Clients) -> None:
    """Publishes until the disk is full, and looks at the server then."""
    clients.start()
    before = clients.answers(FULL)
    wait_for(lambda: clients.answers(FULL) > before + 20, "publishing is refused as the disk is full")
    clients.stop()
    status, ready = server.call("GET", "/readyz")
    if status != 200:  # without water marks a small publish may still find room
        assert (status, ready["code"]) == (503, "not_ready"), ready
    assert server.call("GET", "/stats")[0] == 200
    assert server.call("GET", "/healthz")[0] == 200
    counts = check(server, clients.attempts())
    assert counts["acknowledged"] > 20, counts


def resume(server: Server, clients: Clients) -> dict[str, int]:
    """Publishes again, after room was made: no restart is needed."""
    before = clients.answers("200")
    clients.start()
    wait_for(lambda: clients.answers("200") > before + 20, "publishing goes on")
    clients.stop()
    wait_for(lambda: server.call("GET", "/readyz")[0] == 200, "the server is ready again")
    return check(server, clients.attempts())


@pytest.mark.slow
@pytest.mark.parametrize("marks", [WATER_MARKS, NO_WATER_MARKS], ids=["water marks", "none"])
def test_publishing_stops_with_507_and_resumes_by_itself(
    marks: dict[str, str],
    make_disk: MakeDisk,
    server_in: MakeServer,
    rng: random.Random,
    tmp_path: Path,
    evidence: Evidence,
) -> None:
    disk = make_disk(tmp_path / "disk", 8)
    server = server_in(disk.path, {**marks, **SMALL_MEMTABLE})
    server.log_path = tmp_path / "server.log"
    server.start()
    clients = Clients(CLIENTS, server.port, tmp_path, rng.randrange(1 << 30))
    try:
        for mib in (16, 24):
            fill(server, clients)
            disk.resize(mib)
            print(resume(server, clients))
    finally:
        clients.close()
    assert "Traceback" not in server.log
    evidence.note("I7", "the disk is filled and grown, with and without water marks", 2)


@pytest.mark.slow
def test_an_index_without_room_stops_publishing_until_there_is_some(
    make_disk: MakeDisk, server_in: MakeServer, rng: random.Random, tmp_path: Path, evidence: Evidence
) -> None:
    """RocksDB is full first: its folder is a file system of its own."""
    folder = tmp_path / "data"
    disk = make_disk(folder / "store.db.seen", 4)
    server = server_in(folder, {**NO_WATER_MARKS, **SMALL_MEMTABLE})
    server.start()
    clients = Clients(CLIENTS, server.port, tmp_path, rng.randrange(1 << 30))
    try:
        fill(server, clients)
        disk.resize(64)
        print(resume(server, clients))
    finally:
        clients.close()
        server.kill()
    evidence.note("I7", "the disk of the seen index is filled and grown", 1)


@pytest.mark.slow
def test_a_server_killed_on_a_full_disk_starts_on_it_and_goes_on_once_there_is_room(
    make_disk: MakeDisk, server_in: MakeServer, rng: random.Random, tmp_path: Path, evidence: Evidence
) -> None:
    disk = make_disk(tmp_path / "disk", 12)
    server = server_in(disk.path, {**WATER_MARKS, **SMALL_MEMTABLE})
    server.log_path = tmp_path / "server.log"
    server.start()
    clients = Clients(CLIENTS, server.port, tmp_path, rng.randrange(1 << 30))
    try:
        fill(server, clients)
        server.kill()
        ballast = disk.path / "ballast"
        size = os.statvfs(disk.path)
        with ballast.open("wb") as file:
            file.write(bytes(max(0, size.f_bavail * size.f_frsize - 300_000)))
        server.start(wait=False)
        process = server.process
        assert process is not None
        wait_for(lambda: server.call("GET", "/healthz")[0] == 200 or process.poll() is not None, "it serves, or ends")
        has_ended = process.poll() is not None
        if has_ended:  # what the write-ahead log holds found no room in the file
            assert process.poll() == 1, server.log
            assert "is full" in server.log.splitlines()[-1], server.log
        else:
            check(server, clients.attempts())
        ballast.unlink()
        disk.resize(20)
        if has_ended:
            server.start()
        print("ended" if has_ended else "served", resume(server, clients))
    finally:
        clients.close()
    evidence.note("I7", "kill -9 on a full disk, start on it, then room", 1)
