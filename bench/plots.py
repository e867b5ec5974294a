"""Draws a result: `python -m bench.plots RESULT.json [--into FOLDER] [--format svg]`.

One file a subject, made from the JSON alone; what a result does not hold is not drawn. Colours are those of Okabe and
Ito, which stay apart for most colour-blind readers; Sekali is always the same one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench.optional import load_module
from bench.peers.every import peers
from bench.publish import CONTESTS, PLAIN, VARIANTS

BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
GREEN: Final = "#009E73"
VERMILION: Final = "#D55E00"
PURPLE: Final = "#CC79A7"
GREY: Final = "#8C8C8C"
OURS: Final = "sekali"
NOT_DURABLE: Final = frozenset(
    peer.name for peer in peers().values() if not peer.answers_when_stored or not peer.stores
)
STYLE: Final = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#E5E5E5",
    "axes.axisbelow": True, "figure.dpi": 150, "savefig.bbox": "tight", "svg.hashsalt": "sekali",
}  # fmt: skip

Figures = dict[str, dict[str, Any]]
"""Entrant -> figure -> median, min, max."""


def draw(result: dict[str, Any], folder: Path, file_format: str = "svg") -> list[Path]:
    """Writes what the result has into `folder`; returns the files. Raises ImportError without matplotlib."""
    matplotlib = load_module("matplotlib")
    matplotlib.use("Agg")
    plt = load_module("matplotlib.pyplot")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with plt.rc_context(STYLE):
        for name, figure in _figures(plt, result):
            path = folder / f"{name}.{file_format}"
            # No date inside, so that the same result makes the same file.
            figure.savefig(path, metadata={"Date": None} if file_format == "svg" else None)
            plt.close(figure)
            written.append(path)
    return written


def _figures(plt: Any, result: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    summary = result["summary"]
    caption = _caption(result)
    titles = {contest.name: contest.title for contest in CONTESTS}
    for name in ("batches", "singles", "singles-wrk", "slow-disk"):
        # A batch costs the yardstick next to nothing: its bar would leave no room for the others.
        entrants = {k: v for k, v in summary.get(name, {}).items() if name != "batches" or k != "hello"}
        if entrants:
            yield f"throughput-{name}", _throughput(plt, entrants, titles[name], caption)
    for name in ("batches", "singles"):
        if summary.get(name):
            yield f"latency-{name}", _latency(plt, summary[name], titles[name], caption)
    if any(summary.get(name, {}).get(name) for name in VARIANTS):
        yield "variants", _variants(plt, summary, caption)
    runs = [run for run in result["runs"] if not run["faults"]]
    curves = {
        f"{run['peer']} to {run['events'] / 1e6:,.3g}M": run["pieces"]
        for run in runs
        if run["case"] in ("scale", "growth") and len(run["pieces"]) > 1
    }
    if curves:
        yield "growth", _growth(plt, curves, caption)
    stores = sorted((run for run in runs if run["case"] == "scale"), key=lambda run: run["events"])
    if len(stores) > 1:
        yield "reads", _reads(plt, stores, caption)


def _caption(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB, fsync "
        f"{machine['fsync_ms_median']} ms; {result['date'][:10]}, commit {(result['commit'] or '?')[:12]}"
    )


def _colour(entrant: str) -> str:
    if entrant.startswith(OURS):
        return BLUE
    return GREY if entrant in NOT_DURABLE else ORANGE


def _hatch(entrant: str) -> str:
    return "///" if entrant in NOT_DURABLE else ""


def _sign(axes: Any, caption: str) -> None:
    axes.annotate(
        caption, (0, 0), (0, -42), "axes fraction", "offset points", fontsize=7, color="#666666", va="top"
    )  # fmt: skip


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bars(plt: Any, rows: int, title: str, caption: str) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=(7.5, 0.6 + 0.42 * max(2, rows)))
    axes.set_title(title, loc="left", fontweight="bold")
    axes.grid(axis="y", visible=False)
    axes.invert_yaxis()
    _sign(axes, caption)
    return figure, axes


def _throughput(plt: Any, entrants: Figures, title: str, caption: str) -> Any:
    figure, axes = _bars(plt, len(entrants), f"{title}: throughput", caption)
    _rate_bars(axes, list(entrants), [each["events_per_s"] for each in entrants.values()])
    hatched = "; hatched: answers before it is on disk" if NOT_DURABLE & set(entrants) else ""
    axes.set_xlabel(f"events/s, median; line: least to most of the runs{hatched}")
    return figure


def _rate_bars(axes: Any, labels: list[str], rates: list[dict[str, float]]) -> None:
    most = max(rate["max"] for rate in rates)
    for place, (label, rate) in enumerate(zip(labels, rates, strict=True)):
        look = {"color": _colour(label), "hatch": _hatch(label), "edgecolor": "white", "linewidth": 0}
        axes.barh(place, rate["median"], height=0.65, **look)
        axes.plot([rate["min"], rate["max"]], [place, place], color="black", linewidth=1)
        axes.text(max(rate["max"], rate["median"]) + most * 0.01, place, f"{rate['median']:,.0f}", va="center")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlim(0, most * 1.15)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _latency(plt: Any, entrants: Figures, title: str, caption: str) -> Any:
    """p50 and p99 as two points on one line, on a logarithmic axis."""
    figure, axes = _bars(plt, len(entrants), f"{title}: latency of a request", caption)
    for place, (label, figures) in enumerate(entrants.items()):
        if "p50_ms" not in figures:
            continue
        p50, p99 = figures["p50_ms"]["median"], figures["p99_ms"]["median"]
        axes.plot([p50, p99], [place, place], color=_colour(label), linewidth=2, zorder=1)
        axes.scatter([p50], [place], color=_colour(label), marker="o", s=45, zorder=2)
        axes.scatter([p99], [place], color=_colour(label), marker="D", s=40, facecolor="white", zorder=2)
        axes.annotate(f"{_number(p50)} / {_number(p99)}", (p99, place), (8, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(entrants)), list(entrants))
    axes.set_ylim(len(entrants) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_xlabel("ms (logarithmic): p50 (full circle) / p99 (open diamond)")
    return figure


def _variants(plt: Any, summary: dict[str, Figures], caption: str) -> Any:
    """Each variant to the plain runs that alternated with it."""
    present = {name: what for name, (what, _) in VARIANTS.items() if summary.get(name, {}).get(name)}
    figure, axes = _bars(plt, len(present), f"{OURS}: what the events are like, batches", caption)
    for place, name in enumerate(present):
        ratio, rate = summary[name][name]["of_baseline"], summary[name][name]["events_per_s"]
        axes.barh(place, ratio["median"], color=BLUE, height=0.65)
        axes.plot([ratio["min"], ratio["max"]], [place, place], color="black", linewidth=1)
        text = f"{ratio['median']:.2f}  ({rate['median']:,.0f}/s)"
        axes.text(max(ratio["max"], 1.0) + 0.02, place, text, va="center")
    axes.axvline(1.0, color=GREY, linewidth=1)
    axes.axvline(0.7, color=VERMILION, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(present)), list(present.values()))
    axes.set_xlim(0, axes.get_xlim()[1] * 1.25)
    axes.set_xlabel(f"throughput to that of the {PLAIN} case beside it; dashed: the target")
    return figure


def _growth(plt: Any, curves: dict[str, list[dict[str, float]]], caption: str) -> Any:
    """Throughput, and the slowest batch, of each piece, by the events in the store before it."""
    figure, (rates, slowest) = plt.subplots(2, 1, figsize=(7.5, 6), sharex=True)
    rates.set_title("publishing as the store grows: batches of 1000", loc="left", fontweight="bold")
    ours = iter([(BLUE, "o"), (GREEN, "s"), (PURPLE, "^")])
    for label, pieces in curves.items():
        colour, marker = next(ours, (BLUE, "o")) if label.startswith(OURS) else (ORANGE, "D")
        sizes = [piece["size"] / 1e6 for piece in pieces]
        line = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.5, "label": label}
        rates.plot(sizes, [piece["events_per_s"] for piece in pieces], **line)
        slowest.plot(sizes, [piece["batch_ms_max"] for piece in pieces], **line)
    rates.set_ylabel("events/s")
    rates.set_ylim(bottom=0)
    rates.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    rates.legend(frameon=False)
    slowest.set_ylabel("slowest batch, ms")
    slowest.set_ylim(bottom=0)
    slowest.set_xlabel("million events stored before")
    _sign(slowest, caption)
    return figure


def _reads(plt: Any, stores: list[dict[str, Any]], caption: str) -> Any:
    """p50 of each kind of read, a bar a size."""
    kinds = list(stores[0]["reads_ms"])
    figure, axes = _bars(plt, len(kinds) * len(stores) // 2 + 2, f"{OURS}: reads", caption)
    height = 0.8 / len(stores)
    for number, (store, colour) in enumerate(zip(stores, (GREEN, BLUE, PURPLE, ORANGE), strict=False)):
        places = [place + (number - (len(stores) - 1) / 2) * height for place in range(len(kinds))]
        values = [store["reads_ms"][kind]["p50"] for kind in kinds]
        axes.barh(places, values, height=height * 0.95, color=colour, label=f"{store['events'] / 1e6:,.3g}M events")
        for place, value in zip(places, values, strict=True):
            axes.annotate(f"{value:,.2f}", (value, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    axes.set_xlabel("ms, p50, one request at a time")
    axes.legend(frameon=False)
    return figure


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.plots", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("result", type=Path, help="a JSON file that `python -m bench` wrote")
    parser.add_argument("--into", type=Path, help="the folder; default: beside the result")
    parser.add_argument("--format", choices=("svg", "png"), default="svg")
    given = parser.parse_args()
    into = given.into or given.result.with_suffix("")
    for path in draw(json.loads(given.result.read_text("utf-8")), into, given.format):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
