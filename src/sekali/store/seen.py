"""The seen index: which keys are stored, and where. RocksDB on disk, and the keys on their way there.

Key: keyed BLAKE2b-128 (RFC 7693) of topic, NUL, event_id. Value: offset (5 bytes) and payload fingerprint (4 bytes).
The index is derived from the log and may be deleted at any time; RocksDB's own write-ahead log is off.

Binding. Every write carries a mark in the same batch: the store's id, the commit up to which the index is complete
(`done`) and the commit up to which it may hold keys (`upto`), each with its chain digest. On opening, the log must
hold exactly these commits; otherwise the index belongs to another past and is thrown away. (Beside a restored older
database it would call new events duplicates.)

Order of looking. Committed keys wait in generations, a linked list, until their write to RocksDB has returned. Whoever
looks a key up first captures the oldest generation, then asks RocksDB, then walks the list from the captured one: a
generation that left meanwhile is still reachable, and one that came later is found. The opposite orders miss keys.
Who looks again, when it is his turn to commit, walks from the frontier: what was committed since the first walk began.
"""

from __future__ import annotations

import shutil
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from operator import methodcaller
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, WriteBatch, WriteOptions

from sekali.errors import DiskFull, OutcomeUnknown, SekaliError, StoreUnusable, unexpected

OFFSET_MAX: Final = (1 << 40) - 1
FINGERPRINT_BITS: Final = 32
_VALUE_BYTES: Final = 9
_MARK_KEY: Final = b"mark"
_KEYS_PER_WRITE: Final = 1000
"""rocksdict holds the GIL while it writes: about 1 ms for this many keys, sorted and hinted; 2.5 ms otherwise."""
_GENERATION_KEYS: Final = 32_768
_GENERATION_WAIT_S: Final = 0.3
_STALL_WAIT_S: Final = 0.01
_STALL_WAITS_MAX: Final = 6_000
FULL_DISK_WAIT_S: Final = 1.0
_MARKS_KEPT_MAX: Final = 1024
_MEMTABLE_BYTES_PER_KEY: Final = 50
_PASSING_TROUBLE: Final = ("No space", "Too many open files", "Permission denied", "lock hold")
"""Why opening may fail though the index is sound: it is left alone then."""
_DAMAGED: Final = ".damaged"
_CACHE_BYTES: Final = 64 * 1024 * 1024
_BLOCK_BYTES: Final = 16 * 1024
_FILE_BYTES: Final = 8 * 1024 * 1024
"""A file's filter is one entry of the cache. In files of 64 MiB it was 3 MiB, which none of the 64 shards of RocksDB's
usual cache could hold, so each look-up read it from the disk: 7.4 us a key at 4M keys instead of 0.9."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A commit as the index names it."""

    commit_no: int = 0
    chain: bytes = bytes(16)
    last_offset: int = 0


@dataclass(frozen=True, slots=True)
class Binding:
    """What the index says about itself: complete through `done`, holding no key of a commit after `upto`."""

    store_id: bytes
    done: Mark
    upto: Mark


class Generation:
    """Committed keys on their way to the index: digest -> offset << 32 | fingerprint. Grows under the store's turn."""

    __slots__ = ("keys", "mark", "next", "sorted_runs")

    def __init__(self) -> None:
        self.keys: dict[bytes, int] = {}
        self.sorted_runs: list[list[bytes]] = []
        """The digests again, those of each commit in order: to merge them is cheaper than to sort all of them."""
        self.mark = Mark()
        self.next: Generation | None = None


class Frontier(NamedTuple):
    """A place in the list of generations: before the commit whose run is `runs`, counted from 0."""

    generation: Generation
    runs: int


def pack_value(offset: int, fingerprint: int) -> int:
    return offset << FINGERPRINT_BITS | fingerprint


_to_bytes: Final = methodcaller("to_bytes", _VALUE_BYTES, "big")


def unpack_value(value: int) -> tuple[int, int]:
    """(offset, fingerprint)."""
    return value >> FINGERPRINT_BITS, value & 0xFFFFFFFF


class SeenIndex:
    """Thread-safe. `add` and `start` are called under the store's turn."""

    def __init__(
        self, path: Path, store_id: bytes, memtable_bytes: int, on_failure: Callable[[SekaliError], None]
    ) -> None:
        self._path = path
        self._store_id = store_id
        self._memtable_bytes = memtable_bytes
        self._on_failure = on_failure
        self._damaged_path = path.with_name(path.name + _DAMAGED)
        if self._damaged_path.exists():
            _remove(path)
            self._damaged_path.unlink()
        self._database = _open(path, memtable_bytes)
        self._write_options = WriteOptions()
        self._write_options.disable_wal = True  # type: ignore[method-assign,assignment]  # a property; the stub errs
        self._write_options.no_slowdown = True
        self._write_options.memtable_insert_hint_per_batch = True
        self._oldest = self._newest = Generation()
        self._done = Mark()
        self._changed = threading.Condition()
        self._unwritten_keys = 0
        self.disk_is_full = False
        """The last write found no room; whoever made it tries again, and nothing is to be added meanwhile."""
        self._is_closing = False
        self._writer: threading.Thread | None = None
        self._marks: dict[int, int] = {}  # commit_no -> keys written when it was last named; perhaps not flushed
        self._keys_written = 0
        self._keys_flushed_after = max(1, 5 * memtable_bytes // _MEMTABLE_BYTES_PER_KEY)

    # Looking up

    def capture(self) -> Frontier:
        """Before the oldest generation: take it before `ask`, hand it to `walk` afterwards."""
        return Frontier(self._oldest, 0)

    def ask(self, digests: Collection[bytes]) -> dict[bytes, int]:
        """Those digests that are in RocksDB, with their values. Releases the GIL; sorted keys are twice as fast, and
        to sort what is sorted costs nothing."""
        ordered: list[Any] = sorted(digests)
        try:
            answers: Any = self._database.get(ordered)
        except Exception as error:  # rocksdict has no error class of its own
            raise self._condemned(error) from error
        if not any(answers):
            return {}
        return {
            digest: int.from_bytes(answer, "big")
            for digest, answer in zip(ordered, answers, strict=True)
            if answer is not None
        }

    def walk(self, frontier: Frontier, digests: Collection[bytes]) -> dict[bytes, int]:
        """Those digests that were committed after the frontier, with their values."""
        found: dict[bytes, int] = {}
        generation: Generation | None
        generation, runs = frontier
        if runs:
            keys = generation.keys
            later = generation.sorted_runs[runs:]
            wanted = set(digests) if later else set()
            found.update((digest, keys[digest]) for run in later for digest in wanted.intersection(run))
            generation = generation.next
        while generation is not None:
            keys = generation.keys
            if keys and not keys.keys().isdisjoint(digests):
                found.update((digest, keys[digest]) for digest in digests if digest in keys)
            generation = generation.next
        return found

    def find(self, digests: Collection[bytes]) -> tuple[dict[bytes, int], Frontier]:
        """Those digests that are stored, with their values; and the frontier from which to walk again later."""
        captured = self.capture()
        found = self.ask(digests)
        newest = self._newest
        frontier = Frontier(newest, len(newest.sorted_runs))  # before the walk: what is added during it comes after
        found.update(self.walk(captured, digests))
        return found, frontier

    # Taking in what was committed

    @property
    def unwritten_keys(self) -> int:
        return self._unwritten_keys

    def add(self, digests: Iterable[bytes], values: Sequence[int], ordered: list[bytes], mark: Mark) -> None:
        """Adds a commit's keys, visible at once. Under the store's turn, after the commit. `ordered`: the digests
        sorted."""
        with self._changed:
            is_first = self._newest.mark == Mark()
            self._newest.keys.update(zip(digests, values, strict=True))
            self._newest.sorted_runs.append(ordered)
            self._newest.mark = mark
            self._unwritten_keys += len(values)
            if is_first or len(self._newest.keys) >= _GENERATION_KEYS:  # the writer waits for either
                self._changed.notify()

    def start(self) -> None:
        """Starts the writing thread, once the index holds every key of the log."""
        self._writer = threading.Thread(target=self._write_generations, name="sekali-index", daemon=True)
        self._writer.start()

    @property
    def done(self) -> Mark:
        """The commit up to which the index is complete, in RocksDB though perhaps not durable."""
        return self._done

    def marks_perhaps_on_disk(self) -> set[int]:
        """Commits that the index may name after a crash: their chain digests must stay in the log."""
        with self._changed:
            return set(self._marks)

    def _write_generations(self) -> None:
        try:
            while (generation := self._next_generation()) is not None:
                if not self._write_until_there_is_room(generation):
                    return
                with self._changed:
                    assert generation.next is not None, "a generation being written has been sealed"
                    self._oldest = generation.next
                    self._unwritten_keys -= len(generation.keys)
        except SekaliError as error:
            self._on_failure(error)
        except BaseException as error:  # noqa: BLE001  (a thread must not end unheard)
            self._on_failure(unexpected("the index writer", error))

    def _write_until_there_is_room(self, generation: Generation) -> bool:
        """Writes a generation, waiting for room on a full disk; False when closing comes first."""
        while True:
            try:
                ordered = sorted(chain.from_iterable(generation.sorted_runs))
                self.write(generation.keys, generation.mark, generation.mark, ordered)
            except DiskFull:
                self.disk_is_full = True
                with self._changed:
                    if self._changed.wait_for(lambda: self._is_closing, timeout=FULL_DISK_WAIT_S):
                        return False
            else:
                self.disk_is_full = False
                return True

    def _next_generation(self) -> Generation | None:
        """Seals the oldest generation once it is large or old enough; None when closing and nothing is left."""
        with self._changed:
            while not self._is_closing and not self._oldest.keys and self._oldest.mark == Mark():
                self._changed.wait()
            if not self._is_closing and len(self._oldest.keys) < _GENERATION_KEYS:
                self._changed.wait_for(
                    lambda: self._is_closing or len(self._oldest.keys) >= _GENERATION_KEYS, timeout=_GENERATION_WAIT_S
                )
            if self._oldest.mark == Mark():
                return None
            sealed = self._oldest
            if sealed.next is None:
                sealed.next = self._newest = Generation()
            return sealed

    def write(self, keys: dict[bytes, int], done: Mark, upto: Mark, ordered: list[bytes] | None = None) -> None:
        """Writes keys of commits through `upto`, in bounded batches; with the last of them the index is `done`.

        `ordered`: the keys sorted, where somebody has them so. Raises DiskFull or OutcomeUnknown.
        """
        digests = sorted(keys) if ordered is None else ordered
        for start in range(0, max(1, len(digests)), _KEYS_PER_WRITE):
            is_last = start + _KEYS_PER_WRITE >= len(digests)
            chunk = digests[start : start + _KEYS_PER_WRITE]
            self._write_batch(chunk, keys, done if is_last else self._done, upto)

    def _write_batch(self, digests: Sequence[bytes], keys: dict[bytes, int], done: Mark, upto: Mark) -> None:
        batch = WriteBatch(raw_mode=True)
        values = map(_to_bytes, map(keys.__getitem__, digests))
        deque(map(batch.put, digests, values), maxlen=0)  # without a loop in Python
        batch.put(_MARK_KEY, msgspec.msgpack.encode(Binding(self._store_id, done, upto)))
        self._write_when_not_stalled(batch)
        self._keys_written += len(digests)
        self._done = done
        self._remember(done)
        self._remember(upto)
        if len(self._marks) > _MARKS_KEPT_MAX:
            self.flush()

    def _remember(self, mark: Mark) -> None:
        with self._changed:
            if mark.commit_no:
                self._marks[mark.commit_no] = self._keys_written
            self._forget_marks(self._is_flushed)

    def _forget_marks(self, is_flushed: Callable[[int], bool]) -> None:
        """Drops the oldest that the index can't name any more, given whether what was written by then is flushed."""
        for commit_no, keys_written in list(self._marks.items()):
            if commit_no >= self._done.commit_no or not is_flushed(keys_written):
                break
            del self._marks[commit_no]

    def _is_flushed(self, keys_written: int) -> bool:
        """Whether so much was written since that what was written by then has left the memtables."""
        return keys_written + self._keys_flushed_after < self._keys_written

    def _write_when_not_stalled(self, batch: Any) -> None:
        """RocksDB refuses rather than blocks while it is stalled (the GIL is held in there), and is asked again."""
        for _ in range(_STALL_WAITS_MAX):
            try:
                self._database.write(batch, self._write_options)
            except Exception as error:  # rocksdict has no error class of its own
                if "stall" not in str(error).lower() and "Incomplete" not in str(error):
                    raise self._condemned(error) from error
            else:
                return
            threading.Event().wait(_STALL_WAIT_S)
        raise OutcomeUnknown("The seen index took no write for a minute.", retry_after_s=5)

    def flush(self) -> None:
        """Makes all that was written durable, so that opening needs no catching up."""
        try:
            self._database.flush()
        except Exception as error:  # rocksdict has no error class of its own
            raise _translated(error) from error
        with self._changed:
            self._forget_marks(lambda _: True)

    # Opening and closing

    def binding(self) -> Binding | None:
        """What the index says about itself; None when it is empty or cannot be read."""
        try:
            answers: Any = self._database.get([_MARK_KEY])
            return None if answers[0] is None else msgspec.msgpack.decode(answers[0], type=Binding)
        except Exception:  # noqa: BLE001  # rocksdict has no error class; an index that does not answer is rebuilt
            return None

    @property
    def store_id(self) -> bytes:
        return self._store_id

    def clear(self) -> None:
        """Throws the index away and makes an empty one. Before `start`."""
        self._database.close()
        _remove(self._path)
        self._database = _open(self._path, self._memtable_bytes)
        self._done = Mark()

    def resume(self, binding: Binding) -> None:
        """Takes up what the index says about itself, once the log was found to hold it. Before `start`."""
        self._done = binding.done
        self._remember(binding.done)
        self._remember(binding.upto)

    def _condemned(self, error: Exception) -> SekaliError:
        """The error, translated. An index that is damaged is marked, so that the next opening makes it anew."""
        if "Corruption" in str(error):
            with suppress(OSError):
                self._damaged_path.touch()
        return _translated(error)

    def close(self) -> None:
        """Writes what is left, flushes, and lets go of the directory."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._writer is not None:
            self._writer.join()
        # The index is derived: the next opening catches up from its last durable mark, or makes it anew.
        with suppress(SekaliError):
            self.flush()
        with suppress(Exception):  # rocksdict has no error class of its own; it lets go of the directory all the same
            self._database.close()


def _open(path: Path, memtable_bytes: int) -> Rdict:
    """Opens the index; one that RocksDB itself cannot read is thrown away, since it can be rebuilt."""
    try:
        return Rdict(str(path), _options(memtable_bytes))
    except Exception as error:  # rocksdict has no error class of its own
        if any(passing in str(error) for passing in _PASSING_TROUBLE):
            raise StoreUnusable(f"The seen index at {path} cannot be opened: {error}") from error
        _remove(path)
    try:
        return Rdict(str(path), _options(memtable_bytes))
    except Exception as error:
        raise StoreUnusable(f"The seen index at {path} cannot be made: {error}") from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _options(memtable_bytes: int) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(memtable_bytes)
    options.set_max_write_buffer_number(4)
    # Most keys asked for are new: a bloom filter spares the search of the memtable's skip list for them.
    options.set_memtable_prefix_bloom_ratio(0.1)
    options.set_memtable_whole_key_filtering(True)
    options.set_max_background_jobs(2)
    options.set_max_bytes_for_level_base(512 * 1024 * 1024)
    options.set_target_file_size_base(_FILE_BYTES)
    options.set_level_zero_file_num_compaction_trigger(8)
    options.set_level_zero_slowdown_writes_trigger(24)
    options.set_level_zero_stop_writes_trigger(36)
    options.set_max_open_files(512)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(1024 * 1024)
    options.set_stats_dump_period_sec(0)
    options.set_bottommost_compression_type(DBCompressionType.zstd())
    options.set_compression_type(DBCompressionType.none())
    table = BlockBasedOptions()
    table.set_bloom_filter(10, False)
    table.set_block_size(_BLOCK_BYTES)
    table.set_block_cache(Cache.new_hyper_clock_cache(_CACHE_BYTES, _BLOCK_BYTES))
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_format_version(5)
    options.set_block_based_table_factory(table)
    return options


def _translated(error: Exception) -> SekaliError:
    text = str(error)
    if "No space left" in text or "NoSpace" in text:
        return DiskFull("The disk of the seen index is full; nothing was stored.", retry_after_s=5)
    return OutcomeUnknown(f"The seen index failed ({text}).", retry_after_s=5)
