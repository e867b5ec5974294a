"""Runs the suite: `python -m bench [--smoke] [--only NAME] [--out FILE]`.

Servers and load generators are processes of their own, on loopback; stores lie under bench/results/ and are removed.
The exit code is 1 if any check failed: a figure whose events are not all in the store is not a figure.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from bench.machine import provenance
from bench.peers.over_http import ROOT, Sekali, peers
from bench.peers.peer import Peer
from bench.processes import BenchError
from bench.publish import PUBLISH_CASES, PublishCase, measure_publish
from bench.report import medians, print_faults, publish_table, scale_table
from bench.scale import ReadBudget, measure_scale

RESULTS: Final = ROOT / "bench" / "results"
SCALE: Final = "scale"
FORMAT: Final = 1
"""Of the JSON file; raised when a figure changes its meaning."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured. The smoke asks whether the suite works and every event is stored, not how fast."""

    runs: int
    batch_events: int
    single_events: int
    sizes: tuple[int, ...]
    budget: ReadBudget
    quiet_s_max: float
    cases: frozenset[str] | None
    """None: every case."""


FULL: Final = Effort(3, 400_000, 60_000, (100_000, 5_000_000), ReadBudget(), 300.0, None)
SMOKE: Final = Effort(
    runs=1,
    batch_events=20_000,
    single_events=3_000,
    sizes=(20_000,),
    budget=ReadBudget(samples_max=20, seconds_max=1.0),
    quiet_s_max=20.0,
    cases=frozenset({"batches", "batches-dup20", "singles", SCALE}),
)


def _arguments() -> argparse.Namespace:
    names = [case.name for case in PUBLISH_CASES] + [SCALE]
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--smoke", action="store_true", help="small, under a minute: does it work, is all stored")
    parser.add_argument("--only", action="append", choices=names, help="a case; may repeat")
    parser.add_argument("--peer", action="append", choices=list(peers()), help="a peer; may repeat")
    parser.add_argument("--runs", type=int, help="runs of each publishing case; the median counts")
    parser.add_argument("--sizes", help=f"sizes of the stores of {SCALE}, by commas: 100000,5000000")
    parser.add_argument("--out", type=Path, help="the JSON file; default: bench/results/<date>-<commit>.json")
    return parser.parse_args()


Run = dict[str, Any]
"""What one run found, with `case`, `peer`, `run` (its number), `took_s` and `faults`."""


def run_publish(case: PublishCase, effort: Effort, only: list[str] | None, work: Path, console: Console) -> list[Run]:
    """The runs of a case, peers in turn, so that a change of the machine's mood meets all of them."""
    every = peers()
    taking_part = [every[name] for name in case.peers if only is None or name in only]
    skipped = {peer.name: reason for peer in taking_part if (reason := peer.missing())}
    case = case.scaled(effort.single_events if case.batch == 1 else effort.batch_events)
    runs = [
        _guarded(case.name, peer, number, partial(measure_publish, case, peer, work / "run"))
        for number in range(effort.runs)
        for peer in taking_part
        if peer.name not in skipped
    ]
    summary = {}
    for peer in taking_part:
        whole = [run for run in runs if run["peer"] == peer.name and "events_per_s" in run]
        if whole:
            summary[peer.name] = medians(whole)
    if summary or skipped:
        console.print(publish_table(case.title, summary, skipped))
    return runs


def run_scale(effort: Effort, work: Path, console: Console) -> list[Run]:
    runs = []
    for size in effort.sizes:
        peer = Sekali()
        console.print(f"scale: a store of {size:,} events ...", style="dim")
        measure = partial(measure_scale, peer, size, work / "run", effort.budget, effort.quiet_s_max)
        runs.append(_guarded(SCALE, peer, 0, measure))
    whole = {run["events"]: run for run in runs if "stop_s" in run}
    if whole:
        console.print(scale_table(whole))
    return runs


def _guarded(case: str, peer: Peer, number: int, measure: Callable[[], Run]) -> Run:
    """A run that breaks is a run with a fault; the others go on."""
    begun = time.perf_counter()
    try:
        found = measure()
    except (BenchError, AssertionError, OSError) as error:
        found = {"faults": [f"{type(error).__name__}: {error}"]}
    return {"case": case, "peer": peer.name, "run": number, "took_s": round(time.perf_counter() - begun, 2), **found}


def main() -> int:
    given = _arguments()
    effort = SMOKE if given.smoke else FULL
    effort = replace(
        effort,
        runs=given.runs or effort.runs,
        sizes=tuple(int(each) for each in given.sizes.split(",")) if given.sizes else effort.sizes,
        cases=frozenset(given.only) if given.only else effort.cases,
    )
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    work = RESULTS / f"work-{secrets.token_hex(4)}"
    work.mkdir(parents=True)
    try:
        result: dict[str, Any] = {"format": FORMAT, **provenance(ROOT, work), "smoke": given.smoke}
        machine = result["machine"]
        console.print(
            f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['file_system']}, "
            f"fsync {machine['fsync_ms_median']} ms, Python {result['python']}, commit {(result['commit'] or '?')[:12]}"
        )
        runs: list[Run] = []
        for case in PUBLISH_CASES:
            if effort.cases is None or case.name in effort.cases:
                runs += run_publish(case, effort, given.peer, work, console)
        wanted = effort.cases is None or SCALE in effort.cases
        if wanted and (given.peer is None or Sekali.name in given.peer):
            runs += run_scale(effort, work, console)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    result["runs"] = runs
    out = given.out or RESULTS / f"{result['date'].replace(':', '')[:17]}-{(result['commit'] or 'unknown')[:12]}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    for peer in peers().values():
        console.print(f"{peer.name}: {peer.about}", style="dim")
    faults = print_faults(console, runs)
    console.print(f"{len(runs)} runs, {faults} failed checks; written to {out}")
    return 1 if faults or not runs else 0


if __name__ == "__main__":
    sys.exit(main())
