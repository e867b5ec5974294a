"""I1c: the n-th operation on SQLite's files fails, for every n, once or from then on; then the power is cut.

Whatever failed: the answer was an error of ours, nothing acknowledged is lost, nothing is stored twice, and where the
store had stopped, the next opening goes on from what is on the disk.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import apsw
import pytest

from sekali.errors import SekaliError
from sekali.store.maintenance import Maintenance
from tests.faults.disk import Disk, used_by_sqlite
from tests.faults.evidence import Evidence
from tests.faults.workload import Record, Workload, check_recovered
from tests.support.history import HistoryBroken

Failure = Callable[[], apsw.Error]


def input_output_error() -> apsw.Error:
    return apsw.IOError("the disk failed, as the test wants it")


def full_disk() -> apsw.Error:
    return apsw.FullError("the disk is full, as the test wants it")


FAILURES: Final[dict[str, Failure]] = {"input/output error": input_output_error, "full disk": full_disk}
FILLING: Final = ("write", "truncate", "open")
"""What may find a disk full."""


class FailingDisk(Disk):
    """Operation number `at` fails; with `for_ever` every later one, too."""

    def __init__(self, at: int = 0, failure: Failure = input_output_error, *, for_ever: bool = False) -> None:
        super().__init__(self._perhaps_fail)
        self._at = at
        self._failure = failure
        self._for_ever = for_ever
        self.failed: list[str] = []

    def _perhaps_fail(self, operation: str, path: str) -> None:
        is_due = self.operations >= self._at > 0 if self._for_ever else self.operations == self._at
        if is_due and (self._failure is not full_disk or operation in FILLING):
            self.failed.append(f"{operation} of {Path(path).suffix or path}")
            raise self._failure()


class Sweep:
    """The same work, again and again, on disks that fail elsewhere."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._seed = seed

    def operations(self) -> int:
        disk = FailingDisk()
        self._work(disk)
        return disk.operations

    def fail(self, at: int, failure: Failure, *, for_ever: bool) -> FailingDisk:
        """Raises HistoryBroken."""
        disk = FailingDisk(at, failure, for_ever=for_ever)
        record = self._work(disk)
        target = self._folder / "cut"
        how = disk.cut().leave(target, random.Random(self._seed + at))
        try:
            if (target / "store.db").exists():
                check_recovered(target / "store.db", record.at(record.moment))
            elif any(attempt.outcome == "acknowledged" for attempt in record.at(record.moment)):
                raise HistoryBroken("the file of the store is gone")  # noqa: TRY301
        except HistoryBroken as broken:
            raise HistoryBroken(f"{disk.failed[:3]} at {at}, {how}: {broken}") from broken
        finally:
            shutil.rmtree(target)
        return disk

    def _work(self, disk: Disk) -> Record:
        """Goes on after each error: opens anew where the store has stopped, as whoever supervises it does."""
        record = Record()
        live = self._folder / "live"
        workload = Workload(live / "store.db", random.Random(self._seed), record)
        with used_by_sqlite(disk):
            for _ in range(2):
                for step in self._steps(workload):
                    try:
                        if workload.store is None:
                            workload.open()
                        step()
                    except SekaliError:
                        if workload.store is not None and workload.store.failed is not None:
                            _close(workload)
                _close(workload)
        shutil.rmtree(live)
        return record

    def _steps(self, workload: Workload) -> Iterator[Callable[[], object]]:
        for _ in range(4):
            yield workload.publish
            yield workload.publish
            yield workload.compact
        yield workload.checkpoint
        yield workload.publish
        yield workload.tidy


def _close(workload: Workload) -> None:
    """Closing may fail as well, and says so."""
    with suppress(SekaliError):
        workload.close()


def note(evidence: Evidence, kinds: Counter[str]) -> None:
    for name, runs in kinds.items():
        evidence.note("I1c", f"{name} at one operation, once or from then on, then loss of power", runs)


@pytest.fixture
def sweep(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Nothing happens by itself, so that the same operation has the same number each time."""
    monkeypatch.setattr(Maintenance, "notice", lambda self: None)
    return Sweep(tmp_path, seed)


def swept(sweep: Sweep, places: range) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for at in places:
        for name, failure in FAILURES.items():
            for for_ever in (False, True):
                disk = sweep.fail(at, failure, for_ever=for_ever)
                kinds[name] += bool(disk.failed)
    return kinds


def test_an_operation_that_fails_loses_nothing(sweep: Sweep, evidence: Evidence) -> None:
    operations = sweep.operations()
    kinds = swept(sweep, range(1 + operations % 97, operations, 97))
    assert set(kinds) == set(FAILURES), kinds
    note(evidence, kinds)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_every_operation_fails_once_and_for_ever(part: int, sweep: Sweep, evidence: Evidence) -> None:
    operations = sweep.operations()
    kinds = swept(sweep, range(1 + part, operations + 1, 4))
    print(part, operations, dict(kinds))
    note(evidence, kinds)
