"""The suite itself, on tiny counts: its parts measure, clean up behind themselves, and fail when a check fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("psutil", reason="only the development packages bring it")

from bench.events import EventPlan
from bench.generator import ROOT
from bench.growth import measure_growth
from bench.load_report import LoadReport
from bench.peers.every import peers
from bench.peers.over_http import Hello, Sekali, Simple
from bench.peers.peer import Peer
from bench.processes import BenchError, disk_bytes
from bench.publish import BATCHES, CONTESTS, SINGLES, PublishCase, measure_publish
from bench.scale import ReadBudget, ScaleEffort, measure_scale

pytestmark = pytest.mark.slow  # each starts servers and loads them; CI runs these beside the suite's smoke


@pytest.mark.parametrize("case", [BATCHES, SINGLES], ids=["batches", "singles"])
@pytest.mark.parametrize("peer", [Hello(), Simple(), Sekali()], ids=lambda peer: str(peer.name))
def test_a_peer_is_measured_and_checked_and_its_store_removed(tmp_path: Path, peer: Peer, case: PublishCase) -> None:
    folder = tmp_path / "run"
    found = measure_publish(case.scaled(300, 300), peer, folder)
    assert found["faults"] == []
    assert found["events"] == 300
    assert found["events_per_s"] > 0
    assert found["cpu_us_per_event"] >= 0
    assert found["rss_mb_peak"] > 1
    assert not folder.exists()


@pytest.mark.slow
def test_a_scale_run_fills_reads_exports_and_opens_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    effort = ScaleEffort(ReadBudget(5, 1.0), quiet_s_max=20.0, piece_events=2000, further_events=2000)
    found = measure_scale(Sekali(), 3000, folder, effort)
    assert found["faults"] == []
    assert {"stats", "page_first", "topic_page_first", "event_by_id"} <= set(found["reads_ms"])
    assert found["export_events_per_s"] > 0
    assert found["disk_quiet"]["log"] > 0
    assert found["disk_quiet"]["index"] > 0
    assert found["open_after_kill_s"] > 0
    assert [(piece["size"], piece["events"]) for piece in found["pieces"]] == [(0, 2000), (2000, 1000)]
    assert found["further_events_per_s"] > 0
    assert found["further_batch_ms_max"] >= found["further_batch_ms_p50"] > 0
    assert not folder.exists()


def test_a_store_that_holds_fewer_than_acknowledged_is_a_fault(tmp_path: Path) -> None:
    class Forgetful(Simple):
        def stored_events(self) -> int:
            return super().stored_events() - 1

    found = measure_publish(SINGLES.scaled(50, 50), Forgetful(), tmp_path / "run")
    assert found["faults"] == ["holds 249 events, acknowledged 250"]


def test_a_server_that_does_not_start_is_told_with_its_own_words(tmp_path: Path) -> None:
    class Broken(Hello):
        application = "bench.peers.absent:app"

    with pytest.raises(BenchError, match="absent"):
        measure_publish(SINGLES.scaled(50, 50), Broken(), tmp_path / "run")


def test_a_peer_that_grows_is_measured_piece_by_piece(tmp_path: Path) -> None:
    found = measure_growth(Simple(), 0.01, 1000, tmp_path / "run")
    assert found["faults"] == []
    assert found["events"] == 1000
    assert found["grown_of_fresh"] == 1.0
    assert not (tmp_path / "run").exists()


def test_every_contest_names_peers_that_exist_and_a_baseline_that_takes_part() -> None:
    for contest in CONTESTS:
        assert {entrant.peer for entrant in contest.entrants} <= set(peers())
        assert contest.baseline in {entrant.label for entrant in contest.entrants}
        assert len({entrant.label for entrant in contest.entrants}) == len(contest.entrants)


def test_disk_counts_files_and_whole_folders_and_forgives_what_vanished(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "one").write_bytes(os.urandom(100_000))
    (tmp_path / "inner" / "two").write_bytes(os.urandom(50_000))
    assert 150_000 <= disk_bytes([tmp_path, tmp_path / "gone"]) < 200_000


def test_a_load_report_survives_its_way_through_json() -> None:
    report = LoadReport(plan={"events": 1}, connections=1, prebuilt=True, latency_ms={"p50": 1.0})
    fields = {name: getattr(report, name) for name in LoadReport.__slots__}
    assert LoadReport(**json.loads(json.dumps(fields))) == replace(report)


@pytest.mark.slow
def test_the_smoke_runs_to_its_end_and_writes_its_results(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, "-m", "bench", "--smoke", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    cases = {"batches", "dup20", "batches-wrk", "singles", "singles-wrk", "slow-disk", "scale", "growth"}
    assert {run["case"] for run in result["runs"]} <= cases
    present = {name for name, peer in result["peers"].items() if peer["missing"] is None}
    assert {run["peer"] for run in result["runs"]} == present
    assert all(run["faults"] == [] for run in result["runs"])
    assert result["machine"]["cores"]
    assert EventPlan(1, 1, result["runs"][0]["seed"]).seed > 0
