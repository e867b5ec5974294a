"""Which strings are timestamps."""

from __future__ import annotations

import random
from datetime import datetime

import pytest

from sekali import timestamps
from sekali.timestamps import are_timestamps, is_timestamp

TAKEN = [
    "2024-01-01T00:00:00Z",
    "2024-01-01T00:00:00z",
    "2024-01-01",
    "20240101",
    "20240101T000000Z",
    "2024-W01-1T10:00",
    "2024W011T10",
    "2024-01-01 10:00:00",
    "2024-01-01T10:00:00.1",
    "2024-01-01T10:00:00,123456789123456789+05:30",
    "2024-01-01T10:00:00." + "1" * 5000 + "Z",
    "2024-01-01T10:00:00-03:00:30.25",
    "2016-12-31T23:59:60Z",
    "2016-12-31T23:59:60z",
    "2016-12-31T23:59:60.5+01:00",
    "20161231T235960Z",
    "2016-W52-6T23:59:60Z",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59.999999-23:59",
    "2024-02-29T00:00:00Z",
    "2024-01-01\u260310:00:00",
    "2024-01-01\u202810:00:00",
]
REFUSED = [
    "",
    " ",
    "now",
    "2024",
    "2024-01",
    "2024-001",
    "1767225600",
    "2024-02-30T00:00:00Z",
    "2023-02-29",
    "0000-01-01T00:00:00Z",
    "10000-01-01T00:00:00Z",
    "+2024-01-01",
    "2024-01-01T24:00:00",
    "2024-01-01T24:00:00Z",
    "2024-01-01T24",
    "2024-01-01T24:00:60",
    "20240101T240000",
    "2024-W01-1T24:00",
    "2024-01-01T25:00:00",
    "2024-01-01T10:60:00",
    "2024-01-01T10:00:61",
    "2024-01-01T10:00:600",
    "2024-01-01T10:00:60:60",
    "2024-01-01T10:00:00+24:00",
    "2024-01-01T10:00:00\N{MINUS SIGN}05:00",
    " 2024-01-01",
    "2024-01-01 ",
    "2024-01-01Z",
    "z",
    "2024-01-01T10:00:00zz",
    "2024-01-01T10:00:00Zz",
    "2024-01-01T10:60:60",
    "\u0662\u0660\u0662\u0664-01-01",
    "2024-01-01\n10:00:00",
    "2024-01-01\x0010:00:00",
    "2024-01-01\x7f10:00:00",
    "2024-01-01\x8510:00:00",
]


@pytest.mark.parametrize("text", TAKEN)
def test_these_are_taken(text: str) -> None:
    assert is_timestamp(text)
    assert are_timestamps([text])
    assert are_timestamps(["2024-01-01", text, "2024-01-02"])


@pytest.mark.parametrize("text", REFUSED)
def test_these_are_refused(text: str) -> None:
    assert not is_timestamp(text)
    assert not are_timestamps([text])
    assert not are_timestamps(["2024-01-01", text, "2024-01-02"])


def test_no_timestamps_are_all_right() -> None:
    assert are_timestamps([])


def test_hour_24_is_refused_where_python_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.14 reads hour 24 as the midnight that follows."""

    class LaterDatetime(datetime):
        @classmethod
        def fromisoformat(cls, text: str) -> datetime:
            return super().fromisoformat(text.replace("T24", "T00"))

    monkeypatch.setattr(timestamps, "datetime", LaterDatetime)
    monkeypatch.setattr(timestamps, "PYTHON_TAKES_HOUR_24", True)
    for text in ("2024-01-01T24:00:00Z", "20240101T24", "2024-W01-1T24:00", "2024-01-01T24:00:60"):
        assert not is_timestamp(text)
        assert not are_timestamps(["2024-01-01", text])
    assert are_timestamps(["2024-01-01T23:24:24Z", "2024-12-24", "2024-01-01T00:00:00+24:00"[:-6]])


def test_a_mangled_timestamp_is_taken_exactly_when_python_takes_it(rng: random.Random) -> None:
    """But for what this module takes and refuses on purpose: a lower-case z, a leap second, hour 24, controls."""
    alphabet = "0123456789-:+.,TZW /\N{MINUS SIGN}\u0660\u00e9"
    for _ in range(20_000):
        text = list(rng.choice(TAKEN[:12]))
        for _ in range(rng.randint(0, 3)):
            place = rng.randrange(len(text) + 1)
            text[place : place + rng.randint(0, 1)] = rng.choice(alphabet) if rng.random() < 0.8 else ""
        mangled = "".join(text)
        if "60" in mangled or "24" in mangled[8:] or "z" in mangled:
            continue
        try:
            datetime.fromisoformat(mangled)
            taken = True
        except ValueError:
            taken = False
        assert is_timestamp(mangled) == taken, mangled
        assert are_timestamps([mangled]) == taken, mangled
