"""The seen index is derived: deleted, stale, ahead of the log, or of another store, it never decides wrongly.

Every case prepares the files, opens the store, and then holds it to one check: all events are there, every old key is a
duplicate of its own offset, every new key is stored.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from sekali.errors import DiskFull, Draining, IndexRebuilding, OutcomeUnknown, SekaliError
from sekali.event import ReadQuery
from sekali.store import catchup
from sekali.store import store as store_module
from sekali.store.seen import Mark, SeenIndex
from sekali.store.store import Store
from tests.contract.conftest import OpenStore
from tests.support.events import DUPLICATE, STAMP_US, STORED, Row, Sent, batch_of, receipts, rows
from tests.support.stores import (
    compact_fully,
    copy_database,
    held_catch_up,
    index_folder,
    remove_index,
    store_settings,
    wait_for,
    wait_index_ready,
)


def events(start: int, end: int, by: str = "first") -> list[Sent]:
    return [Sent(f"t{i % 5}", f"e-{i}", b'{"by":"%s"}' % by.encode()) for i in range(start, end)]


def fill(store: Store, start: int, end: int, by: str = "first") -> None:
    for first in range(start, end, 50):
        store.append([batch_of(events(first, min(first + 50, end), by))], STAMP_US)


def log_of(store: Store) -> list[Row]:
    return rows(store.read(ReadQuery()))


def check_decides_rightly(store: Store, start: int = 0, end: int = 400, fresh: int = 10_000) -> None:
    """Keys start..end are stored, each at its own offset, and no others; new ones from `fresh` on are taken."""
    wait_index_ready(store)
    assert [row.event_id for row in log_of(store)] == [f"e-{i}" for i in range(start, end)]
    again = receipts(store.append([batch_of(events(start, end))], STAMP_US)[0])
    assert again == [(DUPLICATE, offset) for offset in range(1, end - start + 1)]
    new = receipts(store.append([batch_of(events(fresh, fresh + 50))], STAMP_US)[0])
    assert new == [(STORED, offset) for offset in range(end - start + 1, end - start + 51)]
    keys = [("t0", f"e-{start}"), ("t0", f"e-{fresh}"), ("t0", "e-999999995")]
    assert [answer.seen for answer in store.seen(keys)] == [True, True, False]
    totals = store.totals()
    assert totals.received == totals.unique + totals.duplicates


@pytest.fixture(params=[False, True], ids=["tail", "runs"])
def open_one(request: pytest.FixtureRequest, open_store: OpenStore) -> OpenStore:
    """Opens stores that keep all in the tail, or compact all the time."""

    def open_so(path: Path | None = None) -> Store:
        return open_store(path, small_runs=request.param)

    return open_so


def test_an_index_that_was_deleted_is_rebuilt(open_one: OpenStore, db_path: Path) -> None:
    store = open_one()
    fill(store, 0, 400)
    store.close()
    remove_index(db_path)
    check_decides_rightly(open_one())


def test_an_index_that_is_stale_catches_up(open_one: OpenStore, db_path: Path, tmp_path: Path) -> None:
    store = open_one()
    fill(store, 0, 200)
    store.close()
    shutil.copytree(index_folder(db_path), tmp_path / "stale")
    store = open_one()
    fill(store, 200, 400)
    store.close()
    kept = index_folder(db_path)
    remove_index(db_path)
    shutil.copytree(tmp_path / "stale", kept)
    check_decides_rightly(open_one())


def check_index_ahead_of_a_restored_backup(open_one: Callable[..., Store], db_path: Path, tmp_path: Path) -> None:
    """A backup is restored and the newer index is left beside it: what the backup lacks is new again."""
    store = open_one()
    fill(store, 0, 200)
    store.close()
    backup = copy_database(db_path, tmp_path / "backup")
    store = open_one()
    fill(store, 200, 400)
    store.close()
    shutil.copy(backup, db_path)
    store = wait_index_ready(open_one())
    assert [row.event_id for row in log_of(store)] == [f"e-{i}" for i in range(200)]
    again = receipts(store.append([batch_of(events(0, 400))], STAMP_US)[0])
    assert again == [(DUPLICATE, i + 1) for i in range(200)] + [(STORED, i + 1) for i in range(200, 400)]
    check_decides_rightly(store)


def test_an_index_ahead_of_a_restored_backup_is_thrown_away(open_one: OpenStore, db_path: Path, tmp_path: Path) -> None:
    check_index_ahead_of_a_restored_backup(open_one, db_path, tmp_path)


def check_index_of_another_future(open_one: Callable[..., Store], db_path: Path, tmp_path: Path) -> None:
    """A restored backup went on to as many commits as the index beside it has seen, but to other events."""
    store = open_one()
    fill(store, 0, 200)
    store.close()
    backup = copy_database(db_path, tmp_path / "backup")
    store = open_one()
    fill(store, 5000, 5200, "lost")
    store.close()
    shutil.copytree(index_folder(db_path), tmp_path / "index of the lost future")
    kept = index_folder(db_path)
    remove_index(db_path)
    shutil.copy(backup, db_path)
    store = wait_index_ready(open_one())
    fill(store, 200, 400)
    store.close()
    remove_index(db_path)
    shutil.copytree(tmp_path / "index of the lost future", kept)
    store = wait_index_ready(open_one())
    lost = receipts(store.append([batch_of(events(5000, 5200))], STAMP_US)[0])
    assert lost == [(STORED, offset) for offset in range(401, 601)]
    again = receipts(store.append([batch_of(events(0, 400))], STAMP_US)[0])
    assert again == [(DUPLICATE, offset) for offset in range(1, 401)]


def test_an_index_of_another_future_is_thrown_away(open_one: OpenStore, db_path: Path, tmp_path: Path) -> None:
    check_index_of_another_future(open_one, db_path, tmp_path)


def test_an_index_of_another_future_that_differs_in_a_topics_name_alone_is_thrown_away(
    open_one: OpenStore, db_path: Path, tmp_path: Path
) -> None:
    """A restored backup went on as the lost future did, offset by offset and byte by byte, but under another topic."""
    store = open_one()
    fill(store, 0, 200)
    store.close()
    backup = copy_database(db_path, tmp_path / "backup")
    kept = index_folder(db_path)

    def go_on(topic: str) -> None:
        store = wait_index_ready(open_one())
        store.append([batch_of([Sent(topic, f"x-{i}") for i in range(50)])], STAMP_US)
        store.close()

    go_on("lost")
    shutil.copytree(kept, tmp_path / "index of the lost future")
    shutil.copy(backup, db_path)
    remove_index(db_path)
    go_on("kept")
    remove_index(db_path)
    shutil.copytree(tmp_path / "index of the lost future", kept)
    store = wait_index_ready(open_one())
    keys = [Sent(topic, f"x-{i}") for topic in ("kept", "lost") for i in range(50)]
    told = receipts(store.append([batch_of(keys)], STAMP_US)[0])
    assert told == [(DUPLICATE, 201 + i) for i in range(50)] + [(STORED, 251 + i) for i in range(50)]


def check_index_of_another_store(open_one: Callable[..., Store], db_path: Path, tmp_path: Path) -> None:
    """The index of another store with the same number of commits is put in place of the own one."""
    other_path = tmp_path / "other" / db_path.name
    other = open_one(other_path)
    fill(other, 0, 400)
    other.close()
    store = open_one()
    fill(store, 10_000, 10_400)
    store.close()
    kept = index_folder(db_path)
    remove_index(db_path)
    shutil.copytree(index_folder(other_path), kept)
    check_decides_rightly(open_one(), start=10_000, end=10_400, fresh=0)


def test_an_index_of_another_store_is_thrown_away(open_one: OpenStore, db_path: Path, tmp_path: Path) -> None:
    check_index_of_another_store(open_one, db_path, tmp_path)


def test_an_index_beside_a_new_empty_database_is_thrown_away(open_one: OpenStore, db_path: Path) -> None:
    store = open_one()
    fill(store, 0, 400)
    store.close()
    db_path.unlink()
    store = wait_index_ready(open_one())
    assert receipts(store.append([batch_of(events(0, 400))], STAMP_US)[0]) == [(STORED, i + 1) for i in range(400)]


@pytest.mark.parametrize("damage", ["a file in its place", "a file cut short", "files missing"])
def test_an_index_that_cannot_be_opened_is_rebuilt(open_one: OpenStore, db_path: Path, damage: str) -> None:
    store = open_one()
    fill(store, 0, 400)
    store.close()
    index = index_folder(db_path)
    if damage == "a file in its place":
        shutil.rmtree(index)
        index.write_bytes(b"not a folder")
    elif damage == "a file cut short":
        for path in index.glob("MANIFEST*"):
            path.write_bytes(path.read_bytes()[:20])
    else:
        for path in index.glob("*.sst"):
            path.unlink()
    check_decides_rightly(open_one())


def test_an_index_with_a_flipped_bit_never_decides_wrongly(
    open_one: OpenStore, db_path: Path, tmp_path: Path, rng: random.Random
) -> None:
    """It is rebuilt at once, or the store stops at the first look-up that meets the bit and rebuilds when reopened."""
    store = open_one()
    fill(store, 0, 400)
    store.close()
    for number in range(6):
        copied = tmp_path / f"copy-{number}" / db_path.name
        shutil.copytree(db_path.parent, copied.parent)
        (table,) = index_folder(copied).glob("*.sst")
        content = bytearray(table.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        table.write_bytes(bytes(content))
        store = open_one(copied)
        try:
            check_decides_rightly(store)
        except SekaliError:
            has_stopped = store.failed is not None
            store.close()
            assert has_stopped
            check_decides_rightly(open_one(copied))


def test_a_damaged_block_stops_the_store_at_the_look_up_that_meets_it_and_the_next_opening_makes_the_index_anew(
    open_store: OpenStore, db_path: Path
) -> None:
    """The first block of the largest table: opening reads the mark alone, which does not lie there."""
    count = 30_000
    store = open_store()
    store.append([batch_of(events(0, count))], STAMP_US)
    store.close()
    table = max(index_folder(db_path).glob("*.sst"), key=lambda path: path.stat().st_size)
    content = bytearray(table.read_bytes())
    assert len(content) > 100_000, "a table of many blocks"
    content[50] ^= 1
    table.write_bytes(bytes(content))
    store = open_store()
    with pytest.raises(OutcomeUnknown):
        store.append([batch_of(events(0, count))], STAMP_US)
    assert isinstance(store.failed, OutcomeUnknown)
    damaged = db_path.with_name(f"{db_path.name}.seen.damaged")
    assert damaged.exists()
    store.close()
    store = open_store()
    assert not damaged.exists()
    check_decides_rightly(store, end=count, fresh=count)
    assert store.totals().unique == count + 50


def test_an_index_removed_while_it_is_in_use_stops_the_store_at_its_next_write_at_the_latest(
    open_store: OpenStore, db_path: Path
) -> None:
    """Closing lets go of everything all the same, and the next opening makes the index anew."""
    store = open_store()
    fill(store, 0, 400)
    remove_index(db_path)
    count = 400
    while store.failed is None and count < 400_000:
        with suppress(Draining, OutcomeUnknown):
            store.append([batch_of(events(count, count + 10_000))], STAMP_US)
            count += 10_000
    assert isinstance(store.failed, OutcomeUnknown)
    store.close()
    store = wait_index_ready(open_store())
    assert store.totals().unique == count
    again = receipts(store.append([batch_of(events(count - 400, count))], STAMP_US)[0])
    assert again == [(DUPLICATE, offset) for offset in range(count - 399, count + 1)]


def test_reads_work_while_the_index_is_rebuilt_and_publishing_is_refused(
    open_store: OpenStore, db_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    fill(store, 0, 400)
    expected = log_of(store)
    store.close()
    remove_index(db_path)
    with held_catch_up(monkeypatch) as held:
        store = open_store()
        held.wait_until_reached()
        readiness = store.readiness()
        assert not readiness.index_ready
        assert readiness.index_done < readiness.index_total
        assert log_of(store) == expected
        assert store.totals().unique == 400
        assert len(store.topic_figures()) == 5
        with pytest.raises(IndexRebuilding) as refusal:
            store.append([batch_of(events(0, 3))], STAMP_US)
        assert (refusal.value.retry_after_s or 0) >= 1
        with pytest.raises(IndexRebuilding):
            store.seen([("t0", "e-0")])
    check_decides_rightly(store)


class NoRoom:
    """The disk of the seen index has room for so many writes more, and for any number once it was emptied."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, writes_left: int) -> None:
        self.writes_left = writes_left
        self.refused = 0
        write = SeenIndex.write

        def write_while_there_is_room(index: SeenIndex, keys: dict[bytes, int], done: Mark, upto: Mark) -> None:
            if not self.writes_left:
                self.refused += 1
                raise DiskFull("The disk of the seen index is full.")
            self.writes_left -= 1
            write(index, keys, done, upto)

        monkeypatch.setattr(SeenIndex, "write", write_while_there_is_room)
        monkeypatch.setattr(catchup, "FULL_DISK_WAIT_S", 0.001)

    def empty(self) -> None:
        self.writes_left = 1 << 30


@pytest.mark.parametrize("writes_left", [0, 1, 2, 3])
@pytest.mark.parametrize("is_large", [False, True], ids=["at once", "in the background"])
def test_a_rebuild_that_meets_a_full_disk_waits_for_room(
    open_store: OpenStore, db_path: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool, writes_left: int
) -> None:
    store = open_store(small_runs=True)
    fill(store, 0, 400)
    compact_fully(store)
    fill(store, 400, 500)
    store.close()
    remove_index(db_path)
    if is_large:
        monkeypatch.setattr(store_module, "_CATCH_UP_AT_ONCE_EVENTS", -1)
    disk = NoRoom(monkeypatch, writes_left)
    store = open_store(small_runs=True)
    wait_for(lambda: disk.refused > 2, "it is tried again")
    readiness = store.readiness()
    assert isinstance(readiness.refusal, DiskFull)
    assert not readiness.index_ready
    with pytest.raises(DiskFull):
        store.append([batch_of(events(0, 3))], STAMP_US)
    assert len(log_of(store)) == 500
    assert store.failed is None
    disk.empty()
    check_decides_rightly(store, end=500)
    assert store.readiness().refusal is None


def test_closing_while_a_rebuild_waits_for_room_is_prompt(
    open_store: OpenStore, db_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    fill(store, 0, 400)
    store.close()
    remove_index(db_path)
    disk = NoRoom(monkeypatch, writes_left=0)
    monkeypatch.setattr(catchup, "FULL_DISK_WAIT_S", 3600.0)
    store = open_store()
    wait_for(lambda: disk.refused > 1, "it waits for room")
    store.close()
    disk.empty()
    check_decides_rightly(open_store())


def test_closing_while_the_index_is_rebuilt_is_prompt_and_loses_nothing(
    open_store: OpenStore, db_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    fill(store, 0, 400)
    store.close()
    remove_index(db_path)
    with held_catch_up(monkeypatch) as held:
        store = open_store()
        held.wait_until_reached()
        store.close()
    check_decides_rightly(open_store())


def test_a_rebuilt_index_is_kept(open_store: OpenStore, db_path: Path) -> None:
    store = open_store()
    fill(store, 0, 400)
    store.close()
    remove_index(db_path)
    wait_index_ready(open_store()).close()
    reopened = Store.open(store_settings(db_path))
    try:
        assert reopened.readiness().index_ready, "a kept index is ready at once"
    finally:
        reopened.close()
