"""What the suite asks of anything it measures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import psutil

from bench.events import EventPlan
from bench.load_report import LoadReport
from bench.processes import BenchError, ServerProcess

EMPTY: Final[Mapping[str, str]] = MappingProxyType({})


class Peer(ABC):
    """A system under test: started in an empty folder, loaded from another process, asked what it stored, stopped.

    One object serves one run at a time: start, any number of load, stop or kill; then start again, in the same folder
    (what was stored must be there) or in another one.
    """

    name: str
    about: str
    """How it is driven and what its answer means, for the table's footnote."""
    stores: bool = True
    """False for a yardstick that keeps nothing: its answers are counted, not checked."""
    answers_when_stored: bool = True
    """False when it acknowledges before the event is durable."""
    batch_events_max: int | None = None
    """Most events of a batched run, for peers too slow for the usual number within a few seconds. None: no bound."""
    single_events_max: int | None = None
    batch_connections: int | None = None
    """How many connections it is given, where that is not the case's own number."""
    single_connections: int | None = None

    @abstractmethod
    def missing(self) -> str | None:
        """Why it cannot run on this machine, in a few words; None when it can. Never installs anything."""

    def version(self) -> str | None:
        """Of the server that would be started, for the record; None when it is this checkout."""
        return None

    @abstractmethod
    def start(self, folder: Path) -> float:
        """Returns the seconds until it took work. Raises BenchError."""

    @abstractmethod
    def load(self, plan: EventPlan, connections: int, seconds: float) -> LoadReport:
        """Publishes the plan's events from another process, and checks what was stored against what was answered."""

    @abstractmethod
    def stored_events(self) -> int:
        """How many distinct events it holds, asked of itself."""

    @abstractmethod
    def processes(self) -> Sequence[psutil.Process]:
        """The server's processes, to measure CPU and memory. The load generator is not among them."""

    @abstractmethod
    def disk_parts(self, folder: Path) -> dict[str, list[Path]]:
        """What counts as disk, by part: `log`, `index`, or one `store`."""

    @abstractmethod
    def stop(self) -> float:
        """Ends it in an orderly way; returns the seconds that took. Raises BenchError."""

    @abstractmethod
    def kill(self) -> None:
        """Ends it at once, as a crash would. Does nothing when it is not running."""


class ServerPeer(Peer):
    """A peer that is one server process, with children perhaps, on a loopback port."""

    def __init__(self) -> None:
        self.server: ServerProcess | None = None
        self.port = 0

    def launch(
        self, command: Sequence[str], folder: Path, ready: Callable[[], bool], environment: Mapping[str, str] = EMPTY,
        account: str | None = None,
    ) -> float:  # fmt: skip
        """Starts the process; seconds until `ready()`."""
        assert self.server is None, "started twice"
        self.server = ServerProcess(command, environment, folder / "server.log", account)
        try:
            return self.server.wait_until(ready)
        except BenchError:
            self.kill()
            raise

    def log_end(self) -> str:
        return self.server.log_end() if self.server else ""

    def processes(self) -> Sequence[psutil.Process]:
        assert self.server is not None, "not started"
        return [self.server.seen, *self.server.seen.children(recursive=True)]

    def stop(self) -> float:
        assert self.server is not None, "not started"
        server, self.server = self.server, None
        return server.stop()

    def kill(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server = None
