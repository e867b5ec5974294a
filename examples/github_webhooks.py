"""GitHub's example webhook payloads as events, each three times, shuffled: what a sender that retries would send.

    npm pack --silent @octokit/webhooks-examples
    tar -xzf octokit-webhooks-examples-*.tgz
    python examples/github_webhooks.py package/api.github.com/index.json | sekali publish -

A delivery's id is its event's name and its place among the examples of that name, so that it is the same every time.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

DELIVERIES_PER_EVENT = 3
SHUFFLE_SEED = 1


def events(index: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "topic": f"github.{kind['name']}",
            "event_id": f"{kind['name']}-{place}",
            "timestamp": "2024-01-01T00:00:00Z",
            "source": "api.github.com",
            "payload": payload,
        }
        for kind in index
        for place, payload in enumerate(kind["examples"], start=1)
    ]


def main() -> None:
    index = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    deliveries = events(index) * DELIVERIES_PER_EVENT
    random.Random(SHUFFLE_SEED).shuffle(deliveries)
    for delivery in deliveries:
        print(json.dumps(delivery))


if __name__ == "__main__":
    main()
