"""Where the log's events lie: in runs up to some commit, in the tail's commits after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import apsw

from sekali.errors import StoreCorrupt
from sekali.store.log import Totals
from sekali.store.runs import Run
from sekali.store.tail import TailCommit, commit_rows, decode_topics, tail_commit
from sekali.store.topics import TopicBook

_LOAD_COMMITS: Final = 256


@dataclass(frozen=True, slots=True)
class Places:
    """The layout at one moment. Commits are still added to the list; a compaction makes new ones of both."""

    runs: Sequence[Run]
    commits: list[TailCommit]
    events_in_runs: Mapping[int, int] = field(default_factory=dict)
    """By topic id, how many of its events the runs hold."""

    @property
    def live_through(self) -> int:
        """The last offset that runs hold; after it comes the tail."""
        return self.runs[-1].last_offset if self.runs else 0


class Layout:
    """Changed under the store's turn; read by anybody through `now`.

    Take `now` before a read transaction begins: the runs it names are in every later one, and of its commits only
    those may be gone that a newer layout has in a run.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.now = Places(runs, [])
        self.tail_events = 0

    def append(self, commit: TailCommit) -> None:
        self.now.commits.append(commit)
        self.tail_events += commit.events

    def count_runs(self, topics: TopicBook) -> None:
        """After loading: what the topics have beyond the tail lies in runs."""
        in_tail: Counter[int] = Counter()
        for commit in self.now.commits:
            in_tail.update(commit.events_by_topic)
        in_runs = {topic_id: topics.events(topic_id) - in_tail[topic_id] for topic_id in range(1, len(topics) + 1)}
        self.now = Places(self.now.runs, self.now.commits, in_runs)

    def take_over(self, run: Run) -> None:
        """The run is live: it stands for its commits from now on."""
        kept = [commit for commit in self.now.commits if commit.commit_no > run.last_commit]
        in_runs = dict(self.now.events_in_runs)
        for commit in self.now.commits[: len(self.now.commits) - len(kept)]:
            for topic_id, events in commit.events_by_topic.items():
                in_runs[topic_id] = in_runs.get(topic_id, 0) + events
        self.now = Places([*self.now.runs, run], kept, in_runs)
        self.tail_events = sum(commit.events for commit in kept)


def load_layout(connection: apsw.Connection, totals: Totals, runs: Sequence[Run]) -> tuple[TopicBook, Layout]:
    """The topics with their exact figures, and where the events lie, from what the file holds.

    Raises StoreCorrupt, also when runs and tail together do not hold each commit up to the totals, and each offset.
    """
    layout = Layout(runs)
    topics, folded = TopicBook.load(connection)
    reached = (runs[-1].last_commit, runs[-1].chain, runs[-1].last_offset) if runs else (0, bytes(16), 0)
    while rows := commit_rows(connection, reached[0] + 1, reached[0] + _LOAD_COMMITS):
        for row in rows:
            if (row.commit_no, row.first_offset) != (reached[0] + 1, reached[2] + 1):
                raise StoreCorrupt(f"Commit {reached[0] + 1} is missing from the log. Restore the file from a backup.")
            ids, counts = decode_topics(row.topics)
            commit = tail_commit(row, ids, counts)
            if max(ids, default=0) > len(topics):
                raise StoreCorrupt("The last topic is missing from the log. Restore the file from a backup.")
            layout.append(commit)
            has_commit = {topic_id for topic_id in ids if row.commit_no <= folded[topic_id - 1]}
            topics.apply(ids, counts, row.first_offset, row.stamp_us, skip=has_commit)
            reached = (commit.commit_no, commit.chain, commit.last_offset)
    layout.count_runs(topics)
    if reached != (totals.commit_no, totals.chain, totals.last_offset):
        raise StoreCorrupt("The totals and the last commit do not belong together. Restore the file from a backup.")
    return topics, layout
