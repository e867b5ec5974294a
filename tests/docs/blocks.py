"""The code blocks of a README, and a fresh copy of the repository to run them in.

A shell block says in a comment above it how it is run; the block after it may be the answer it has to give:

    <!-- run -->                 in a shell of its own, must end with 0
    <!-- run: server -->         stays in the foreground: runs beside the following blocks until the next server
    <!-- run: stopped -->        after the server was stopped; it is started again afterwards
    <!-- run: network -->        fetches something: only when everything is run for real
    <!-- run: where there is PATH -->
    <!-- run: needs ... -->      not run here
    <!-- answer -->              of the run before: JSON, all of it; times may differ
    <!-- answer: at least these members -->
    <!-- answer: text -->        lines; what stands in parentheses may differ
    <!-- answer: text, other numbers -->    and every number except 0
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.serving import ROOT, Server

LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", "data", "__pycache__", ".*_cache", ".hypothesis", "results", "dist", "*.db*", "node_modules"
)
VOLATILE = {"uptime_seconds", "received_at"}
_BLOCK = re.compile(r"(?:^<!-- ((?:run|answer)[^\n]*?) -->\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    tag: str
    language: str
    text: str
    line: int


def blocks_of(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    return [
        Block(found[1] or "", found[2], found[3], text.count("\n", 0, found.start()) + 1)
        for found in _BLOCK.finditer(text)
    ]


class Checkout(Server):
    """A fresh copy of the repository, the shell of somebody who follows the README in it, and the server he starts.

    `is_real` False: pip and venv are stand-ins, and what is installed here is used. True: nothing is prepared.
    """

    def __init__(self, folder: Path, *, is_real: bool) -> None:
        super().__init__(folder)
        self.is_real = is_real
        self.root = folder / "sekali"
        shutil.copytree(ROOT, self.root, ignore=LEFT_OUT)
        self._server_block = ""
        kept = {
            name: value for name, value in os.environ.items() if name not in ("DB_PATH", "VIRTUAL_ENV", "PYTHONPATH")
        }
        self.env = {**kept, "PORT": str(self.port), "SEKALI_URL": self.url, "NO_COLOR": "1", "COLUMNS": "120"}
        venv_bin = self.root / ".venv" / "bin"
        if is_real:
            python = Path(getattr(sys, "_base_executable", sys.executable))
            own_bin = folder / "bin"
            own_bin.mkdir()
            for name in ("python", "python3"):
                (own_bin / name).symlink_to(python)
            kept_path = [
                entry for entry in self.env["PATH"].split(os.pathsep) if entry != str(Path(sys.executable).parent)
            ]
            self.env["PATH"] = os.pathsep.join([str(venv_bin), str(own_bin), *kept_path])
        else:
            self._make_stand_ins(venv_bin)
            self.env["PATH"] = f"{venv_bin}{os.pathsep}{self.env['PATH']}"

    def _make_stand_ins(self, venv_bin: Path) -> None:
        """A .venv that looks complete: its programs are those of the environment the tests run in."""
        venv_bin.mkdir(parents=True)
        python = f'exec "{sys.executable}"'
        scripts = {
            "python": f'case "$1 $2" in "-m venv"|"-m pip") exit 0;; esac; {python} "$@"',
            "pip": "exit 0",
            "uvicorn": f'{python} -m uvicorn "$@"',
            "sekali": f'PYTHONPATH="{self.root / "src"}" {python} -m sekali "$@"',
            "activate": f'PATH="{venv_bin}:$PATH"',
        }
        for name, script in scripts.items():
            file = venv_bin / name
            file.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
            file.chmod(0o755)
        for stamp in (".venv", ".serve", ".dev"):
            (venv_bin.parent / stamp).touch()

    def run(self, block: Block) -> str:
        """What the block prints. Raises AssertionError when it fails."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._here(block.text)],
            cwd=self.root, env=self.env, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"line {block.line}: {block.text}\n{done.stdout}{done.stderr}\n{self.log}"
        return done.stdout

    def serve(self, block: Block) -> None:
        self.stop()
        self._server_block = block.text
        self.start_again()

    def start_again(self) -> None:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", self._here(self._server_block)],
                cwd=self.root, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.wait_ready()

    def stop(self) -> None:
        """Ctrl-C: the shell and make wait until the server has ended."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
            self.process.wait(30)

    def _here(self, commands: str) -> str:
        return commands.replace("8080", str(self.port))


def differs(block: Block, output: str) -> str:
    """What is wrong with the answer, or nothing."""
    if block.language == "text":
        pattern = re.sub(r"\\\(.*?\\\)", r"\\(.*?\\)", re.escape(block.text.strip()))
        if "other numbers" in block.tag:
            pattern = re.sub(r"\b[1-9]\d*\b", r"[1-9]\\d*", pattern)
        return "" if re.fullmatch(pattern, output.strip()) else f"line {block.line}: {block.text} is not\n{output}"
    expected, given = _steady(json.loads(block.text)), _steady(json.loads(output))
    if "at least" in block.tag and isinstance(given, dict):
        given = {name: value for name, value in given.items() if name in expected}
    return "" if given == expected else f"line {block.line}: {expected} is not {given}"


def _steady(value: Any) -> Any:
    """Without what differs from run to run: only the type of it is kept."""
    if isinstance(value, list):
        return [_steady(item) for item in value]
    if isinstance(value, dict):
        return {name: type(item) if name in VOLATILE else _steady(item) for name, item in value.items()}
    return value
