"""What the attacks showed: counted while they run, and written as a table into docs/guarantees.md.

    make faults        # runs all of them, the long ones too, then this

A test notes what it has done once it has passed. A run that fails writes no table.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
DOCUMENT: Final = ROOT / "docs" / "guarantees.md"
BEGIN: Final = "<!-- written by `make faults` -->"
END: Final = "<!-- end -->"


@dataclass(frozen=True, slots=True)
class Attack:
    """So many `runs` of an attack on an invariant, in which so many promises were broken."""

    invariant: str
    what: str
    runs: int
    losses: int


class Evidence:
    """The attacks of one run of the tests."""

    def __init__(self) -> None:
        self._attacks: dict[tuple[str, str], Attack] = {}

    def note(self, invariant: str, what: str, runs: int, losses: int = 0) -> None:
        before = self._attacks.get((invariant, what), Attack(invariant, what, 0, 0))
        added = Attack(invariant, what, before.runs + runs, before.losses + losses)
        self._attacks[invariant, what] = added

    def write(self, path: Path) -> None:
        path.write_text(json.dumps([asdict(attack) for attack in self._attacks.values()]), encoding="utf-8")


def table(attacks: list[Attack], date: str, commit: str) -> str:
    lines = ["| Invariant | Attack | Runs | Broken promises | Date | Commit |", "|---|---|---:|---:|---|---|"]
    lines += [
        f"| {attack.invariant} | {attack.what} | {attack.runs:,} | {attack.losses} | {date} | `{commit}` |"
        for attack in sorted(attacks, key=lambda each: (each.invariant, each.what))
    ]
    return "\n".join(lines)


def with_table(document: str, written: str) -> str:
    """The document with its table replaced. Raises ValueError when it has no place for one."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not pattern.search(document):
        raise ValueError(f"{DOCUMENT.name} has no {BEGIN}")
    return pattern.sub(lambda _: f"{BEGIN}\n{written}\n{END}", document)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.evidence", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("evidence", type=Path, help="what a run with SEKALI_EVIDENCE=FILE has left")
    given = parser.parse_args()
    attacks = [Attack(**attack) for attack in json.loads(given.evidence.read_text(encoding="utf-8"))]
    commit = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    date = dt.datetime.now(tz=dt.UTC).date().isoformat()
    DOCUMENT.write_text(with_table(DOCUMENT.read_text("utf-8"), table(attacks, date, commit)), encoding="utf-8")


if __name__ == "__main__":
    main()
