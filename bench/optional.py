"""Packages of the `bench` extra: drivers of the peers, and what draws the plots. A machine may lack any of them."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

PACKAGES = {
    "asyncpg": "asyncpg",
    "matplotlib": "matplotlib",
    "nats": "nats-py",
    "redis": "redis",
}
"""Module to the package that brings it."""


def lacking(module: str) -> str | None:
    """Why it cannot be imported, in a few words; None when it can."""
    if importlib.util.find_spec(module) is not None:
        return None
    return f"the package {PACKAGES[module]} is not installed (pip install -e '.[bench]')"


def load_module(name: str) -> Any:
    """The module, or one inside it. Raises ImportError that says what to install."""
    if (reason := lacking(name.partition(".")[0])) is not None:
        raise ImportError(reason)
    return importlib.import_module(name)
