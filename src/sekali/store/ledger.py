"""The duplicate ledger: for every event that was refused as known already, what it repeated and who sent it.

A row of `ledger` is one commit's: a zstd frame of a MessagePack array [offsets, names of topics, topics, names of
sources, sources, conflicts, payloads]. Topics and sources are places among their names. `payloads` has the refused
payload of a conflict, as far as the bounds allow, and nil otherwise.

A read looks through a bounded number of rows: their heads and bodies are fetched in one short transaction, and decoded
one at a time after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import apsw
import msgspec

from sekali.errors import StoreCorrupt
from sekali.event import LedgerEntry, LedgerPage, LedgerPlace, LedgerQuery
from sekali.store.codec import compress, decompress
from sekali.store.decide import Duplicate, GroupColumns
from sekali.store.log import Statement, Totals
from sekali.store.rows import check_row, integers_of, row_checksum, rows_of

REFUSED_PAYLOAD_BYTES_MAX: Final = 4 * 1024
REFUSED_PAYLOADS_PER_COMMIT_BYTES_MAX: Final = 256 * 1024

WINDOW_ROWS_MAX: Final = 1_000
WINDOW_ENTRIES: Final = 50_000
WINDOW_BYTES: Final = 4 * 1024 * 1024
"""A page looks through rows until one of these is reached; a row, which may hold more, always as a whole."""
PAGE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of names and payloads: past it a page ends early."""
_ENTRY_BYTES: Final = 200
"""Of an entry beside its topic, source and payload, about."""

_INSERT: Final = "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?)"
_COLUMNS: Final = "SELECT commit_no, stamp_us, entries, entries_before, body, checksum FROM ledger"
_HEADS: Final = """
    SELECT commit_no, entries, length(body), entries_before FROM ledger WHERE commit_no BETWEEN ? AND ?
    ORDER BY commit_no {direction} LIMIT ?"""
_COUNT_BEFORE: Final = """
    SELECT entries_before + entries FROM ledger WHERE commit_no < ? ORDER BY commit_no DESC LIMIT 1"""
_COUNT_AFTER: Final = "SELECT entries_before FROM ledger WHERE commit_no > ? ORDER BY commit_no LIMIT 1"
_HEADS_UP: Final = _HEADS.format(direction="ASC")
_HEADS_DOWN: Final = _HEADS.format(direction="DESC")

_Body = tuple[list[int], list[str], list[int], list[str], list[int], list[bool], list[bytes | None]]
_body_decoder: Final = msgspec.msgpack.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row as it lies in the file, not yet checked."""

    commit_no: int
    stamp_us: int
    entries: int
    entries_before: int
    body: bytes
    checksum: int

    def check(self) -> None:
        """Raises StoreCorrupt."""
        what = f"the ledger of commit {self.commit_no}"
        check_row(what, self.checksum, self.commit_no, self.stamp_us, self.entries, self.entries_before, self.body)


@dataclass(frozen=True, slots=True)
class LedgerWindow:
    """Rows to look through, in the order of reading, and where the next one begins; None when no row follows."""

    rows: list[_Row]
    following: LedgerPlace | None


def ledger_row(
    commit_no: int,
    stamp_us: int,
    group: GroupColumns,
    duplicates: Sequence[Duplicate],
    first_offset: int,
    entries_before: int,
) -> Statement:
    """The statement that keeps a commit's duplicates. `entries_before`: of earlier commits."""
    left = REFUSED_PAYLOADS_PER_COMMIT_BYTES_MAX
    payloads: list[bytes | None] = []
    for duplicate in duplicates:
        refused = None
        size = len(group.payloads[duplicate.place])
        if duplicate.is_conflict and size <= min(left, REFUSED_PAYLOAD_BYTES_MAX):
            refused = bytes(group.payloads[duplicate.place])
            left -= size
        payloads.append(refused)
    body: _Body = (
        [each.offset if each.new_place is None else first_offset + each.new_place for each in duplicates],
        *_coded([group.topics[each.place] for each in duplicates]),
        *_coded([group.sources[each.place] for each in duplicates]),
        [each.is_conflict for each in duplicates],
        payloads,
    )
    columns = (commit_no, stamp_us, len(duplicates), entries_before)
    packed = compress(msgspec.msgpack.encode(body))
    return _INSERT, [(*columns, row_checksum(*columns, packed), packed)]


def _coded(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Each text once, and for each the place of its own."""
    place_of = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return list(place_of), [place_of[text] for text in texts]


def ledger_window(connection: apsw.Connection, query: LedgerQuery, totals: Totals) -> LedgerWindow:
    """The next rows that the query has to look through, none of later commits. Raises StoreCorrupt."""
    last_commit = totals.commit_no
    low, high = 1, last_commit
    if query.since_us is not None:
        low = _first_commit_from(connection, query.since_us, last_commit)
    if query.until_us is not None:
        high = _first_commit_from(connection, query.until_us, last_commit) - 1
    if query.start is not None:
        begin = query.start.commit_no
        low, high = (low, min(high, begin)) if query.descending else (max(low, begin), high)
    sql = _HEADS_DOWN if query.descending else _HEADS_UP
    heads = integers_of("The ledger's head", connection, sql, low, high, WINDOW_ROWS_MAX + 1)
    _check_none_is_missing(connection, heads, totals, low, high, descending=query.descending)
    entries = size = taken = 0
    for _, count, body_bytes, _ in heads[:WINDOW_ROWS_MAX]:
        taken += 1
        entries += count
        size += body_bytes
        if entries >= WINDOW_ENTRIES or size >= WINDOW_BYTES:
            break
    if not taken:
        return LedgerWindow([], None)
    first, last = sorted((heads[0][0], heads[taken - 1][0]))
    found = rows_of(connection, f"{_COLUMNS} WHERE commit_no BETWEEN ? AND ? ORDER BY commit_no", first, last)
    rows = [_Row(*columns) for columns in found]
    following = None
    if taken < len(heads):
        commit_no, count, *_ = heads[taken]
        following = LedgerPlace(commit_no, count - 1 if query.descending else 0)
    return LedgerWindow(rows[::-1] if query.descending else rows, following)


def _check_none_is_missing(
    connection: apsw.Connection,
    heads: Sequence[tuple[int, ...]],
    totals: Totals,
    low: int,
    high: int,
    *,
    descending: bool,
) -> None:
    """Each row counts the entries before it. `heads`: those of low..high, the last ones perhaps cut off."""
    if low > high:
        return
    is_cut = len(heads) > WINDOW_ROWS_MAX
    counted = None
    if not (is_cut and descending):
        counted = _count(connection, _COUNT_BEFORE, low) or 0
    for commit_no, entries, _, entries_before in reversed(heads) if descending else heads:
        if counted is not None and counted != entries_before:
            raise StoreCorrupt(f"The ledger lacks entries before commit {commit_no}. Restore the file from a backup.")
        counted = entries_before + entries
    if not is_cut or descending:
        following = _count(connection, _COUNT_AFTER, high)
        if counted != (totals.duplicates if following is None else following):
            raise StoreCorrupt(f"The ledger lacks entries up to commit {high}. Restore the file from a backup.")


def _count(connection: apsw.Connection, sql: str, commit_no: int) -> int | None:
    rows = integers_of("The ledger's count", connection, sql, commit_no)
    return rows[0][0] if rows else None


def ledger_page(window: LedgerWindow, query: LedgerQuery) -> LedgerPage:
    """The window's entries that match, without event ids. Raises StoreCorrupt."""
    entries: list[LedgerEntry] = []
    size = 0
    for row in window.rows:
        for entry in _matching(row, query):
            if len(entries) == query.limit or size >= PAGE_BYTES_MAX:
                return LedgerPage(entries, entry.at)
            entries.append(entry)
            size += len(entry.topic) + len(entry.source) + len(entry.refused_payload or b"") + _ENTRY_BYTES
    return LedgerPage(entries, window.following)


def entries_of(row: _Row) -> Iterator[LedgerEntry]:
    """All of one row's entries. Raises StoreCorrupt."""
    return _matching(row, LedgerQuery())


def _matching(row: _Row, query: LedgerQuery) -> Iterator[LedgerEntry]:
    row.check()
    try:
        body = _body_decoder.decode(decompress(row.body))
    except msgspec.MsgspecError as error:
        raise StoreCorrupt(f"The ledger of commit {row.commit_no} cannot be decoded ({error}).") from error
    offsets, topic_names, topics, source_names, sources, conflicts, payloads = body
    wanted = frozenset(query.topics)
    for place in _places(row, query):
        topic, source, is_conflict = topic_names[topics[place]], source_names[sources[place]], conflicts[place]
        if (
            (not wanted or topic in wanted)
            and (query.source is None or source == query.source)
            and (query.is_conflict is None or is_conflict == query.is_conflict)
        ):
            at = LedgerPlace(row.commit_no, place)
            yield LedgerEntry(offsets[place], topic, source, row.stamp_us, is_conflict, payloads[place], at)


def _places(row: _Row, query: LedgerQuery) -> range:
    """The places of the row to look at, in the order of reading."""
    first, last = 0, row.entries - 1
    if query.start is not None and query.start.commit_no == row.commit_no:
        first, last = (first, min(last, query.start.place)) if query.descending else (query.start.place, last)
    return range(last, first - 1, -1) if query.descending else range(first, last + 1)


def _first_commit_from(connection: apsw.Connection, time_us: int, last_commit: int) -> int:
    """Every row of this commit and later ones was written at `time_us` or later, and every earlier row before it.

    Found by halving, since store time never decreases: some forty rows, whatever the size of the ledger.
    """
    low, high = 1, last_commit + 1
    while low < high:
        middle = (low + high) // 2
        found = rows_of(
            connection, f"{_COLUMNS} WHERE commit_no BETWEEN ? AND ? ORDER BY commit_no LIMIT 1", middle, high - 1
        )
        if not found:
            high = middle
            continue
        row = _Row(*found[0])
        row.check()  # a wrong time would lead past entries that are asked for
        if row.stamp_us >= time_us:
            high = middle
        else:
            low = row.commit_no + 1
    return low
