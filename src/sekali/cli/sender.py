"""Sending batches, and keeping exact account of what became of every item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from sekali.cli.inputs import BadItem, Item
from sekali.client import Published, Receipt
from sekali.errors import (
    BodyTooLarge,
    EventTooLarge,
    InvalidEvent,
    NotJson,
    RequestRefused,
    SekaliError,
    TooManyEvents,
    WrongRoot,
)

REFUSED_FOR_ITS_CONTENT: Final = (NotJson, WrongRoot, BodyTooLarge, TooManyEvents, EventTooLarge, InvalidEvent)
"""Refusals of a whole request that smaller requests can avoid, or bring home to one item."""


class Publisher(Protocol):
    """As Client.publish_encoded."""

    def publish_encoded(self, items: Sequence[bytes], *, partial: bool = False) -> Published: ...


@dataclass(slots=True)
class Account:
    """What became of the items. read = stored + duplicates + conflicts + rejected + not_sent.

    `not_sent`: read, and not answered for: the command was stopped, or gave up. Their outcome is not known; sending
    them again is safe. `resent_batches` needed more than one request: a duplicate among them may be the command's own
    first try, whose answer was lost.
    """

    read: int = 0
    stored: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0
    resent_batches: int = 0

    @property
    def not_sent(self) -> int:
        return self.read - self.stored - self.duplicates - self.conflicts - self.rejected

    @property
    def all_is_well(self) -> bool:
        return self.stored + self.duplicates == self.read


@dataclass(frozen=True, slots=True)
class Trouble:
    """An item that is not in the store as it was sent: `conflict`, or the reason it was rejected for."""

    place: int
    reason: str


@dataclass(slots=True)
class Outcome:
    troubles: list[Trouble] = field(default_factory=list)
    must_stop: bool = False
    """Strict, and something was wrong: nothing more may be sent."""


class Sender:
    """Sends batches one after the other, so that the order of the input is the order of the offsets."""

    def __init__(self, client: Publisher, *, is_strict: bool = False) -> None:
        self.account = Account()
        self._client = client
        self._is_strict = is_strict

    def send(self, batch: Sequence[Item | BadItem]) -> Outcome:
        """Publish the good items of a batch; strict: all of them or none.

        Raises SekaliError when the server cannot be reached, or refuses for a reason that is not in the items.
        """
        self.account.read += len(batch)
        outcome = Outcome()
        for bad in (item for item in batch if isinstance(item, BadItem)):
            self._reject(bad.place, bad.reason, outcome)
        items = [item for item in batch if isinstance(item, Item)]
        if outcome.must_stop or not items:
            return outcome
        self._publish(items, outcome)
        outcome.troubles.sort(key=lambda trouble: trouble.place)
        return outcome

    def _publish(self, items: Sequence[Item], outcome: Outcome) -> None:
        try:
            published = self._client.publish_encoded([item.encoded for item in items], partial=not self._is_strict)
        except REFUSED_FOR_ITS_CONTENT as refusal:
            self._divide(items, refusal, outcome)
            return
        self.account.resent_batches += published.tries > 1
        for item, receipt in zip(items, published.receipts, strict=True):
            self._enter(item, receipt, outcome)

    def _divide(self, items: Sequence[Item], refusal: RequestRefused, outcome: Outcome) -> None:
        """The request as a whole was refused: find the items at fault, and send the others."""
        faults = _faults(items, refusal)
        if len(items) == 1 and not faults:
            faults = {items[0].place: f"{refusal.code}: {refusal.detail}"}
        if len(items) == 1 or (self._is_strict and faults):
            for place, reason in faults.items():
                self._reject(place, reason, outcome)
            return
        middle = len(items) // 2
        self._publish(items[:middle], outcome)
        if not outcome.must_stop:
            self._publish(items[middle:], outcome)

    def _enter(self, item: Item, receipt: Receipt, outcome: Outcome) -> None:
        match receipt.status:
            case "stored":
                self.account.stored += 1
            case "duplicate":
                self.account.duplicates += 1
            case "conflict":
                self.account.conflicts += 1
                reason = f"conflict: this id is stored at offset {receipt.offset} with another payload, which is kept"
                outcome.troubles.append(Trouble(item.place, reason))
            case "rejected":
                self._reject(item.place, f"{receipt.code}: {receipt.detail}", outcome)

    def _reject(self, place: int, reason: str, outcome: Outcome) -> None:
        self.account.rejected += 1
        outcome.troubles.append(Trouble(place, reason))
        outcome.must_stop = self._is_strict


def _faults(items: Sequence[Item], refusal: SekaliError) -> dict[int, str]:
    """Place and reason of each item that a refusal points at (`/3/event_id`)."""
    faults: dict[int, str] = {}
    for violation in refusal.violations:
        index, _, member = violation.pointer.removeprefix("/").partition("/")
        if index.isdigit() and int(index) < len(items):
            reason = f"{violation.code}: {member + ': ' if member else ''}{violation.detail}"
            faults.setdefault(items[int(index)].place, reason)
    return faults
