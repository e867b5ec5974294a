"""wrk as a generator: each body is sent once, and a server that loses, refuses or hangs up is found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import wrk
from bench.events import EventPlan
from bench.wrk import wrk_load
from tests.bench.planted import serving

pytestmark = pytest.mark.skipif(wrk.missing() is not None, reason=str(wrk.missing()))


@pytest.mark.parametrize("batch", [1, 50])
def test_each_body_is_sent_once_and_the_run_ends_with_the_last_answer(tmp_path: Path, seed: int, batch: int) -> None:
    with serving("none") as url:
        report = wrk_load(url, EventPlan(600, batch, seed), 3, 60.0, folder=tmp_path, settle_s=0.2)
    assert report.faults == []
    assert report.events == report.events_new == 600
    assert report.requests == 600 // batch
    assert 0 < report.elapsed_s < 60
    assert 0 < report.latency_ms["p50"] <= report.latency_ms["p99"] <= report.latency_ms["max"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "told"), [("loses", "unique_processed"), ("alters", "fetched by id"), ("refuses", "refused, first")]
)
def test_a_planted_fault_is_reported(tmp_path: Path, seed: int, fault: str, told: str) -> None:
    with serving(fault) as url:
        report = wrk_load(url, EventPlan(600, 20, seed), 3, 60.0, folder=tmp_path, settle_s=0.2)
    assert any(told in line for line in report.faults), report.faults


def test_a_request_without_an_answer_is_reported(tmp_path: Path, seed: int) -> None:
    with serving("hangs up") as url:
        report = wrk_load(url, EventPlan(600, 20, seed), 3, 1.0, folder=tmp_path, settle_s=0.2)
    assert any("not answered" in line for line in report.faults), report.faults
