"""Reads the Dockerfile and carries it out in a bare Debian, without a Docker engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.serving import ROOT

PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv")
MACHINE_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
"""How this machine reaches its package registry; a build container gets these from its engine."""


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, argument), comments and line continuations taken away."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    found = []
    for line in joined.splitlines():
        word, _, argument = line.strip().partition(" ")
        if word:
            found.append((word.upper(), re.sub(r"\s+", " ", argument.strip())))
    return found


@dataclass
class BareDebian:
    """A root file system with Python and nothing else, and what the Dockerfile has set so far."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"})
    workdir: str = "/"
    user: str = "0:0"
    cmd: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)

    @classmethod
    def install(cls, root: Path, python: str) -> BareDebian:
        """Debian with its own Python where the base image has one. `python`: the base image's version, "3.11"."""
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", _release(), str(root), _mirror()],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            marker.unlink()
        for file in MACHINE_FILES:
            if Path(file).is_file():
                (root / file.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, root / file.lstrip("/"))
        debian = cls(root)
        version = debian.run(["python", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()
        assert tuple(map(int, version.split("."))) >= tuple(map(int, python.split("."))), f"Debian has Python {version}"
        return debian

    def carry_out(self, word: str, argument: str) -> None:
        match word:
            case "FROM" | "EXPOSE" | "VOLUME":
                pass
            case "ENV":
                self.env.update(re.findall(r"(\w+)=(\S+)", argument))
            case "WORKDIR":
                self.workdir = argument
                (self.root / argument.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "COPY":
                self._copy(argument.split())
            case "RUN":
                self.run(["sh", "-c", argument])
            case "USER":
                self.user = argument
            case "HEALTHCHECK":
                self.healthcheck = json.loads(argument[argument.index("CMD") + 3 :])
            case "CMD":
                self.cmd = json.loads(argument)
            case _:
                raise AssertionError(f"{word} is not understood here")

    def run(self, command: Sequence[str], *, user: str = "0:0") -> str:
        """What the command prints. Raises AssertionError with its output when it fails."""
        done = subprocess.run(
            self.command(command, user), env=self._machine_env(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def command(self, command: Sequence[str], user: str) -> list[str]:
        """The same command seen from outside: in the root, as the user, in the working directory."""
        inside = f'cd {self.workdir} && exec "$@"'
        return ["chroot", f"--userspec={user}", str(self.root), "/bin/sh", "-c", inside, "sh", *command]

    def _machine_env(self) -> dict[str, str]:
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        return {**pip, **self.env}

    def _copy(self, paths: list[str]) -> None:
        *sources, target = paths
        for source in sources:
            file = ROOT / source
            goal = self.root / self.workdir.lstrip("/") / target
            if file.is_dir():
                shutil.copytree(file, goal, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(file, goal / file.name if target.endswith("/") else goal)


def _release() -> str:
    text = Path("/etc/os-release").read_text(encoding="utf-8")
    found = re.search(r'^VERSION_CODENAME="?(\w+)', text, re.MULTILINE)
    return found[1] if found else "stable"


def _mirror() -> str:
    """The first mirror that apt is set up with."""
    listed = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(file.read_text(encoding="utf-8") for file in listed if file.is_file())
    found = re.search(r"^(?:URIs:|deb(?: \[[^\]]*\])?)\s+(\S+)", text, re.MULTILINE)
    assert found is not None, "apt knows no mirror"
    return found[1]
