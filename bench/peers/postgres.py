"""PostgreSQL, as a Debian package brings it: a cluster of its own in the run's folder, durable as by default."""

from __future__ import annotations

import asyncio
import getpass
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

from bench.events import EventPlan
from bench.generator import plan_arguments, run_generator
from bench.load_report import LoadReport
from bench.optional import lacking
from bench.peers.peer import ServerPeer
from bench.processes import STOP_S_MAX, BenchError, free_port

DEBIAN: Final = Path("/usr/lib/postgresql")
ACCOUNT: Final = "postgres"
"""Debian's; the server refuses to run as root."""
SETTINGS: Final = {"shared_buffers": "256MB", "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
"""All else is the default: fsync and synchronous_commit on, full_page_writes on, max_wal_size 1 GB, autovacuum on."""
INIT_S_MAX: Final = 120.0


class Postgres(ServerPeer):
    """One `INSERT ... SELECT FROM unnest(...) ON CONFLICT DO NOTHING RETURNING` a request, without HTTP."""

    batch_connections = 2
    single_connections = 32

    def __init__(self, payload: str = "jsonb") -> None:
        super().__init__()
        self.payload = payload
        self.name = "postgres" if payload == "jsonb" else f"postgres-{payload}"
        self.about = (
            f"PostgreSQL, payload {payload}; INSERT of unnested arrays, ON CONFLICT DO NOTHING RETURNING the new keys, "
            "prepared; columns built before the clock, no HTTP; fsync on, shared_buffers 256 MB, C locale"
        )
        self.outside: tempfile.TemporaryDirectory[str] | None = None
        self.outside_of: Path | None = None

    def missing(self) -> str | None:
        if programs() is None:
            return "no initdb and postgres (Debian: apt-get install postgresql)"
        if account() is not None and not _exists(ACCOUNT):
            return f"running as root, and there is no account {ACCOUNT} to run the server as"
        return lacking("asyncpg")

    def version(self) -> str | None:
        found = programs()
        return _printed(found / "postgres", "--version") if found else None

    @property
    def user(self) -> str:
        return account() or getpass.getuser()

    def start(self, folder: Path) -> float:
        found = programs()
        assert found is not None, "asked to start what is missing"
        self.port = free_port()
        data = self._data_folder(folder)
        if not (data / "PG_VERSION").exists():
            self._make_cluster(found, data)
        command = [str(found / "postgres"), "-D", str(data), "-p", str(self.port)]
        for name, value in SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        return self.launch(command, folder, self._is_ready, account=account())

    def _data_folder(self, folder: Path) -> Path:
        """In the run's folder; where the server's account can't get there, in one of the system's temporary ones."""
        if account() is None or all(parent.stat().st_mode & 0o001 for parent in [folder, *folder.resolve().parents]):
            return folder / "pgdata"
        if self.outside is None or self.outside_of != folder:
            if self.outside is not None:
                self.outside.cleanup()
            self.outside = tempfile.TemporaryDirectory(prefix="bench-postgres-")
            self.outside_of = folder
            Path(self.outside.name).chmod(0o711)
        return Path(self.outside.name) / "pgdata"

    def _make_cluster(self, found: Path, data: Path) -> None:
        data.mkdir(mode=0o700)
        if account() is not None:
            shutil.chown(data, account(), account())
        made = subprocess.run(
            [str(found / "initdb"), "-D", str(data), "-U", self.user, "-A", "trust", "-E", "UTF8", "--locale=C",
             "--no-sync"],
            user=account(), group=account(), extra_groups=[] if account() else None, cwd="/",
            capture_output=True, text=True, timeout=INIT_S_MAX, check=False,
        )  # fmt: skip
        if made.returncode != 0:
            raise BenchError(f"initdb failed:\n{made.stderr[-2000:]}")

    def _is_ready(self) -> bool:
        try:
            return self._ask("SELECT 1") == 1
        except (OSError, BenchError):  # nobody listens yet, or it says that it is starting
            return False

    def _ask(self, sql: str) -> Any:
        from bench.drivers.postgres import asyncpg, connect

        async def ask() -> Any:
            connection = await connect(self.port, self.user)
            try:
                return await connection.fetchval(sql)
            finally:
                await connection.close()

        try:
            return asyncio.run(ask())
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise BenchError(f"{sql}: {error}\n{self.log_end()}") from error

    def load(self, plan: EventPlan, connections: int, seconds: float) -> LoadReport:
        arguments = ["--port", str(self.port), "--user", self.user, "--payload", self.payload]
        arguments += plan_arguments(plan, connections, seconds)
        return run_generator("bench.drivers.postgres", arguments, seconds, self.log_end)

    def stored_events(self) -> int:
        return int(self._ask("SELECT count(*) FROM events"))

    def disk_parts(self, folder: Path) -> dict[str, list[Path]]:
        return {"store": [self._data_folder(folder)]}

    def kill(self) -> None:
        """An immediate shutdown: no checkpoint, recovery at the next start, as after a crash. SIGKILL would leave its
        children and its shared memory behind."""
        if self.server is not None and self.server.popen.poll() is None:
            self.server.popen.send_signal(signal.SIGQUIT)
            try:
                self.server.popen.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self.server.kill()
        self.server = None


def programs() -> Path | None:
    """The folder of `postgres` and `initdb`: Debian's newest, or what is on the PATH."""
    versions = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(re.sub(r"\D", "", path.parts[-3]) or 0))
    on_path = [Path(found) for found in [shutil.which("initdb")] if found]
    for initdb in [*reversed(versions), *on_path]:
        if (initdb.parent / "postgres").exists():
            return initdb.parent
    return None


def account() -> str | None:
    """Whom to run it as; None: as who we are."""
    return ACCOUNT if hasattr(os, "geteuid") and os.geteuid() == 0 else None


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _printed(program: Path, *arguments: str) -> str | None:
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() or None
