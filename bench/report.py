"""Medians of the runs, as tables for a reader and as JSON for a comparison.

`python -m bench.report RESULT.json ...` prints the targets that several results reach together.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.publish import Contest
from bench.targets import Verdict, rss_mb_peak, verdicts

PUBLISH_COLUMNS: Final = (
    "events/s",
    "least - most",
    "p50 ms",
    "p99 ms",
    "CPU us/event",
    "cores",
    "RSS MB peak",
    "generator cores",
)


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Median, least and most of every figure that the runs of one entrant have in common."""
    figures = {}
    for name, value in runs[0].items():
        if isinstance(value, int | float) and name not in ("seed", "run"):
            values = [run[name] for run in runs if name in run]
            figures[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return figures


def summarize(contest: Contest, runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Entrant -> figure -> median, least, most. `of_baseline` compares runs of the same round, then takes the median:
    what slowed the machine in a round slowed both."""
    whole = [run for run in runs if "events_per_s" in run]
    baseline = {run["run"]: run["events_per_s"] for run in whole if run["entrant"] == contest.baseline}
    summary: dict[str, dict[str, Any]] = {}
    for entrant in contest.entrants:
        own = [run for run in whole if run["entrant"] == entrant.label]
        if not own:
            continue
        summary[entrant.label] = medians(own)
        pairs = [run["events_per_s"] / baseline[run["run"]] for run in own if baseline.get(run["run"])]
        if pairs:
            ratio = {"median": statistics.median(pairs), "min": min(pairs), "max": max(pairs)}
            summary[entrant.label]["of_baseline"] = ratio
    return summary


def contest_table(contest: Contest, summary: dict[str, dict[str, Any]], skipped: dict[str, str]) -> Table:
    """One row an entrant."""
    table = Table(title=contest.title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for column in (*PUBLISH_COLUMNS[:2], f"of {contest.baseline}", *PUBLISH_COLUMNS[2:]):
        table.add_column(column, justify="right", no_wrap=True)
    for label, figures in summary.items():
        rate = figures["events_per_s"]
        table.add_row(
            label,
            f"{rate['median']:,.0f}",
            f"{rate['min']:,.0f} - {rate['max']:,.0f}",
            f"{figures['of_baseline']['median']:.2f}" if "of_baseline" in figures else "",
            *(f"{figures[name]['median']:.2f}" if name in figures else "" for name in ("p50_ms", "p99_ms")),
            f"{figures['cpu_us_per_event']['median']:.1f}",
            f"{figures['cores']['median']:.2f}",
            f"{figures['rss_mb_peak']['median']:.0f}",
            f"{figures['generator_cores']['median']:.2f}",
        )
    for label, reason in skipped.items():
        table.add_row(label, f"skipped: {reason}")
    return table


def scale_table(runs: Sequence[dict[str, Any]]) -> Table:
    """One column a size; the last compares the largest with the smallest."""
    found = sorted(runs, key=lambda run: run["events"])
    table = Table(title="sekali as the store grows", title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for run in found:
        table.add_column(f"{run['events']:,} events", justify="right", no_wrap=True)
    if len(found) > 1:
        table.add_column("ratio", justify="right", no_wrap=True)
    for label, values in _scale_rows(found):
        cells = [f"{value:,.2f}" if value < 1000 else f"{value:,.0f}" for value in values]
        if len(found) > 1:
            cells.append(f"{values[-1] / values[0]:.2f}" if values[0] else "")
        table.add_row(label, *cells)
    return table


def _scale_rows(found: Sequence[dict[str, Any]]) -> Iterable[tuple[str, list[float]]]:
    """Label, and one value a size."""
    for name in found[0]["reads_ms"]:
        label = name.replace("_", " ")
        yield f"{label}, p50 ms", [each["reads_ms"][name]["p50"] for each in found]
        yield f"{label}, p99 ms", [each["reads_ms"][name]["p99"] for each in found]
    for moment in ("disk_before_quiet", "disk_quiet", "disk_stopped"):
        for part in found[0][moment]:
            yield f"{moment.replace('_', ' ')}: {part}, bytes/event", [each[moment][part] for each in found]
    yield "rss mb peak of all", [rss_mb_peak(each) for each in found]
    for name, value in found[0].items():
        if isinstance(value, float) and name != "took_s":
            yield name.replace("_", " "), [each[name] for each in found]


def growth_table(runs: Sequence[dict[str, Any]]) -> Table:
    """One row a peer."""
    table = Table(title="peers as their store grows, bounded in time", title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    columns = (
        "events reached",
        "events/s fresh",
        "events/s grown",
        "grown of fresh",
        "slowest batch ms",
        "bytes/event",
    )
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        table.add_row(
            run["peer"],
            f"{run['events']:,}",
            f"{run['fresh_events_per_s']:,.0f}",
            f"{run['grown_events_per_s']:,.0f}",
            f"{run['grown_of_fresh']:.2f}",
            f"{run['batch_ms_max']:,.0f}",
            f"{run['disk_bytes_per_event_raw']:,.0f}",
        )
    return table


def targets_table(found: Sequence[Verdict]) -> Table:
    table = Table(title="targets", title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for column in ("measured", "target", ""):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for verdict in found:
        bound = f"{'>=' if verdict.at_least else '<='} {verdict.bound:,g} {verdict.unit}"
        if verdict.value is None:
            table.add_row(verdict.what, "", bound, "not measured", style="dim")
            continue
        value = f"{verdict.value:,.0f}" if verdict.value >= 1000 else f"{verdict.value:,.2f}"
        table.add_row(verdict.what, value, bound, "reached" if verdict.reached else "[bold red]MISSED[/]")
    return table


def print_faults(console: Console, runs: Iterable[dict[str, Any]]) -> int:
    """Prints every failed check; returns how many there are."""
    count = 0
    for run in runs:
        for fault in run["faults"]:
            count += 1
            console.print(f"FAULT {run['case']} {run['entrant']}: {fault}", style="bold red", markup=False)
    return count


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="The targets that results reach.")
    parser.add_argument("results", type=Path, nargs="+", help="JSON files that `python -m bench` wrote; later ones win")
    summary: dict[str, Any] = {}
    scale: dict[int, dict[str, Any]] = {}
    for path in parser.parse_args().results:
        result = json.loads(path.read_text("utf-8"))
        summary |= result["summary"]
        scale |= {run["events"]: run for run in result["runs"] if run["case"] == "scale" and not run["faults"]}
    Console(highlight=False).print(targets_table(verdicts(summary, list(scale.values()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
