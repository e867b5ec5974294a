"""What a load run saw: the one answer of every generator, whatever it speaks."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class LoadReport:
    """What a load run saw. Times in seconds unless named otherwise; latencies of answered requests."""

    plan: dict[str, Any]
    connections: int
    prebuilt: bool
    elapsed_s: float = 0.0
    """First byte sent to last answer."""
    settled_s: float = 0.0
    """First byte sent until the server shows all that was acknowledged: later where answers come before the store."""
    requests: int = 0
    events: int = 0
    """Acknowledged, repeats included."""
    events_new: int = 0
    """Acknowledged and not sent before in this run."""
    bytes_sent: int = 0
    """As JSON, whatever the driver made of it."""
    answered_per_s: float = 0.0
    stored_per_s: float = 0.0
    """Acknowledged events over settled_s: the figure to compare."""
    requests_per_s: float = 0.0
    latency_ms: dict[str, float] = field(default_factory=dict)
    generator_cpu_s: float = 0.0
    refused: dict[str, int] = field(default_factory=dict)
    unknown: int = 0
    """Requests without an answer: perhaps stored."""
    checks: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.faults

    def expect(self, what: str, seen: int, wanted: int) -> None:
        """Keeps a comparison: among the checks when it holds, among the faults when not."""
        (self.checks if seen == wanted else self.faults).append(f"{what}: {seen}, expected {wanted}")

    def set_rates(self) -> None:
        """From the counts and the times, once both are final."""
        if self.elapsed_s > 0:
            self.answered_per_s = self.events / self.elapsed_s
            self.requests_per_s = self.requests / self.elapsed_s
            self.stored_per_s = self.events / self.settled_s


def percentiles_ms(latencies_ns: Sequence[int]) -> dict[str, float]:
    """p50, p90, p99 and the largest, in milliseconds; empty without samples."""
    if not latencies_ns:
        return {}
    ordered = sorted(latencies_ns)
    at = {"p50": 0.50, "p90": 0.90, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[min(len(ordered) - 1, int(len(ordered) * q))] / 1e6, 3) for name, q in at.items()}


def own_cpu_s(who: int = resource.RUSAGE_SELF) -> float:
    """User and system time of this process, or of its ended children."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime
