"""GitHub's real webhook payloads as events, one a line: input for `sekali publish`.

    python scripts/octokit_events.py | sekali publish -
    python scripts/octokit_events.py --times 3 --shuffle 7 | sekali publish -

The payloads are the examples for api.github.com of the npm package @octokit/webhooks-examples (MIT licence), which npm
puts into a cache folder outside the repository. topic: `github.<webhook>`; event_id: `<webhook>-<n>`, which stands for
the delivery id that GitHub sends along; source: the repository or organisation; timestamp: the latest time in the
payload. Needs Node's npm, and nothing but the standard library of Python.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = "@octokit/webhooks-examples"
VERSION = "7.6.1"
EVENTS = 329
"""How many payloads that version has for api.github.com."""

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
WITHOUT_TIME = "2000-01-01T00:00:00Z"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where npm puts the package (%(default)s)")
    parser.add_argument("--times", type=int, default=1, help="write every event so often")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="in an order drawn with this seed")
    arguments = parser.parse_args()
    lines = list(event_lines(installed(arguments.cache))) * arguments.times
    if arguments.shuffle is not None:
        random.Random(arguments.shuffle).shuffle(lines)
        print(f"order drawn with seed {arguments.shuffle}", file=sys.stderr)
    # Bytes: on Windows a text stream would write CR LF, in an encoding of its own.
    sys.stdout.buffer.write("".join(line + "\n" for line in lines).encode())


def default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(base) / "sekali" / "octokit-webhooks-examples"


def installed(cache: Path) -> Path:
    """The package's folder, installed with npm if it is not there yet. Exits with a clear line when that fails."""
    folder = cache / "node_modules" / PACKAGE
    if not has_version(folder):
        npm = shutil.which("npm")
        if npm is None:
            sys.exit("octokit_events: npm is not installed (it comes with Node.js: https://nodejs.org)")
        cache.mkdir(parents=True, exist_ok=True)
        options = ["--prefix", str(cache), "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--silent"]
        made = subprocess.run([npm, "install", *options, f"{PACKAGE}@{VERSION}"], stdout=sys.stderr, check=False)
        if made.returncode != 0 or not has_version(folder):
            sys.exit(f"octokit_events: npm could not install {PACKAGE}@{VERSION} (exit {made.returncode})")
    return folder


def has_version(folder: Path) -> bool:
    description = folder / "package.json"
    return description.is_file() and json.loads(description.read_text("utf-8"))["version"] == VERSION


def event_lines(package: Path) -> Iterator[str]:
    webhooks = json.loads((package / "api.github.com" / "index.json").read_text("utf-8"))
    for webhook in webhooks:
        for number, payload in enumerate(webhook["examples"], 1):
            text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
            event = {
                "topic": f"github.{webhook['name']}",
                "event_id": f"{webhook['name']}-{number}",
                "timestamp": max(TIME.findall(text), default=WITHOUT_TIME),
                "source": source_of(payload),
                "payload": payload,
            }
            yield json.dumps(event, ensure_ascii=False, separators=(",", ":"))


def source_of(payload: dict[str, Any]) -> str:
    for member, name in (("repository", "full_name"), ("organization", "login"), ("sender", "login")):
        value = payload.get(member)
        if isinstance(value, dict) and value.get(name):
            return f"github.com/{value[name]}"
    return "github.com"


if __name__ == "__main__":
    main()
