"""The account of what became of every item, whatever the server answers."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from sekali.cli.inputs import BadItem, Item
from sekali.cli.publish import LocalCheck
from sekali.cli.report import Places
from sekali.cli.sender import Sender, Trouble
from sekali.client import Published, Receipt
from sekali.errors import BodyTooLarge, InvalidEvent, NotJson, RequestRefused, TooManyTopics, Violation


class Scripted:
    """A server that refuses items holding `bad`, alone or with the whole request, and requests above a size."""

    def __init__(self, refusal: RequestRefused | None = None, items_max: int = 1000) -> None:
        self._refusal, self._items_max = refusal, items_max
        self.stored: list[bytes] = []
        self.requests = 0

    def publish_encoded(self, items: Sequence[bytes], *, partial: bool = False) -> Published:
        self.requests += 1
        if len(items) > self._items_max:
            raise BodyTooLarge("too large")
        bad = [index for index, item in enumerate(items) if b"bad" in item]
        if bad and self._refusal is not None:
            raise self._refusal
        if bad and not partial:
            raise InvalidEvent("See errors.", violations=[Violation(f"/{i}/topic", "empty", "is empty") for i in bad])
        self.stored += [item for index, item in enumerate(items) if index not in bad]
        receipts = [Receipt("rejected", code="empty", detail="x") if i in bad else Receipt("stored", offset=i + 1)
                    for i in range(len(items))]  # fmt: skip
        return Published(len(items) - len(bad), 0, tuple(receipts))


def items(*texts: str) -> list[Item | BadItem]:
    return [Item(place, text.encode()) for place, text in enumerate(texts, 1)]


def test_receipts_are_counted_and_what_is_not_stored_as_sent_is_told() -> None:
    class Mixed:
        def publish_encoded(self, items: Sequence[bytes], *, partial: bool = False) -> Published:
            words = ("stored", "duplicate", "conflict", "rejected")
            return Published(3, 0, tuple(Receipt(word, offset=9, code="empty", detail="e") for word in words), (2,), 2)

    sender = Sender(Mixed())
    outcome = sender.send([*items("a", "b", "c", "d"), BadItem(5, "not JSON")])
    account = sender.account
    assert (account.read, account.stored, account.duplicates) == (5, 1, 1)
    assert (account.conflicts, account.rejected, account.not_sent, account.resent_batches) == (1, 2, 0, 1)
    assert not account.all_is_well
    assert [trouble.place for trouble in outcome.troubles] == [3, 4, 5]
    assert "offset 9" in outcome.troubles[0].reason
    assert outcome.troubles[1] == Trouble(4, "empty: e")


@pytest.mark.parametrize("refusal", [None, NotJson("not JSON"), InvalidEvent("bad")])
def test_one_bad_item_costs_no_other_item_even_when_the_whole_request_is_refused(
    refusal: RequestRefused | None,
) -> None:
    server = Scripted(refusal)
    sender = Sender(server)
    outcome = sender.send(items("a", "b", "bad", "c", "d", "e", "f"))
    assert server.stored == [b"a", b"b", b"c", b"d", b"e", b"f"]
    assert (sender.account.stored, sender.account.rejected) == (6, 1)
    assert [trouble.place for trouble in outcome.troubles] == [3]


@pytest.mark.parametrize("is_strict", [False, True])
def test_requests_too_large_for_the_server_are_divided_in_order(is_strict: bool) -> None:
    server = Scripted(items_max=3)
    sender = Sender(server, is_strict=is_strict)
    sender.send(items(*"abcdefghij"))
    assert server.stored == [letter.encode() for letter in "abcdefghij"]
    assert sender.account.all_is_well


def test_strict_stores_nothing_of_a_request_with_a_bad_item_and_stops() -> None:
    server = Scripted()
    sender = Sender(server, is_strict=True)
    outcome = sender.send(items("a", "bad", "c", "bad"))
    assert outcome.must_stop
    assert server.stored == []
    assert [trouble.place for trouble in outcome.troubles] == [2, 4]
    assert (sender.account.rejected, sender.account.not_sent) == (2, 2)


def test_strict_sends_nothing_when_an_item_is_bad_before_it_is_sent() -> None:
    server = Scripted()
    outcome = Sender(server, is_strict=True).send([*items("a"), BadItem(2, "not JSON")])
    assert outcome.must_stop
    assert server.requests == 0


def test_a_refusal_that_is_not_about_the_items_is_raised() -> None:
    sender = Sender(Scripted(TooManyTopics("too many")))
    with pytest.raises(TooManyTopics):
        sender.send(items("a", "bad"))
    assert sender.account.not_sent == 2


def test_a_dry_run_applies_the_servers_rules() -> None:
    good = {"topic": "a", "event_id": "1", "timestamp": "2024-01-01T00:00:00Z", "source": "s", "payload": {}}
    encoded = [json.dumps(event) for event in (good, {**good, "topic": ""}, {**good, "payload": 1})]
    sender = Sender(LocalCheck())
    outcome = sender.send(items(*encoded, "[]"))
    assert (sender.account.stored, sender.account.rejected) == (1, 3)
    assert [trouble.place for trouble in outcome.troubles] == [2, 3, 4]


def test_places_are_told_as_ranges() -> None:
    places = Places()
    for place in (3, 17, 18, 19, 25):
        places.add(place)
    assert str(places) == "3, 17-19, 25"


def test_so_many_places_that_they_would_fill_the_memory_end_with_and_more() -> None:
    places = Places()
    for place in range(1, 10_000, 2):
        places.add(place)
    assert str(places).endswith("1997, 1999 and more")
