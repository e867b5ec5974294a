"""Nothing that comes from a payload can steer the terminal."""

from __future__ import annotations

import json
import random

import pytest

from sekali.cli.terminal import json_visible, visible

STEERING = ["\x1b[2J", "\x1b]0;title\x07", "\r", "\n", "\b", "\x7f", "\x9b31m", "\u202e", "\u2066", "\u2028", "\ufeff"]


@pytest.mark.parametrize("text", STEERING)
def test_steering_characters_are_shown_as_escapes(text: str) -> None:
    shown = visible(f"a{text}b")
    assert shown.isprintable()
    assert shown.startswith("a\\")


@pytest.mark.parametrize("text", ["plain", "Grüße", "日本語", "👩‍👩‍👧", "می‌خواهم", "a b", "[bold]"])
def test_ordinary_text_is_shown_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_json_made_visible_is_the_same_json(rng: random.Random) -> None:
    alphabet = 'ab"\\ é日👩\x7f\x9b\u202e\u2028\u200d\ufeff\U000e0041'
    for _ in range(500):
        value = {"text": "".join(rng.choice(alphabet) for _ in range(20))}
        document = json.dumps(value, ensure_ascii=False)
        shown = json_visible(document)
        assert json.loads(shown) == value
        assert not set(shown) & set("\x7f\x9b\u202e\u2028\ufeff\U000e0041")
