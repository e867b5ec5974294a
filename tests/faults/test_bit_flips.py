"""I9: a bit that flips in the file is found, and not served.

A store with everything in it (runs, a tail, a ledger, several topics) is closed, one bit of it flipped, and opened.
Each read gives what it gave before, or says that the store is damaged; `sekali verify` says so whenever a read did.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import apsw
import pytest

from sekali.errors import InternalError, OutcomeUnknown, SekaliError, StoreCorrupt, StoreUnusable
from sekali.event import ReadQuery
from sekali.store.store import Store
from sekali.store.verify import verify
from tests.faults.evidence import Evidence
from tests.faults.workload import SIZES
from tests.support.events import STAMP_US, Sent, batch_of, random_events, receipts, rows
from tests.support.ledger import whole_ledger
from tests.support.stores import compact_fully, index_folder, store_settings, wait_index_ready

DAMAGE: Final = (StoreCorrupt, StoreUnusable, InternalError)
FLIP: Final = "one bit of the file flipped: found by reads, or without effect on them"
TABLES: Final = ("store", "totals", "topics", "commits", "runs", "blocks", "topic_blocks", "index_marks", "ledger")


def reads_of(store: Store) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every kind of read, each over all that it can reach."""
    names = store.topic_names(100)
    yield "the log", lambda: rows(store.read(ReadQuery()))
    yield "the log from its end", lambda: rows(store.read(ReadQuery(descending=True)))
    yield "a time", lambda: rows(store.read(ReadQuery(since_us=STAMP_US + 5_000_000)))
    for name in names:
        yield f"topic {name}", lambda name=name: rows(store.read(ReadQuery(topics=(name,))))
    yield "the ledger", lambda: whole_ledger(store)
    yield "the totals", store.totals
    yield "the topics", lambda: store.topic_figures(limit=100)


@pytest.fixture
def sound(tmp_path: Path, rng: random.Random) -> Path:
    """A closed store."""
    path = tmp_path / "sound" / "store.db"
    store = wait_index_ready(Store.open(store_settings(path), SIZES))
    for step in range(30):
        store.append([batch_of(random_events(rng, rng.choice([1, 5, 20])))], STAMP_US + step * 1_000_000)
        if step == 24:
            compact_fully(store)
    store.close()
    assert verify(path).problems == []
    return path


def flipped(sound: Path, target: Path, place: int, bit: int) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(sound.parent, target)
    path = target / sound.name
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes((byte ^ 1 << bit,)))
    return path


def check_flip(path: Path, expected: dict[str, Any]) -> str:
    """`unseen`, `refused` at opening, or `found` by a read."""
    problems = _problems(path)
    try:
        store = wait_index_ready(Store.open(store_settings(path), SIZES))
    except DAMAGE:
        assert problems != [], "refused at opening, and verify calls it sound"
        return "refused"
    try:
        damaged = [what for what, read in reads_of(store) if not _is_same(read, expected[what])]
        assert not damaged or store.readiness().damage is not None
    finally:
        store.close()
    assert not damaged or problems != [], f"{damaged} say that it is damaged, and verify calls it sound"
    return "found" if damaged else "unseen"


def _problems(path: Path) -> list[str]:
    try:
        return verify(path).problems
    except StoreUnusable as error:
        return [error.detail]


def _is_same(read: Callable[[], Any], before: Any) -> bool:
    """False when it says that the store is damaged; other data than before are a failure."""
    try:
        assert read() == before, "damage was served as data"
    except DAMAGE:
        return False
    return True


def expected_of(path: Path, scratch: Path) -> dict[str, Any]:
    shutil.copytree(path.parent, scratch)
    store = wait_index_ready(Store.open(store_settings(scratch / path.name), SIZES))
    try:
        return {what: read() for what, read in reads_of(store)}
    finally:
        store.close()


def flip_at(sound: Path, tmp_path: Path, rng: random.Random, places: list[int]) -> Counter[str]:
    expected = expected_of(sound, tmp_path / "expected")
    kinds: Counter[str] = Counter()
    for place in places:
        bit = rng.randrange(8)
        try:
            kinds[check_flip(flipped(sound, tmp_path / "flipped", place, bit), expected)] += 1
        except AssertionError as error:
            raise AssertionError(f"bit {bit} of byte {place}: {error}") from error
    return kinds


def test_a_flipped_bit_is_found_or_changes_nothing(
    sound: Path, tmp_path: Path, rng: random.Random, evidence: Evidence
) -> None:
    size = sound.stat().st_size
    kinds = flip_at(sound, tmp_path, rng, [rng.randrange(size) for _ in range(40)])
    assert kinds["found"] + kinds["refused"] > 5, kinds
    evidence.note("I9", FLIP, kinds.total())


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(
    sound: Path, tmp_path: Path, rng: random.Random, evidence: Evidence
) -> None:
    size = sound.stat().st_size
    kinds = flip_at(sound, tmp_path, rng, [rng.randrange(size) for _ in range(600)])
    print(dict(kinds))
    evidence.note("I9", FLIP, kinds.total())


def columns_of(path: Path) -> list[tuple[str, str]]:
    connection = apsw.Connection(str(path))
    try:
        return [(table, name) for table in TABLES for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
    finally:
        connection.close()


def test_a_changed_value_in_any_column_is_found(sound: Path, tmp_path: Path) -> None:
    """SQLite itself sees nothing wrong with it: only our checksums do."""
    expected = expected_of(sound, tmp_path / "expected")
    columns = columns_of(sound)
    assert len(columns) > 50
    for table, column in columns:
        target = tmp_path / "changed"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(sound.parent, target)
        connection = apsw.Connection(str(target / sound.name))
        connection.execute("PRAGMA ignore_check_constraints = 1")
        kind = connection.execute(f"SELECT typeof({column}) FROM {table} LIMIT 1").fetchone()
        if kind is None:
            continue
        other = {
            "integer": f"{column} + 1000000",
            "text": f"{column} || 'x'",
            "blob": f"CAST(substr({column}, 1, length({column}) - 1) || x'21' AS BLOB)",
            "null": "x'00'",
        }[kind[0]]
        row = "_rowid_" if table != "topic_blocks" else "(topic_id, first_offset)"
        connection.execute(
            f"UPDATE {table} SET {column} = {other} WHERE {row} IN (SELECT {row.strip('()')} FROM {table} LIMIT 1)"
        )
        connection.close()
        kind_of_answer = check_flip(target / sound.name, expected)
        assert _problems(target / sound.name) != [], f"{table}.{column} changed, and verify calls it sound"
        print(table, column, kind_of_answer)


def test_a_row_that_is_gone_is_found(sound: Path, tmp_path: Path) -> None:
    expected = expected_of(sound, tmp_path / "expected")
    for table in TABLES:
        target = tmp_path / "changed"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(sound.parent, target)
        connection = apsw.Connection(str(target / sound.name))
        row = "_rowid_" if table != "topic_blocks" else "(topic_id, first_offset)"
        connection.execute(f"DELETE FROM {table} WHERE {row} IN (SELECT {row.strip('()')} FROM {table} LIMIT 1)")
        gone = connection.changes()
        connection.close()
        if gone:
            check_flip(target / sound.name, expected)
            assert table == "index_marks" or _problems(target / sound.name) != [], f"a row of {table} is gone"


def test_a_flipped_bit_of_the_index_never_lets_a_known_key_pass_as_new(
    sound: Path, tmp_path: Path, rng: random.Random
) -> None:
    """The index is made anew, or the store stops; what it says is true."""
    kinds: Counter[str] = Counter()
    for _ in range(25):
        target = tmp_path / "flipped"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(sound.parent, target)
        path = target / sound.name
        file = rng.choice([each for each in sorted(index_folder(path).iterdir()) if each.stat().st_size])
        content = bytearray(file.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        try:
            store = wait_index_ready(Store.open(store_settings(path), SIZES))
        except SekaliError as error:
            kinds[type(error).__name__] += 1
            continue
        try:
            stored = rows(store.read(ReadQuery()))
            sent = batch_of([Sent(row.topic, row.event_id, row.payload) for row in stored])
            told = receipts(store.append([sent], STAMP_US)[0])
            assert told == [(1, row.offset) for row in stored]
            kinds["true"] += 1
        except OutcomeUnknown:
            assert store.failed is not None
            kinds["stopped"] += 1
        finally:
            store.close()
    print(dict(kinds))
