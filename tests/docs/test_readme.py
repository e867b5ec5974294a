"""Every command of the README, executed from top to bottom in a fresh copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.blocks import Block, Checkout, blocks_of, differs
from tests.serving import ROOT

README = ROOT / "README.md"
TRANSLATION = ROOT / "README.id.md"
LATE = {"topic": "late", "event_id": "1", "timestamp": "2024-01-01T00:00:00Z", "source": "s", "payload": {}}

needs_a_shell = pytest.mark.skipif(
    os.name != "posix" or not all(map(shutil.which, ("bash", "curl", "make"))), reason="needs bash, curl and make"
)


def test_both_languages_have_the_same_blocks_in_the_same_order() -> None:
    english, indonesian = ([(b.tag, b.language, b.text) for b in blocks_of(file)] for file in (README, TRANSLATION))
    assert english == indonesian


def test_both_languages_have_the_same_structure() -> None:
    def shape(file: Path) -> list[str]:
        text = re.sub(r"^```.*?^```$", "", file.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        return re.findall(r"^#+ |^\||^- ", text, re.MULTILINE)

    assert shape(README) == shape(TRANSLATION)


def test_every_shell_block_says_how_it_is_run() -> None:
    assert [block.line for block in blocks_of(README) if block.language == "bash" and not block.tag] == []


def test_the_powershell_blocks_close_what_they_open() -> None:
    blocks = [block.text for block in blocks_of(README) if block.language == "powershell"]
    assert len(blocks) == 2
    for text in blocks:
        bare = re.sub(r'"[^"\n]*"', '""', text)
        for opening, closing in ("()", "{}", "[]"):
            assert bare.count(opening) == bare.count(closing)
        assert bare.count('"') % 2 == 0
        assert "`\n" not in text, "a line that goes on after a backtick breaks when it is pasted"


@needs_a_shell
def test_every_command_does_what_the_readme_says(tmp_path: Path) -> None:
    follow(Checkout(tmp_path, is_real=False))


@needs_a_shell
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
def test_every_command_does_what_the_readme_says_on_a_machine_with_python_only(tmp_path: Path) -> None:
    follow(Checkout(tmp_path, is_real=True))


def follow(checkout: Checkout) -> None:
    output: str | None = None
    try:
        for block in blocks_of(README):
            kind, _, argument = block.tag.partition(": ")
            if kind == "answer" and output is not None:
                assert (wrong := differs(block, output)) == "", wrong
            elif kind == "run" and not is_for(checkout, argument):
                output = None
            elif kind == "run":
                if argument == "server":
                    checkout.serve(block)
                elif argument == "stopped":
                    restore(checkout, block)
                else:
                    output = checkout.run(block)
    finally:
        checkout.stop()


def is_for(checkout: Checkout, argument: str) -> bool:
    if argument.startswith("where there is "):
        return Path(argument.removeprefix("where there is ")).exists()
    if argument == "network":
        return checkout.is_real
    return not argument.startswith(("needs ", "tests"))


def restore(checkout: Checkout, block: Block) -> None:
    """What came after the backup is gone with the restored store, and is stored as new when it comes again."""
    before = checkout.call("GET", "/stats")[1]["unique_processed"]
    assert checkout.call("POST", "/publish?receipts=true", LATE)[1]["receipts"][0]["status"] == "stored"
    checkout.stop()
    checkout.run(block)
    checkout.start_again()
    assert checkout.call("GET", "/stats")[1]["unique_processed"] == before
    assert checkout.call("POST", "/publish?receipts=true", LATE)[1]["receipts"][0]["status"] == "stored"


@needs_a_shell
@pytest.mark.slow
def test_make_test_needs_nothing_but_python_and_make(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, is_real=True)
    one_file = {
        **checkout.env,
        "PYTEST_ADDOPTS": "tests/docker/test_compose.py",
    }  # as a sample: all of them are running now
    done = subprocess.run(
        ["make", "test"], cwd=checkout.root, env=one_file, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    again = subprocess.run(
        ["make", "-n", "test"], cwd=checkout.root, env=checkout.env, capture_output=True, text=True, check=True
    )
    assert "pip install" not in again.stdout
    (checkout.root / "requirements.txt").touch()
    changed = subprocess.run(
        ["make", "-n", "test"], cwd=checkout.root, env=checkout.env, capture_output=True, text=True, check=True
    )
    assert "pip install" in changed.stdout
