"""The table of bad inputs, as far as it can be told from the body alone. The rest needs a server."""

from __future__ import annotations

from collections import Counter
from urllib.parse import parse_qs, urlsplit

import pytest

from sekali.errors import SekaliError
from sekali.settings import Settings
from sekali.wire.native import DecodeLimits, decode_publish
from sekali.wire.rules import ItemCode
from tests.bad_inputs import BODY_BYTES_MAX, CASES, DEPTH_MAX, EVENT_BYTES_MAX, BadInput, Kept, listed_items

SETTINGS = Settings(_env_file=None)
LIMITS = DecodeLimits(
    batch_events_max=SETTINGS.batch_events_max,
    event_bytes_max=SETTINGS.event_bytes_max,
    depth_max=SETTINGS.depth_max,
    body_bytes_max=SETTINGS.body_bytes_max,
)


def is_about_the_body(case: BadInput) -> bool:
    return case.path.startswith("/publish") and case.raw is None and not case.name.startswith("encoding-")


BODY_CASES = [case for case in CASES if is_about_the_body(case)]


def test_every_listed_item_has_a_case_and_every_case_a_listed_item() -> None:
    listed = listed_items()
    assert len(listed) > 70
    assert set(listed) == {(case.line, case.item) for case in CASES}


def test_every_case_has_its_own_name() -> None:
    assert [name for name, count in Counter(case.name for case in CASES).items() if count > 1] == []


def test_the_table_is_about_the_default_limits() -> None:
    assert (LIMITS.event_bytes_max, LIMITS.depth_max) == (EVENT_BYTES_MAX, DEPTH_MAX)
    assert (LIMITS.body_bytes_max, LIMITS.batch_events_max) == (BODY_BYTES_MAX, 50_000)


def test_every_item_code_is_met_by_a_case() -> None:
    assert {case.item_code for case in BODY_CASES} - {None} == {code.value for code in ItemCode}


@pytest.mark.parametrize("case", [case for case in BODY_CASES if not case.is_accepted], ids=lambda case: case.name)
def test_a_bad_body_is_refused_with_its_code(case: BadInput) -> None:
    with pytest.raises(SekaliError) as caught:
        decode_publish(case.body_bytes, LIMITS)
    error = caught.value
    assert (error.status, error.code) == (case.statuses[0], case.code)
    assert (error.violations[0].code if error.violations else None) == case.item_code


@pytest.mark.parametrize("case", [case for case in BODY_CASES if case.is_accepted], ids=lambda case: case.name)
def test_what_only_looks_bad_is_taken_as_sent(case: BadInput) -> None:
    partial = "partial" in parse_qs(urlsplit(case.path).query)
    batch = decode_publish(case.body_bytes, LIMITS, partial=partial)
    extras = batch.extras or [b""] * len(batch)
    rows = zip(batch.event_ids, batch.payloads, batch.topics, batch.timestamps, batch.sources, extras, strict=True)
    kept: dict[tuple[str, str], Kept] = {}
    for row in rows:
        event = Kept(*row)
        kept.setdefault((event.topic, event.event_id), event)
    assert tuple(kept.values()) == case.comes_back
    assert len(kept) == case.stores
    assert len(batch) == (case.answer or {})["accepted"]
