"""From runs to figures: medians, ratios of paired runs, targets, plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psutil", reason="only the development packages bring it")

from bench.optional import lacking
from bench.plots import draw
from bench.publish import CONTESTS
from bench.report import contest_table, growth_table, medians, scale_table, summarize, targets_table
from bench.targets import verdicts

BY_NAME = {contest.name: contest for contest in CONTESTS}


def run(case: str, entrant: str, number: int, rate: float) -> dict[str, Any]:
    figures = {"p50_ms": 5.0, "p99_ms": 9.0, "cpu_us_per_event": 7.0, "cores": 1.0, "rss_mb_peak": 90.0}
    return {
        "case": case, "entrant": entrant, "peer": entrant, "run": number, "faults": [], "events_per_s": rate,
        "generator_cores": 0.1, **figures,
    }  # fmt: skip


def stored(events: int, rate: float) -> dict[str, Any]:
    reads = {name: {"p50": 2.0, "p99": 4.0} for name in ("stats", "topic_page_first", "event_by_id")}
    disk = {"log": 30.0, "index": 20.0, "total": 50.0}
    pieces = [{"size": size, "events_per_s": rate, "batch_ms_max": 90.0} for size in (0, events // 2)]
    return {
        "case": "scale", "entrant": str(events), "peer": "sekali", "run": 0, "faults": [], "events": events,
        "further_events_per_s": rate, "further_batch_ms_max": 120.0, "fill_batch_ms_max": 250.0,
        "rss_mb_peak": 200.0, "export_rss_mb_peak": 210.0,
        "further_rss_mb_peak": 220.0, "disk_quiet": disk, "disk_before_quiet": disk, "disk_stopped": disk,
        "reads_ms": reads, "export_events_per_s": 500_000.0, "open_after_stop_s": 0.9, "open_after_kill_s": 3.0,
        "pieces": pieces,
    }  # fmt: skip


def test_median_least_and_most_leave_out_what_is_no_figure() -> None:
    runs: list[dict[str, Any]] = [{"rate": rate, "seed": 7, "run": 1, "faults": []} for rate in (3.0, 1.0, 2.0)]
    assert medians(runs) == {"rate": {"median": 2.0, "min": 1.0, "max": 3.0}}


def test_a_ratio_is_that_of_runs_of_one_round_so_a_slow_round_changes_nothing() -> None:
    rates = [(100.0, 80.0), (10.0, 8.0), (200.0, 160.0)]
    runs = [run("dup20", name, n, pair[i]) for n, pair in enumerate(rates) for i, name in enumerate(("plain", "dup20"))]
    summary = summarize(BY_NAME["dup20"], runs)
    assert summary["dup20"]["of_baseline"] == {"median": 0.8, "min": 0.8, "max": 0.8}
    assert summary["plain"]["of_baseline"]["median"] == 1.0


def test_a_run_that_broke_takes_its_partner_out_of_the_ratio_only() -> None:
    broken = {"case": "dup20", "entrant": "plain", "run": 1, "faults": ["gone"]}
    runs = [run("dup20", "plain", 0, 100.0), run("dup20", "dup20", 0, 50.0), broken, run("dup20", "dup20", 1, 90.0)]
    summary = summarize(BY_NAME["dup20"], runs)
    assert summary["dup20"]["of_baseline"]["median"] == 0.5
    assert summary["dup20"]["events_per_s"]["max"] == 90.0


def test_a_target_is_reached_by_its_own_direction() -> None:
    batches = [run("batches", name, 0, rate) for name, rate in
               (("sekali", 210_000.0), ("postgres", 100_000.0), ("postgres-text", 150_000.0))]  # fmt: skip
    found = {v.what: v for v in verdicts({"batches": summarize(BY_NAME["batches"], batches)}, [])}
    assert found["batches"].reached is True
    assert found["batches, to the faster PostgreSQL"].value == pytest.approx(1.4)
    assert found["batches, to the faster PostgreSQL"].reached is False
    scale = verdicts({}, [stored(30_000_000, 70.0), stored(1_000_000, 100.0)])
    by_bound = {v.what: v.reached for v in scale if v.value is not None}
    assert by_bound["batches at 30,000,000 events, to 1,000,000"] is False
    assert by_bound["resident memory at 30,000,000 events"] is True
    assert by_bound["/stats at 30,000,000 events, to 1,000,000"] is True
    assert sum(reached is False for reached in by_bound.values()) == 1


def test_tables_hold_a_row_for_everyone_skipped_peers_too() -> None:
    contest = BY_NAME["singles"]
    summary = summarize(contest, [run("singles", "hello", 0, 10.0), run("singles", "sekali", 0, 6.0)])
    assert contest_table(contest, summary, {"redis": "no redis-server"}).row_count == 3
    assert scale_table([stored(1000, 10.0), stored(100, 10.0)]).row_count > 15
    assert targets_table(verdicts({}, [])).row_count > 15
    grown = {"peer": "postgres", "events": 9, "fresh_events_per_s": 2.0, "grown_events_per_s": 1.0,
             "grown_of_fresh": 0.5, "batch_ms_max": 3.0, "disk_bytes_per_event_raw": 400.0}  # fmt: skip
    assert growth_table([grown]).row_count == 1


@pytest.mark.skipif(lacking("matplotlib") is not None, reason=str(lacking("matplotlib")))
@pytest.mark.parametrize("file_format", ["svg", "png"])
def test_what_a_result_holds_is_drawn_and_nothing_else(tmp_path: Path, file_format: str) -> None:
    runs = [run(name, label, 0, 5.0) for name, label in
            (("singles", "hello"), ("singles", "sekali"), ("dup20", "plain"), ("dup20", "dup20"))]  # fmt: skip
    names = ("singles", "dup20")
    summary = {name: summarize(BY_NAME[name], [each for each in runs if each["case"] == name]) for name in names}
    machine = {"processor": "P", "cores": 2, "memory_gb": 8.0, "fsync_ms_median": 0.5}
    result = {"machine": machine, "date": "2026-01-01T00:00:00", "commit": "c" * 40, "summary": summary,
              "runs": [*runs, stored(1_000_000, 9.0), stored(30_000_000, 8.0)]}  # fmt: skip
    drawn = {path.stem for path in draw(result, tmp_path, file_format)}
    assert drawn == {"throughput-singles", "latency-singles", "variants", "growth", "reads"}
    assert all(path.stat().st_size > 1000 for path in tmp_path.iterdir())
