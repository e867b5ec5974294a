"""What the commands write: answers on stdout, everything else on stderr, plain unless a person is looking."""

from __future__ import annotations

import os
import sys
import unicodedata
from typing import Literal, NoReturn

import typer
from rich.console import Console

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_JOINERS = frozenset("\u200c\u200d")
"""Zero width joiners: harmless, and emoji and several scripts need them."""


def stdout() -> Console:
    """Made anew for each use, since stdout may be exchanged. Colour only on a terminal, and never with NO_COLOR."""
    return _console(is_stderr=False)


def stderr() -> Console:
    return _console(is_stderr=True)


def _console(*, is_stderr: bool) -> Console:
    # Of NO_COLOR rich makes less: it keeps bold and dim.
    colors: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    console = Console(stderr=is_stderr, color_system=colors, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        # A file or pipe has no width to fold a table to.
        console.width = 1000
    return console


def note(text: str) -> None:
    """One line for the person at the terminal, on stderr."""
    stderr().print(visible(text))


def fail(text: str, code: int = EXIT_FAILED) -> NoReturn:
    """Say on stderr, in one line, why the command ends, and end it."""
    stderr().print(f"sekali: {visible(text)}")
    raise typer.Exit(code)


def visible(text: str) -> str:
    """`text` with everything that could steer a terminal, or hide in it, written as an escape.

    These are control characters (ESC, CSI, CR, BEL and all), line and paragraph separators, formatting characters such
    as bidirectional overrides, and surrogates: `\\x1b`, `\\u202e`.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _is_harmless(character) else _escape(character) for character in text)


def json_visible(document: str) -> str:
    """As `visible`, for JSON on one line: escapes as JSON has them, so the value stays the same."""
    return "".join(letter if _is_harmless(letter) else _json_escape(letter) for letter in document)


def print_json_line(line: bytes) -> None:
    """JSON on stdout as it is. On a terminal, what could steer it is written as `\\u` escapes: the same JSON."""
    if sys.stdout.isatty():
        stdout().print(json_visible(line.decode()))
    else:
        sys.stdout.buffer.write(line + b"\n")


def tolerate_any_character() -> None:
    """Let a terminal that cannot show a character show its escape instead of failing (cp1252, LANG=C)."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _is_harmless(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or character in _JOINERS


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(character: str) -> str:
    code = ord(character)
    if code < 0x10000:
        return " " if character in "\t\r\n" else f"\\u{code:04x}"
    return f"\\u{0xD800 + ((code - 0x10000) >> 10):04x}\\u{0xDC00 + ((code - 0x10000) & 0x3FF):04x}"
