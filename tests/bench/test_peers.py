"""Every peer that this machine has: started, loaded, counted, killed, started again."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

pytest.importorskip("psutil", reason="only the development packages bring it")

from bench.events import EventPlan
from bench.generator import ROOT
from bench.optional import PACKAGES, lacking
from bench.peers.every import peers
from bench.peers.over_http import SlowDisk
from bench.publish import BATCHES, SINGLES, PublishCase, measure_publish
from bench.targets import verdicts

pytestmark = pytest.mark.slow  # each starts servers and loads them; CI runs these beside the suite's smoke

OUTSIDE = [name for name in peers() if name.startswith(("postgres", "redis", "jetstream"))]


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("case", [BATCHES, SINGLES], ids=["batches", "singles"])
def test_a_peer_from_outside_is_measured_and_holds_what_it_acknowledged(
    tmp_path: Path, name: str, case: PublishCase
) -> None:
    peer = peers()[name]
    if reason := peer.missing():
        pytest.skip(reason)
    found = measure_publish(case.scaled(3000, 300), peer, tmp_path / "run")
    assert found["faults"] == []
    assert found["events"] == (300 if case.batch == 1 else 3000)
    assert found["cpu_us_per_event"] >= 0
    assert found["rss_mb_peak"] > 1
    assert found["disk_bytes_per_event_raw"] > 10
    assert peer.version()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OUTSIDE if "not-durable" not in name])
def test_a_durable_peer_keeps_what_it_acknowledged_when_it_is_killed(tmp_path: Path, seed: int, name: str) -> None:
    peer = peers()[name]
    if reason := peer.missing():
        pytest.skip(reason)
    try:
        peer.start(tmp_path)
        report = peer.load(EventPlan(2000, 100, seed), 2, 30.0)
        assert report.faults == []
        peer.kill()
        peer.start(tmp_path)
        assert peer.stored_events() == 2000
    finally:
        peer.kill()


def test_a_sync_that_takes_longer_delays_every_answer(tmp_path: Path, seed: int) -> None:
    peer = SlowDisk(sync_delay_ms=40)
    try:
        peer.start(tmp_path)
        report = peer.load(EventPlan(10, 1, seed), 1, 30.0)
    finally:
        peer.kill()
    assert report.faults == []
    assert report.latency_ms["p50"] >= 40


def test_a_peer_that_answers_early_says_so_by_its_name_or_its_description() -> None:
    for peer in peers().values():
        early = not peer.answers_when_stored
        assert early == ("before it is" in peer.about), peer.name


def test_every_optional_module_comes_with_the_bench_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    listed = " ".join(project["optional-dependencies"]["bench"])
    assert [package for package in PACKAGES.values() if f"{package}>=" not in listed] == []
    imported = {
        line.partition('load_module("')[2].partition('"')[0].partition(".")[0]
        for file in (ROOT / "bench").rglob("*.py")
        for line in file.read_text("utf-8").splitlines()
        if 'load_module("' in line
    }
    assert imported <= set(PACKAGES)
    assert lacking("json") is None


def test_no_target_counts_as_reached_before_it_was_measured() -> None:
    assert {verdict.reached for verdict in verdicts({}, [])} == {None}
