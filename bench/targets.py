"""What Sekali is meant to reach, and whether a result reached it. A target that was not measured is not reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench.publish import VARIANTS

READ_MS_MAX: Final = 10.0
READ_RATIO_MAX: Final = 1.5
READS: Final = {"stats": "/stats", "topic_page_first": "page of a topic", "event_by_id": "event by id"}

Summary = dict[str, dict[str, dict[str, Any]]]
"""Contest -> entrant -> figure -> its median, least and most; `of_baseline` is the median of the paired ratios."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`at_least` tells the direction of the bound. `value` is None when it was not measured."""

    what: str
    value: float | None
    bound: float
    at_least: bool
    unit: str

    @property
    def reached(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "reached": self.reached}


def verdicts(summary: Summary, scale: list[dict[str, Any]]) -> list[Verdict]:
    """`scale`: the runs of that kind without a fault."""
    return [*_publishing(summary), *_growing(sorted(scale, key=lambda run: run["events"]))]


def _publishing(summary: Summary) -> Iterator[Verdict]:
    def median(contest: str, entrant: str, figure: str) -> float | None:
        found = summary.get(contest, {}).get(entrant, {}).get(figure)
        return None if found is None else found["median"]

    def ratio(contest: str, entrant: str, other: str) -> float | None:
        ours, theirs = median(contest, entrant, "events_per_s"), median(contest, other, "events_per_s")
        return ours / theirs if ours and theirs else None

    yield Verdict("batches", median("batches", "sekali", "events_per_s"), 200_000, True, "events/s")
    to_both = [ratio("batches", "sekali", peer) for peer in ("postgres", "postgres-text")]
    measured = [each for each in to_both if each is not None]
    yield Verdict(
        "batches, to the faster PostgreSQL", min(measured) if len(measured) == len(to_both) else None, 1.5, True, "x"
    )
    for name, (what, _) in VARIANTS.items():
        yield Verdict(f"batches, {what}, to plain", median(name, name, "of_baseline"), 0.7, True, "x")
    for delay_ms in (5, 20):
        label = f"sekali-sync{delay_ms}ms"
        yield Verdict(
            f"batches, sync {delay_ms} ms slower, to 0 ms", median("slow-disk", label, "of_baseline"), 0.7, True, "x"
        )
    yield Verdict("singles, to hello", median("singles", "sekali", "of_baseline"), 0.55, True, "x")
    yield Verdict("singles by wrk, to hello", median("singles-wrk", "sekali", "of_baseline"), 0.55, True, "x")
    yield Verdict("singles, to PostgreSQL", ratio("singles", "sekali", "postgres"), 1.0, True, "x")
    yield Verdict("singles, p99", median("singles", "sekali", "p99_ms"), 15.0, False, "ms")


def _growing(scale: list[dict[str, Any]]) -> Iterator[Verdict]:
    """Bounds at the largest size, and ratios of the largest to the smallest."""
    small, large = (scale[0], scale[-1]) if scale else ({}, {})
    at = f"at {large['events']:,} events" if scale else "at the largest size"
    to = f"{at}, to {small['events']:,}" if scale else f"{at}, to the smallest"

    def value(figure: Callable[[dict[str, Any]], float]) -> float | None:
        return figure(large) if scale else None

    def ratio(figure: Callable[[dict[str, Any]], float]) -> float | None:
        return figure(large) / figure(small) if len(scale) > 1 and figure(small) else None

    yield Verdict(f"batches {to}", ratio(lambda run: run["further_events_per_s"]), 0.75, True, "x")
    yield Verdict(f"slowest batch {at}", value(lambda run: run["further_batch_ms_max"]), 300.0, False, "ms")
    yield Verdict(f"slowest batch on the way {at}", value(lambda run: run["fill_batch_ms_max"]), 300.0, False, "ms")
    yield Verdict(f"resident memory {at}", value(rss_mb_peak), 400.0, False, "MB")
    yield Verdict(f"disk {at}", value(lambda run: run["disk_quiet"]["total"]), 60.0, False, "bytes/event")
    for name, label in READS.items():

        def p50_ms(run: dict[str, Any], name: str = name) -> float:
            return float(run["reads_ms"][name]["p50"])

        yield Verdict(f"{label} {at}, p50", value(p50_ms), READ_MS_MAX, False, "ms")
        yield Verdict(f"{label} {to}", ratio(p50_ms), READ_RATIO_MAX, False, "x")
    yield Verdict(f"export {at}", value(lambda run: run["export_events_per_s"]), 400_000, True, "events/s")
    yield Verdict(f"opening {at}, clean stop", value(lambda run: run["open_after_stop_s"]), 1.0, False, "s")
    yield Verdict(f"opening {at}, kill -9", value(lambda run: run["open_after_kill_s"]), 5.0, False, "s")


def rss_mb_peak(run: dict[str, Any]) -> float:
    """The most of the fill, of the events after it, and of the export."""
    return max(run["rss_mb_peak"], run["further_rss_mb_peak"], run["export_rss_mb_peak"])
