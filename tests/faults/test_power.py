"""I1b: what was acknowledged survives a loss of power, at any moment, whatever the disk kept of what was not synced.

A store works on a disk that remembers what is certain (disk.py). At random operations of it, in the middle of commits,
checkpoints and compactions, a cut is noted; later each is left in a folder, beside an index of another moment, opened
and checked against what had been answered by then.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from tests.faults.disk import Disk, PowerCut, used_by_sqlite
from tests.faults.evidence import Evidence
from tests.faults.planted import planted
from tests.faults.workload import Record, Workload, check_recovered
from tests.support.history import HistoryBroken
from tests.support.stores import index_folder

POWER_CUT: Final = "loss of power at any write or sync, sectors lost and torn, the index as of another moment"
STEPS: Final = 60
CUTS_PER_OPERATION: Final = 0.012
INDEX_COPIES: Final = 6


class Run:
    """A workload with the cuts and the copies of its index that were taken on the way."""

    def __init__(self, folder: Path, draw: random.Random, *, lies_about_syncs: bool = False) -> None:
        self._folder = folder
        self._draw = draw
        self._moments_draw = random.Random(draw.random())
        self.record = Record()
        self.cuts: list[tuple[int, PowerCut]] = []
        self._indexes: list[Path] = []
        self._disk = Disk(self._perhaps_cut)
        self._disk.lies_about_syncs = lies_about_syncs

    def work(self) -> None:
        path = self._folder / "live" / "store.db"
        with used_by_sqlite(self._disk):
            workload = Workload(path, self._draw, self.record)
            workload.open()
            try:
                for step in range(STEPS):
                    workload.step()
                    if step % (STEPS // INDEX_COPIES) == 0:
                        self._copy_index(path)
            finally:
                workload.close()

    def _perhaps_cut(self, operation: str, path: str) -> None:
        if self._moments_draw.random() < CUTS_PER_OPERATION:
            self.cuts.append((self.record.moment, self._disk.cut()))

    def _copy_index(self, path: Path) -> None:
        copy = self._folder / f"index-{len(self._indexes)}"
        shutil.copytree(index_folder(path), copy, ignore=shutil.ignore_patterns("LOCK"))
        self._indexes.append(copy)

    def check(self) -> Counter[str]:
        """Each cut, once. Raises HistoryBroken."""
        kinds: Counter[str] = Counter()
        for number, (moment, cut) in enumerate(self.cuts):
            target = self._folder / f"cut-{number}"
            kind = cut.leave(target, self._draw)
            index = self._leave_index(target / "store.db.seen")
            try:
                if (target / "store.db").exists():
                    counts = check_recovered(target / "store.db", self.record.at(moment))
                    kinds["acknowledged requests"] += counts["acknowledged"]
                elif any(attempt.outcome == "acknowledged" for attempt in self.record.at(moment)):
                    raise HistoryBroken("the file of the store is gone")  # noqa: TRY301
            except HistoryBroken as broken:
                raise HistoryBroken(f"cut {number} at moment {moment}, {kind}, index {index}: {broken}") from broken
            kinds[kind] += 1
            kinds[f"index {index}"] += 1
            kinds["cuts"] += 1
            shutil.rmtree(target)
        return kinds

    def _leave_index(self, target: Path) -> str:
        """RocksDB's folder as of any moment, before the cut or after it."""
        kind = self._draw.choice(["of any moment", "of any moment", "missing", "truncated"])
        if kind != "missing":
            shutil.copytree(self._draw.choice(self._indexes), target)
        if kind == "truncated":
            file = self._draw.choice([path for path in sorted(target.iterdir()) if path.stat().st_size])
            with file.open("r+b") as opened:
                opened.truncate(self._draw.randrange(file.stat().st_size))
        return kind


def lose_power(folder: Path, rng: random.Random, cuts: int, *, lies_about_syncs: bool = False) -> Counter[str]:
    """Workloads until so many cuts were checked. Raises HistoryBroken at the first broken promise."""
    kinds: Counter[str] = Counter()
    while kinds["cuts"] < cuts:
        run_folder = folder / f"run-{kinds['runs']}"
        run = Run(run_folder, random.Random(rng.randrange(1 << 32)), lies_about_syncs=lies_about_syncs)
        run.work()
        run.cuts = run.cuts[: cuts - kinds["cuts"]]
        kinds += run.check()
        kinds["runs"] += 1
        shutil.rmtree(run_folder)
    return kinds


def test_acknowledged_events_survive_a_loss_of_power(tmp_path: Path, rng: random.Random, evidence: Evidence) -> None:
    kinds = lose_power(tmp_path, rng, cuts=40)
    assert kinds["acknowledged requests"] > 40, kinds
    evidence.note("I1b", POWER_CUT, kinds["cuts"])


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_acknowledged_events_survive_a_loss_of_power_500_times(
    part: int, tmp_path: Path, rng: random.Random, evidence: Evidence
) -> None:
    kinds = lose_power(tmp_path, rng, cuts=500)
    print(part, dict(kinds))
    evidence.note("I1b", POWER_CUT, kinds["cuts"])


@pytest.mark.parametrize("plant", ["unsynced_commits", "answer_before_commit", "index_without_binding"])
def test_the_cuts_catch_a_planted_bug(plant: str, tmp_path: Path, rng: random.Random) -> None:
    with planted(plant), pytest.raises(HistoryBroken) as caught:
        lose_power(tmp_path, rng, cuts=400)
    print(caught.value)


def test_the_cuts_catch_a_disk_that_lies(tmp_path: Path, rng: random.Random) -> None:
    with pytest.raises(HistoryBroken) as caught:
        lose_power(tmp_path, rng, cuts=400, lies_about_syncs=True)
    print(caught.value)
