"""Sekali (Indonesian for *once*): a pub-sub log aggregator that keeps every event exactly once."""

from __future__ import annotations

from typing import Final

__version__: Final = "0.1.0"
