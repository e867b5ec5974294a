"""Load generators are processes of their own: how one is told what to send, and how its report comes back."""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bench.events import EventPlan
from bench.load_report import LoadReport
from bench.processes import BenchError

ROOT: Final = Path(__file__).resolve().parents[1]
EXTRA_S: Final = 180.0
"""What a run may take besides sending: building requests, late answers, settling."""


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Which events to send and how: the same words for every generator."""
    add = parser.add_argument
    add("--batch", "--batches", type=int, default=1000, help="events in a request; 1 sends bare objects")
    add("--connections", type=int, default=8)
    add("--events", type=int, default=200_000, help="events to send in all, repeats included")
    add("--seconds", type=float, default=60.0, help="send nothing new after this time")
    add("--dup", type=float, default=0.0, help="share of events that repeat an earlier one of this run")
    add("--topics", type=int, default=5)
    add("--ids", choices=("random", "ordered"), default="random", help="UUIDv4 or UUIDv7")
    add("--seed", type=int, default=None, help="the same seed gives the same ids; random by default")


def plan_of(given: argparse.Namespace) -> EventPlan:
    seed = given.seed if given.seed is not None else secrets.randbits(48)
    return EventPlan(given.events, given.batch, seed, given.dup, given.topics, given.ids)


def plan_arguments(plan: EventPlan, connections: int, seconds: float) -> list[str]:
    """The inverse: what makes a generator send this plan."""
    return [
        *("--batch", str(plan.batch), "--connections", str(connections), "--events", str(plan.events)),
        *("--seconds", str(seconds), "--dup", str(plan.dup), "--topics", str(plan.topics), "--ids", plan.ids),
        *("--seed", str(plan.seed)),
    ]


def run_generator(module: str, arguments: Sequence[str], seconds: float, log_end: Callable[[], str]) -> LoadReport:
    """Runs `python -m module`, which prints its report as JSON. Raises BenchError with what it and the server wrote."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=seconds + EXTRA_S, check=False,
    )  # fmt: skip
    try:
        return LoadReport(**json.loads(done.stdout))
    except ValueError as error:
        raise BenchError(f"the load generator failed:\n{done.stderr[-2000:]}\nserver:\n{log_end()}") from error
