"""The loop under the drivers must see every lie: it is run against clients that lose, miscount and break."""

from __future__ import annotations

from typing import Any

import pytest

from bench.drivers.driver import Columns, Driver, drive, events_of
from bench.events import Body, EventPlan, bodies


class InMemory(Driver):
    """A peer that is a set, with one planted fault."""

    def __init__(self, fault: str = "none") -> None:
        self.fault = fault
        self.keys: set[tuple[str, str]] = set()
        self.requests = 0
        self.closed = False

    async def open(self, connections: int) -> None:
        assert connections > 0

    def prepare(self, body: Body) -> list[Columns]:
        return events_of(body)

    async def send(self, connection: int, prepared: list[Columns]) -> int:
        self.requests += 1
        if self.fault == "breaks" and self.requests == 3:
            raise OSError("gone")
        before = len(self.keys)
        lost = 1 if self.fault == "loses" and self.requests == 3 else 0
        self.keys |= {(event.topic, event.event_id) for event in prepared[lost:]}
        new = len(self.keys) - before
        return len(prepared) if self.fault == "calls repeats new" else new + lost

    async def stored_events(self) -> int:
        return len(self.keys)

    async def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("batch", [1, 50])
@pytest.mark.parametrize("dup", [0.0, 0.3])
async def test_an_honest_peer_passes_every_check(seed: int, batch: int, dup: float) -> None:
    driver = InMemory()
    report = await drive(driver, EventPlan(600, batch, seed, dup=dup), 3, 20.0)
    assert report.faults == []
    assert report.events == 600
    assert report.events_new == len(driver.keys)
    assert report.requests == 600 // batch
    assert report.stored_per_s > 0
    assert set(report.latency_ms) == {"p50", "p90", "p99", "max"}
    assert driver.closed


@pytest.mark.parametrize(
    ("fault", "told"), [("loses", "stored:"), ("calls repeats new", "told as new"), ("breaks", "OSError: gone")]
)
async def test_a_planted_fault_is_reported(seed: int, fault: str, told: str) -> None:
    report = await drive(InMemory(fault), EventPlan(600, 20, seed, dup=0.3), 3, 20.0)
    assert any(told in line for line in report.faults), report.faults


async def test_a_request_that_broke_is_not_counted_as_acknowledged(seed: int) -> None:
    report = await drive(InMemory("breaks"), EventPlan(600, 20, seed), 3, 20.0)
    assert report.unknown == 1
    assert report.events == 580


def test_events_of_a_body_are_its_columns_and_the_payload_its_text(seed: int) -> None:
    for batch in (1, 3):
        (body, *_) = bodies(EventPlan(3, batch, seed))
        events: list[Any] = events_of(body)
        assert len(events) == batch
        assert bytes(events[-1].payload) in body.sample
        assert events[-1].event_id.encode() in body.sample
