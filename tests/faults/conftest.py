"""The evidence that the attacks leave, see evidence.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.evidence import Evidence


@pytest.fixture(scope="session")
def evidence() -> Iterator[Evidence]:
    """Written to the file that SEKALI_EVIDENCE names, if it names one."""
    noted = Evidence()
    yield noted
    path = os.environ.get("SEKALI_EVIDENCE")
    if path:
        noted.write(Path(path))
