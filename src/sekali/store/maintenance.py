"""What the store does beside answering: turns the tail into runs, checkpoints the write-ahead log, gives back space."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from sekali.errors import DiskFull, Draining, OutcomeUnknown, SekaliError, unexpected
from sekali.store.append import Appender
from sekali.store.compaction import RunDraft, RunSizes, build_run, deletions, due, go_live, leftovers
from sekali.store.layout import Layout
from sekali.store.log import Log, Statement
from sekali.store.seen import SeenIndex
from sekali.store.topics import TopicBook

_TOPICS_PER_STEP: Final = 1_000
_PAGES_PER_STEP: Final = 256
_RETRY_S: Final = 1.0
_IDLE_S: Final = 1.0
"""Nothing was due for so long: a burst is over."""


class Maintenance:
    """One daemon thread. Every step that writes takes the store's turn, and is bounded.

    No step waits for the disk: a compaction that a loss of power undoes is one that was not made yet. The next commit
    that is answered for makes durable what came before it.
    """

    def __init__(
        self,
        log: Log,
        appender: Appender,
        topics: TopicBook,
        layout: Layout,
        seen: SeenIndex,
        sizes: RunSizes,
        on_failure: Callable[[SekaliError], None],
        refuse_to_write: Callable[[], None],
    ) -> None:
        self._log = log
        self._appender = appender
        self._topics = topics
        self._layout = layout
        self._seen = seen
        self._sizes = sizes
        self._on_failure = on_failure
        self._refuse_to_write = refuse_to_write
        self._wake = threading.Event()
        self._is_closing = False
        self._one_at_a_time = threading.Lock()
        """What is done beside commits uses one connection, and so is done by one thread at a time."""
        self._thread = threading.Thread(target=self._run, name="sekali-maintenance", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def notice(self) -> None:
        """Tells that a commit was made: wakes the thread when there is something to do."""
        layout, sizes = self._layout, self._sizes
        full = layout.tail_events >= sizes.run_events or len(layout.now.commits) >= sizes.run_commits_max
        if full or self._log.checkpoint_is_due:
            self._wake.set()

    def close(self) -> None:
        """Lets the step under way finish; what remains is done after the next opening."""
        self._is_closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        is_tidy = True
        must_retry = False
        commits_before = 0
        while True:
            is_needed = self._wake.wait(_RETRY_S if must_retry else None if is_tidy else _IDLE_S)
            self._wake.clear()
            if self._is_closing:
                return
            try:
                if is_needed or must_retry:
                    self._compact_all()
                    must_retry = bool(due(self._layout.now.commits, self._sizes))  # the index is behind
                    is_tidy = False
                elif commits_before == self._appender.totals.commit_no:
                    self.tidy()
                    is_tidy = True
                commits_before = self._appender.totals.commit_no
            except DiskFull:
                must_retry = True  # publishing is refused meanwhile; try again when there is room
            except Draining:
                return  # the store has stopped: nothing may be written any more
            except SekaliError as error:
                self._on_failure(error)
                return
            except BaseException as error:  # noqa: BLE001  (a thread must not end unheard)
                self._on_failure(unexpected("compaction", error))
                return

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The store's turn, refused once it has stopped. A failure stops it before the next commit has its turn."""
        with self._appender.turn:
            try:
                self._refuse_to_write()
                yield
            except OutcomeUnknown as error:
                self._on_failure(error)
                raise

    def _compact_all(self) -> None:
        while self.compact() and not self._is_closing:
            self.checkpoint_when_large()
        self.checkpoint_when_large()

    def tidy(self) -> None:
        """After a burst: gives space that nothing needs any more back to the disk, in bounded steps."""
        with self._one_at_a_time:
            pages_left = _PAGES_PER_STEP
            while pages_left and not self._wake.is_set():
                with self._turn():
                    pages_left = self._log.give_back_pages(_PAGES_PER_STEP)
            self._checkpoint_beside()
            with self._turn():
                self._log.truncate_wal()

    def compact(self) -> bool:
        """Makes one run if one is due; whether it did. Commits that the index lacks stay: it may still name them."""
        with self._one_at_a_time:
            commits = due(self._layout.now.commits, self._sizes)
            if not commits or commits[-1].commit_no > self._seen.done.commit_no:
                return False
            self._remove_leftovers()
            draft = build_run(self._log, self._layout.now, commits, self._sizes)
            for step in draft.block_steps:
                self._write(step)
            self._fold(draft)
            marks = self._seen.marks_perhaps_on_disk()
            with self._turn():
                live = go_live(draft, [commit for commit in commits if commit.commit_no in marks])
                self._log.write(live, durable=False)
                self._layout.take_over(draft.run)
            for step in deletions(draft, min(marks, default=0)):
                self._write(step)
            return True

    def _remove_leftovers(self) -> None:
        """Of a compaction that a full disk cut short: its blocks' numbers are about to be used again."""
        with self._log.snapshot() as connection:
            steps = leftovers(connection, self._layout.now.runs)
        for step in steps:
            self._write(step)

    def _write(self, step: list[Statement]) -> None:
        with self._turn():
            self._log.write(step, durable=False)

    def _fold(self, draft: RunDraft) -> None:
        """Writes the figures of the run's topics as they are now: later commits are told by `folded_commit`."""
        for start in range(0, len(draft.topic_ids), _TOPICS_PER_STEP):
            with self._turn():
                commit_no = self._appender.totals.commit_no
                fold = self._topics.fold(draft.topic_ids[start : start + _TOPICS_PER_STEP], commit_no)
                self._log.write([fold], durable=False)

    def checkpoint_when_large(self) -> None:
        """Copies most of the WAL beside the commits, then the rest in the store's turn, so that it starts over."""
        if not self._log.checkpoint_is_due:
            return
        with self._one_at_a_time:
            self._checkpoint_beside()
            with self._turn():
                self._log.checkpoint(in_turn=True)

    def _checkpoint_beside(self) -> None:
        """A commit under way looks again, before it answers, whether this has failed."""
        self._refuse_to_write()
        try:
            self._log.checkpoint(in_turn=False)
        except OutcomeUnknown as error:
            self._on_failure(error)
            raise
