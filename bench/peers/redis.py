"""Redis, as a Debian package brings it: every write in the append-only file, synced before the answer."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

from bench.events import EventPlan
from bench.generator import plan_arguments, run_generator
from bench.load_report import LoadReport
from bench.optional import lacking
from bench.peers.peer import ServerPeer
from bench.processes import BenchError, free_port


def asked(port: int, command: str) -> bytes:
    """The first answer to one inline command."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(f"{command}\r\n".encode())
        return sock.recv(4096)


class Redis(ServerPeer):
    """Everything stays in memory as well, keys and events: it is bounded by RAM, which no table here shows."""

    name = "redis"
    about = (
        "Redis, appendonly yes, appendfsync always, no snapshots; one script call a request, SET NX and XADD an event; "
        "commands packed before the clock, no HTTP; keeps all keys and events in RAM"
    )

    def missing(self) -> str | None:
        if shutil.which("redis-server") is None:
            return "no redis-server (Debian: apt-get install redis-server)"
        return lacking("redis")

    def version(self) -> str | None:
        done = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, timeout=30, check=False)
        return done.stdout.strip() or None

    def start(self, folder: Path) -> float:
        self.port = free_port()
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        return self.launch(command, folder, self._is_ready)

    def _is_ready(self) -> bool:
        try:
            return asked(self.port, "PING").startswith(b"+PONG")
        except OSError:
            return False

    def load(self, plan: EventPlan, connections: int, seconds: float) -> LoadReport:
        arguments = ["--port", str(self.port), *plan_arguments(plan, connections, seconds)]
        return run_generator("bench.drivers.redis", arguments, seconds, self.log_end)

    def stored_events(self) -> int:
        answer = asked(self.port, "XLEN log")
        if not answer.startswith(b":"):
            raise BenchError(f"redis answered {answer!r}")
        return int(answer[1:])

    def disk_parts(self, folder: Path) -> dict[str, list[Path]]:
        return {"store": [folder / "appendonlydir"]}
