"""The load generator must see every lie: it is run against servers that lose, double, alter, refuse and hang up."""

from __future__ import annotations

from typing import Any

import pytest

from bench.events import EventPlan
from bench.load import run_load
from bench.load_report import LoadReport, percentiles_ms
from tests.bench.planted import serving

pytestmark = pytest.mark.slow  # each starts servers and loads them; CI runs these beside the suite's smoke


def load(url: str, plan: EventPlan, **more: Any) -> LoadReport:
    return run_load(url, plan, connections=3, seconds=20.0, settle_s=0.2, **more)


@pytest.mark.parametrize("batch", [1, 50])
@pytest.mark.parametrize("dup", [0.0, 0.3])
def test_an_honest_server_passes_every_check(seed: int, batch: int, dup: float) -> None:
    with serving("none") as url:
        report = load(url, EventPlan(600, batch, seed, dup=dup))
    assert report.faults == []
    assert report.events == 600
    assert (report.events_new == 600) is (dup == 0.0)
    assert report.stored_per_s > 0
    assert set(report.latency_ms) == {"p50", "p90", "p99", "max"}


def test_requests_built_between_sends_are_the_same_requests(seed: int) -> None:
    with serving("none") as url:
        report = load(url, EventPlan(600, 50, seed), prebuild_events_max=10)
    assert report.sound
    assert not report.prebuilt


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("loses", "unique_processed"),
        ("alters", "fetched by id"),
        ("accepts fewer", "sum of accepted"),
        ("miscounts", "duplicate_dropped"),
        ("refuses", "refused"),
        ("hangs up", "not answered"),
    ],
)
def test_a_planted_fault_is_reported(seed: int, fault: str, told: str) -> None:
    with serving(fault) as url:
        report = load(url, EventPlan(600, 20, seed))
    assert any(told in line for line in report.faults), report.faults


def test_storing_a_repeat_twice_is_reported(seed: int) -> None:
    with serving("doubles") as url:
        report = load(url, EventPlan(600, 20, seed, dup=0.3))
    assert any("unique_processed" in line for line in report.faults), report.faults


def test_what_was_not_answered_may_or_may_not_be_stored(seed: int) -> None:
    with serving("hangs up") as url:
        report = load(url, EventPlan(600, 20, seed))
    assert report.unknown == 1
    assert report.events == 580
    assert len(report.faults) == 1


def test_percentiles_are_of_the_ordered_samples() -> None:
    shuffled = [n * 1_000_000 for n in (5, 1, 4, 2, 3)]
    assert percentiles_ms(shuffled) == {"p50": 3.0, "p90": 5.0, "p99": 5.0, "max": 5.0}
    assert percentiles_ms([]) == {}
