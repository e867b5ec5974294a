"""Runs the suite: `python -m bench [--smoke | --scale] [--only NAME] [--out FILE] [--plots FOLDER]`.

Servers and load generators are processes of their own, on loopback; stores lie under bench/results/ and are removed.
The exit code is 1 if any check failed: a figure whose events are not all in the store is not a figure.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console

from bench.generator import ROOT
from bench.growth import measure_growth
from bench.machine import provenance
from bench.peers.every import peers
from bench.peers.over_http import Sekali
from bench.peers.peer import Peer
from bench.processes import BenchError
from bench.publish import CONTESTS, Contest, cannot_run, measure_publish
from bench.report import contest_table, growth_table, print_faults, scale_table, summarize, targets_table
from bench.scale import ReadBudget, ScaleEffort, measure_scale
from bench.targets import Summary, verdicts

RESULTS: Final = ROOT / "bench" / "results"
SCALE: Final = "scale"
GROWTH: Final = "growth"
GROWING_PEERS: Final = ("postgres",)
FORMAT: Final = 2
"""Of the JSON file; raised when a figure changes its meaning."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured. The smoke asks whether the suite works and every event is stored, not how fast."""

    runs: int = 3
    batch_events: int = 400_000
    single_events: int = 200_000
    sizes: tuple[int, ...] = (100_000, 5_000_000)
    scale: ScaleEffort = field(default_factory=ScaleEffort)
    growth_s: float = 60.0
    growth_piece_events: int = 400_000
    cases: frozenset[str] | None = None
    """None: every case."""


FULL: Final = Effort()
LARGE: Final = Effort(sizes=(1_000_000, 30_000_000), growth_s=300.0, cases=frozenset({SCALE, GROWTH}))
SMOKE: Final = Effort(
    runs=1,
    batch_events=5_000,
    single_events=1_000,
    sizes=(20_000,),
    scale=ScaleEffort(ReadBudget(samples_max=20, seconds_max=1.0), 20.0, piece_events=10_000, further_events=10_000),
    growth_s=2.0,
    growth_piece_events=10_000,
    cases=frozenset({"batches", "dup20", "batches-wrk", "singles", "singles-wrk", "slow-disk", SCALE, GROWTH}),
)

Run = dict[str, Any]
"""What one run found, with `case`, `entrant`, `peer`, `run` (its round), `took_s` and `faults`."""


def _arguments() -> argparse.Namespace:
    names = [contest.name for contest in CONTESTS] + [SCALE, GROWTH]
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").split("\n\n")[0])
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--smoke", action="store_true", help="small, a minute: does it work, is all stored")
    effort.add_argument("--scale", action="store_true", help="only what grows, at 1M and 30M events: an hour perhaps")
    parser.add_argument("--only", action="append", choices=names, help="a case; may repeat")
    parser.add_argument("--peer", action="append", choices=list(peers()), help="a peer; may repeat")
    parser.add_argument("--runs", type=int, help="rounds of each publishing case; the median counts")
    parser.add_argument("--sizes", help=f"sizes of the stores of {SCALE}, by commas: 100000,5000000")
    parser.add_argument("--growth-s", type=float, help=f"how long each peer of {GROWTH} is filled, in seconds")
    parser.add_argument("--out", type=Path, help="the JSON file; default: bench/results/<date>-<commit>.json")
    parser.add_argument("--plots", type=Path, help="also draw the result, into this folder")
    return parser.parse_args()


def _effort(given: argparse.Namespace) -> Effort:
    effort = SMOKE if given.smoke else LARGE if given.scale else FULL
    return replace(
        effort,
        runs=given.runs or effort.runs,
        sizes=tuple(int(each) for each in given.sizes.split(",")) if given.sizes else effort.sizes,
        growth_s=given.growth_s or effort.growth_s,
        cases=frozenset(given.only) if given.only else effort.cases,
    )


@dataclass(frozen=True, slots=True)
class Suite:
    """One run of everything that was asked for."""

    effort: Effort
    only_peers: frozenset[str] | None
    work: Path
    console: Console
    runs: list[Run]
    summary: Summary

    def wants(self, case: str, peer: str | None = None) -> bool:
        if self.effort.cases is not None and case not in self.effort.cases:
            return False
        return peer is None or self.only_peers is None or peer in self.only_peers

    def run_contest(self, contest: Contest) -> None:
        """Rounds in which every entrant has its turn, so that a change of the machine's mood meets all of them; each
        second round the other way about."""
        every = peers()
        entrants = [each for each in contest.entrants if self.wants(contest.name, each.peer)]
        skipped = {each.label: reason for each in entrants if (reason := cannot_run(each, every[each.peer]))}
        present = [each for each in entrants if each.label not in skipped]
        runs = []
        for number in range(self.effort.runs):
            for entrant in present if number % 2 == 0 else reversed(present):
                case = entrant.case.scaled(self.effort.batch_events, self.effort.single_events)
                measure = partial(measure_publish, case, every[entrant.peer], self.work / "run")
                runs.append(_guarded(contest.name, entrant.label, every[entrant.peer], number, measure))
        self.runs.extend(runs)
        self.summary[contest.name] = summarize(contest, runs)
        if entrants:
            self.console.print(contest_table(contest, self.summary[contest.name], skipped))

    def run_scale(self) -> None:
        runs = []
        for size in self.effort.sizes:
            peer = Sekali()
            self.console.print(f"scale: a store of {size:,} events ...", style="dim")
            measure = partial(measure_scale, peer, size, self.work / "run", self.effort.scale)
            runs.append(_guarded(SCALE, f"{size}", peer, 0, measure))
        self.runs.extend(runs)
        if whole := [run for run in runs if "rss_mb_after_kill" in run]:
            self.console.print(scale_table(whole))

    def run_growth(self) -> None:
        runs = []
        for name in GROWING_PEERS:
            peer = peers()[name]
            if reason := peer.missing():
                self.console.print(f"growth: {name} skipped: {reason}")
            elif self.wants(GROWTH, name):
                self.console.print(f"growth: {name} for {self.effort.growth_s:.0f} s ...", style="dim")
                piece_events = self.effort.growth_piece_events
                measure = partial(measure_growth, peer, self.effort.growth_s, piece_events, self.work / "run")
                runs.append(_guarded(GROWTH, name, peer, 0, measure))
        self.runs.extend(runs)
        if whole := [run for run in runs if "grown_of_fresh" in run]:
            self.console.print(growth_table(whole))

    def run_all(self) -> None:
        for contest in CONTESTS:
            if self.wants(contest.name):
                self.run_contest(contest)
        if self.wants(SCALE, Sekali.name):
            self.run_scale()
        if self.wants(GROWTH):
            self.run_growth()


def _guarded(case: str, entrant: str, peer: Peer, number: int, measure: Callable[[], Run]) -> Run:
    """A run that breaks is a run with a fault; the others go on."""
    begun = time.perf_counter()
    try:
        found = measure()
    except (BenchError, AssertionError, OSError, ValueError, subprocess.SubprocessError, psutil.Error) as error:
        found = {"faults": [f"{type(error).__name__}: {error}"]}
    took_s = round(time.perf_counter() - begun, 2)
    return {"case": case, "entrant": entrant, "peer": peer.name, "run": number, "took_s": took_s, **found}


def main() -> int:
    given = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    work = RESULTS / f"work-{secrets.token_hex(4)}"
    work.mkdir(parents=True)
    only_peers = frozenset(given.peer) if given.peer else None
    suite = Suite(_effort(given), only_peers, work, console, [], {})
    try:
        result: dict[str, Any] = {"format": FORMAT, **provenance(ROOT, work), "smoke": given.smoke}
        machine = result["machine"]
        console.print(
            f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['file_system']}, "
            f"fsync {machine['fsync_ms_median']} ms, Python {result['python']}, commit {(result['commit'] or '?')[:12]}"
        )
        suite.run_all()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    result["peers"] = {
        peer.name: {"about": peer.about, "version": peer.version(), "missing": peer.missing()}
        for peer in peers().values()
    }
    found = verdicts(suite.summary, [run for run in suite.runs if run["case"] == SCALE and not run["faults"]])
    result |= {"runs": suite.runs, "summary": suite.summary, "targets": [each.as_json() for each in found]}
    out = given.out or RESULTS / f"{result['date'].replace(':', '')[:17]}-{(result['commit'] or 'unknown')[:12]}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    if not given.smoke:
        console.print(targets_table(found))
    for name, peer in result["peers"].items():
        if any(run["peer"] == name for run in suite.runs):
            console.print(f"{name}: {peer['about']}", style="dim")
    faults = print_faults(console, suite.runs)
    console.print(f"{len(suite.runs)} runs, {faults} failed checks; written to {out}")
    if given.plots:
        from bench.plots import draw

        console.print(*(f"drawn: {path}" for path in draw(result, given.plots)), sep="\n")
    return 1 if faults or not suite.runs else 0


if __name__ == "__main__":
    sys.exit(main())
