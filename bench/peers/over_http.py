"""Sekali, the yardstick and the simple design: all on the same uvicorn, all over HTTP with the same generators."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.check import get_json
from bench.events import EventPlan
from bench.generator import ROOT, plan_arguments, run_generator
from bench.load_report import LoadReport
from bench.peers.peer import ServerPeer
from bench.processes import answers_ok, free_port


class HttpPeer(ServerPeer):
    """An ASGI application on uvicorn, one process, access log off."""

    application: str
    ready_path = "/healthz"

    def environment(self, folder: Path) -> dict[str, str]:
        """What the application needs to know, for a store in `folder`."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def missing(self) -> str | None:
        return None

    def start(self, folder: Path) -> float:
        self.port = free_port()
        command = [sys.executable, "-m", "uvicorn", self.application, "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--app-dir", str(ROOT), "--no-access-log", "--log-level", "warning"]
        return self.launch(command, folder, lambda: answers_ok(self.port, self.ready_path), self.environment(folder))

    def load(self, plan: EventPlan, connections: int, seconds: float) -> LoadReport:
        arguments = ["--json", "--url", self.url, *plan_arguments(plan, connections, seconds)]
        if not self.stores:
            arguments.append("--no-verify")
        return run_generator("bench.load", arguments, seconds, self.log_end)

    def stored_events(self) -> int:
        return int(get_json(self.url, "/stats")[1]["unique_processed"]) if self.stores else 0

    def disk_parts(self, folder: Path) -> dict[str, list[Path]]:
        return {"store": list(folder.glob("store.db*"))}


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


class SlowDisk(Sekali):
    """Sekali on a disk whose every sync takes longer: see bench/peers/slow_disk.py."""

    application = "bench.peers.slow_disk:app"

    def __init__(self, sync_delay_ms: int) -> None:
        super().__init__()
        self.sync_delay_ms = sync_delay_ms
        self.name = f"sekali-sync{sync_delay_ms}ms"
        self.about = f"sekali with {sync_delay_ms} ms added to each sync of SQLite's files, by a VFS in Python"

    def environment(self, folder: Path) -> dict[str, str]:
        return {**super().environment(folder), "SYNC_DELAY_MS": str(self.sync_delay_ms)}
