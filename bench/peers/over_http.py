"""Sekali, the yardstick and the simple design: all on the same uvicorn, all over HTTP with the same generator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

from bench.events import EventPlan
from bench.load import LoadReport, get_json
from bench.peers.peer import Peer
from bench.processes import BenchError, ServerProcess, answers_ok, free_port

ROOT: Final = Path(__file__).resolve().parents[2]
LOAD_EXTRA_S: Final = 180.0
"""What a load run may take besides sending: building requests, late answers, settling."""


class HttpPeer(Peer):
    """An ASGI application on uvicorn, one process, access log off."""

    application: str
    ready_path = "/healthz"

    def __init__(self) -> None:
        self.server: ServerProcess | None = None
        self.port = 0

    def environment(self, folder: Path) -> dict[str, str]:
        """What the application needs to know, for a store in `folder`."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def missing(self) -> str | None:
        return None

    def start(self, folder: Path) -> float:
        assert self.server is None, "started twice"
        self.port = free_port()
        command = [sys.executable, "-m", "uvicorn", self.application, "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--app-dir", str(ROOT), "--no-access-log", "--log-level", "warning"]
        self.server = ServerProcess(command, self.environment(folder), folder / "server.log")
        try:
            return self.server.wait_until(lambda: answers_ok(self.port, self.ready_path))
        except BenchError:
            self.kill()
            raise

    def load(self, plan: EventPlan, connections: int, seconds: float) -> LoadReport:
        command = [sys.executable, "-m", "bench.load", "--json", "--url", self.url, "--batch", str(plan.batch)]
        command += ["--events", str(plan.events), "--seed", str(plan.seed), "--dup", str(plan.dup), "--ids", plan.ids]
        command += ["--topics", str(plan.topics), "--connections", str(connections), "--seconds", str(seconds)]
        if not self.stores:
            command.append("--no-verify")
        timeout_s = seconds + LOAD_EXTRA_S
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)
        try:
            return LoadReport(**json.loads(done.stdout))
        except ValueError as error:
            log = self.server.log_end() if self.server else ""
            raise BenchError(f"the load generator failed:\n{done.stderr[-2000:]}\nserver:\n{log}") from error

    def stored_events(self) -> int:
        return int(get_json(self.url, "/stats")[1]["unique_processed"]) if self.stores else 0

    def processes(self) -> Sequence[psutil.Process]:
        assert self.server is not None, "not started"
        return [self.server.seen, *self.server.seen.children(recursive=True)]

    def disk_parts(self, folder: Path) -> dict[str, list[Path]]:
        return {"store": list(folder.glob("store.db*"))}

    def stop(self) -> float:
        assert self.server is not None, "not started"
        server, self.server = self.server, None
        return server.stop()

    def kill(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server = None


class Sekali(HttpPeer):
    """This project, as the README starts it."""

    name = "sekali"
    about = "uvicorn src.main:app, answers when durable"
    application = "src.main:app"
    ready_path = "/readyz"

    def environment(self, folder: Path) -> dict[str, str]:
        return {"DB_PATH": str(folder / "store.db")}

    def disk_parts(self, folder: Path) -> dict[str, list[Path]]:
        log = [path for path in folder.glob("store.db*") if path.name in ("store.db", "store.db-wal", "store.db-shm")]
        beside = [path for path in folder.iterdir() if path not in log and path.name != "server.log"]
        return {"log": log, "index": beside}


class Hello(HttpPeer):
    """The yardstick: what uvicorn carries when the application does nothing."""

    name = "hello"
    about = "a bare ASGI application that reads the body and answers; keeps nothing"
    application = "bench.peers.hello:app"
    stores = False

    def environment(self, _folder: Path) -> dict[str, str]:
        return {}


class Simple(HttpPeer):
    """See bench/peers/simple.py."""

    name = "simple"
    about = "queue in memory, one INSERT OR IGNORE and commit per event; answers before it is stored"
    application = "bench.peers.simple:app"
    answers_when_stored = False
    batch_events_max = 4000
    single_events_max = 4000

    def environment(self, folder: Path) -> dict[str, str]:
        return {"SIMPLE_DB": str(folder / "store.db")}


def peers() -> dict[str, Peer]:
    """Every peer by name, the yardstick first: the order in which runs alternate."""
    every: list[Peer] = [Hello(), Sekali(), Simple()]
    return {peer.name: peer for peer in every}
