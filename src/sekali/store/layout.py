"""Where the log's events lie: in runs up to some commit, in the tail's commits after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sekali.store.runs import Run
from sekali.store.tail import TailCommit


@dataclass(frozen=True, slots=True)
class Places:
    """The layout at one moment. Commits are still added to the list; a compaction makes new ones of both."""

    runs: Sequence[Run]
    commits: list[TailCommit]

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

    def take_over(self, run: Run) -> None:
        """The run is live: it stands for its commits from now on."""
        kept = [commit for commit in self.now.commits if commit.commit_no > run.last_commit]
        self.now = Places([*self.now.runs, run], kept)
        self.tail_events = sum(commit.events for commit in kept)
