"""Runs the `sekali` command as a person does: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from sekali.cli import app

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = (sys.executable, "-m", "sekali")
FINISHED_S_MAX = 120.0


def environment(**more: str) -> dict[str, str]:
    """Ours, with the package to be found whether it is installed or not."""
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    kept = {name: text for name, text in os.environ.items() if name not in ("SEKALI_URL", "DB_PATH", "COLUMNS")}
    return {**kept, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **more}


def run(
    *arguments: str, url: str | None = None, stdin: bytes = b"", cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """`sekali ARGUMENTS`, to its end; stdout and stderr are text."""
    if url is not None:
        env["SEKALI_URL"] = url
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        cwd=cwd,
        env=environment(**env),
        timeout=FINISHED_S_MAX,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def start(
    *arguments: str, url: str | None = None, stdin: int = subprocess.DEVNULL, cwd: Path | None = None, **env: str
) -> subprocess.Popen[bytes]:
    """`sekali ARGUMENTS`, in the background; unbuffered pipes for stdout and stderr."""
    if url is not None:
        env["SEKALI_URL"] = url
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        cwd=cwd,
        env=environment(**env),
    )


def figures(summary: str) -> dict[str, int]:
    """`read 3, stored 2, duplicates 1 (...)` as a dict."""
    parts = summary.strip().splitlines()[-1].rpartition(" (")[0].split(", ")
    return {name: int(number) for name, _, number in (part.rpartition(" ") for part in parts)}


def invoke(*arguments: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
    """`sekali ARGUMENTS` in this process: without standard input and signals, and ten times as fast."""
    env = {"SEKALI_URL": url, "COLUMNS": None, "NO_COLOR": None}
    done = CliRunner().invoke(app, arguments, prog_name="sekali", env=env)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(["sekali", *arguments], done.exit_code, done.stdout, done.stderr)
