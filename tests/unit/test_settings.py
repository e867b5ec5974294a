"""Variables of the environment that look like settings."""

from __future__ import annotations

import pytest

from sekali.settings import Settings, unknown_variables, variables
from tests.docs.tables import environment_names


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SEKALI_DB_PATH", "DB_PATH"),
        ("SEKALI_CONSUMER_WORKERS", "CONSUMER_WORKERS"),
        ("SEKALI_BODY_BYTE_MAX", "SEKALI_BODY_BYTES_MAX"),
        ("sekali_drain", "SEKALI_DRAIN_S"),
    ],
)
def test_a_slip_is_told_with_what_was_meant(name: str, meant: str) -> None:
    (line,) = unknown_variables({"PATH": "/bin", name: "7"})
    assert line.startswith(f"warning: {name} is not a setting")
    assert line.endswith(f"did you mean {meant}?")


def test_a_name_that_is_like_none_is_told_without_a_guess() -> None:
    (line,) = unknown_variables({"SEKALI_QQQQQQ": "7"})
    assert "did you mean" not in line


def test_settings_variables_of_other_programs_and_empty_ones_are_not_told() -> None:
    others = ["SEKALI_URL", "SEKALI_TEST_SEED", "SEKALI_TEST_PLANT", "SEKALI_OFFLINE", "SEKALIX", "HOME"]
    assert unknown_variables(dict.fromkeys([*variables(), *others], "1") | {"SEKALI_TYPO": ""}) == []
    assert unknown_variables({"sekali_drain_s": "1"}) == [], "their case does not matter, as in reading them"


def test_every_documented_variable_is_known() -> None:
    documented = [each for name, field in Settings.model_fields.items() for each in environment_names(name, field)]
    assert variables() == documented
