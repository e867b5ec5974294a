"""Medians of the runs, as tables for a reader and as JSON for a comparison."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

PUBLISH_COLUMNS: Final = (
    "events/s",
    "least - most",
    "of hello",
    "p50 ms",
    "p99 ms",
    "CPU us/event",
    "cores",
    "RSS MB peak",
    "generator cores",
)
READ_MS_MAX: Final = 10.0
"""Issue bound: a median read of the larger store, in milliseconds."""
READ_RATIO_MAX: Final = 1.5
"""Issue bound: a median read of the larger store against the smaller."""


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Median, least and most of every figure that the runs of one case and peer have in common."""
    figures = {}
    for name, value in runs[0].items():
        if isinstance(value, int | float) and name != "seed":
            values = [run[name] for run in runs if name in run]
            figures[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return figures


def publish_table(title: str, summary: dict[str, dict[str, dict[str, float]]], skipped: dict[str, str]) -> Table:
    """One row a peer. `summary`: peer -> figure -> median, min, max."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for column in PUBLISH_COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    yardstick = summary.get("hello", {}).get("events_per_s", {}).get("median")
    for peer, figures in summary.items():
        rate = figures["events_per_s"]
        table.add_row(
            peer,
            f"{rate['median']:,.0f}",
            f"{rate['min']:,.0f} - {rate['max']:,.0f}",
            f"{rate['median'] / yardstick:.2f}" if yardstick else "",
            *(f"{figures[name]['median']:.2f}" if name in figures else "" for name in ("p50_ms", "p99_ms")),
            f"{figures['cpu_us_per_event']['median']:.1f}",
            f"{figures['cores']['median']:.2f}",
            f"{figures['rss_mb_peak']['median']:.0f}",
            f"{figures['generator_cores']['median']:.2f}",
        )
    for peer, reason in skipped.items():
        table.add_row(peer, f"skipped: {reason}")
    return table


def scale_table(by_size: dict[int, dict[str, Any]]) -> Table:
    """One column a size; the last compares the largest with the smallest, and reads with their bounds."""
    sizes = sorted(by_size)
    table = Table(title="as the store grows", title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for size in sizes:
        table.add_column(f"{size:,} events", justify="right", no_wrap=True)
    if len(sizes) > 1:
        table.add_column("ratio", justify="right", no_wrap=True)
    for label, values, bounded in _scale_rows([by_size[size] for size in sizes]):
        cells = [f"{value:,.2f}" if value < 1000 else f"{value:,.0f}" for value in values]
        if len(sizes) > 1:
            ratio = values[-1] / values[0] if values[0] else 0.0
            cells.append(f"{ratio:.2f}" + (_verdict(values[-1], ratio) if bounded else ""))
        table.add_row(label, *cells)
    return table


def _verdict(largest_ms: float, ratio: float) -> str:
    return "  ok" if largest_ms < READ_MS_MAX and ratio <= READ_RATIO_MAX else "  OVER"


def _scale_rows(found: Sequence[dict[str, Any]]) -> Iterable[tuple[str, list[float], bool]]:
    """Label, one value a size, and whether the bounds on reads apply."""
    for name in found[0]["reads_ms"]:
        label = name.replace("_", " ")
        yield f"{label}, p50 ms", [each["reads_ms"][name]["p50"] for each in found], True
        yield f"{label}, p99 ms", [each["reads_ms"][name]["p99"] for each in found], False
    for moment in ("disk_before_quiet", "disk_quiet", "disk_stopped"):
        for part in found[0][moment]:
            label = f"{moment.replace('_', ' ')}: {part}, bytes/event"
            yield label, [each[moment][part] for each in found], False
    for name, value in found[0].items():
        if isinstance(value, float):
            yield name.replace("_", " "), [each[name] for each in found], False


def print_faults(console: Console, runs: Iterable[dict[str, Any]]) -> int:
    """Prints every failed check; returns how many there are."""
    count = 0
    for run in runs:
        for fault in run["faults"]:
            count += 1
            console.print(f"FAULT {run['case']} {run['peer']}: {fault}", style="bold red", markup=False)
    return count
