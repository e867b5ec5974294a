"""A test file of somebody else, dropped into tests/, runs: its warnings are its own affair."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import LEFT_OUT
from tests.serving import ROOT

STRANGER = ROOT / "tests" / "docs" / "stranger.txt"


@pytest.mark.parametrize("name", ["tests/test_stranger.py", "tests/test_stats.py", "test_at_the_root.py"])
def test_it_passes_under_our_configuration(tmp_path: Path, name: str) -> None:
    copy = tmp_path / "sekali"
    shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
    shutil.copyfile(STRANGER, copy / name)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", name],
        cwd=copy, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed" in done.stdout


def test_a_warning_from_our_own_code_is_an_error(tmp_path: Path) -> None:
    copy = tmp_path / "sekali"
    shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
    with (copy / "src" / "sekali" / "timestamps.py").open("a", encoding="utf-8") as file:
        file.write("\n\ndef warn() -> None:\n    import warnings\n\n    warnings.warn('ours', stacklevel=1)\n")
    (copy / "tests" / "test_ours.py").write_text(
        "from sekali.timestamps import warn\n\n\ndef test_it():\n    warn()\n", encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_ours.py"],
        cwd=copy, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "UserWarning: ours" in done.stdout
