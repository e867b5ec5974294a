"""What the suite asks of anything it measures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench.events import EventPlan
from bench.load import LoadReport


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
    """False when it acknowledges before the event is durable; throughput is then counted until all is stored."""
    batch_events_max: int | None = None
    """Most events of a batched run, for peers too slow for the usual number within a few seconds. None: no bound."""
    single_events_max: int | None = None

    @abstractmethod
    def missing(self) -> str | None:
        """Why it cannot run on this machine, in a few words; None when it can. Never installs anything."""

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
