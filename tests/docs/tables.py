"""The tables in docs/ that are made from the code: `python -m tests.docs.tables` writes them anew."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from sekali import errors
from sekali.http.params import PARAMETER_CODE_MEANINGS
from sekali.settings import MIB, Settings
from sekali.wire.rules import ITEM_CODE_MEANINGS
from tests.serving import ROOT

MADE_BY = "made by `make docs` from the code"


def settings_table() -> str:
    rows = ["| Variable | Default | Range | Meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        variables = " or ".join(f"`{variable}`" for variable in environment_names(name, field))
        rows.append(f"| {variables} | {_shown(field.default)} | {_range(field)} | {field.description} |")
    return "\n".join(rows)


def environment_names(name: str, field: FieldInfo) -> list[str]:
    match field.validation_alias:
        case None:
            return [f"SEKALI_{name.upper()}"]
        case AliasChoices() as aliases:
            return [str(alias) for alias in aliases.choices]
        case alias:
            return [str(alias)]


def errors_table() -> str:
    rows = ["| Code | Status | Title | Try again? |", "|---|---|---|---|"]
    for error in sorted(wire_errors(), key=lambda error: (error.status, error.code)):
        again = "yes, the same request" if error.may_pass else "no"
        rows.append(f"| `{error.code}` | {error.status} | {error.title} | {again} |")
    return "\n".join(rows)


def codes_table(meanings: Mapping[str, str]) -> str:
    rows = ["| Code | Meaning |", "|---|---|"]
    return "\n".join(rows + [f"| `{code}` | {meaning} |" for code, meaning in meanings.items()])


def wire_errors() -> Iterator[type[errors.SekaliError]]:
    """Every error class that an HTTP answer can carry: those with a code and a status of their own."""
    waiting = list(errors.SekaliError.__subclasses__())
    while waiting:
        error = waiting.pop()
        waiting.extend(error.__subclasses__())
        if {"code", "status"} <= vars(error).keys():
            yield error


TABLES = {
    ("docs/settings.md", "settings"): settings_table,
    ("docs/http-api.md", "errors"): errors_table,
    ("docs/http-api.md", "event rules"): partial(codes_table, ITEM_CODE_MEANINGS),
    ("docs/http-api.md", "parameter rules"): partial(codes_table, PARAMETER_CODE_MEANINGS),
}


def with_tables(path: str, text: str) -> str:
    """`text` with each of its marked places filled from the code. Raises AssertionError when a mark is missing."""
    for (file, name), table in TABLES.items():
        if file != path:
            continue
        pattern = re.compile(rf"<!-- {name}:[^>]*-->\n(?:.*?\n)??(<!-- /{name} -->)", re.DOTALL)
        body = f"<!-- {name}: {MADE_BY} -->\n\n{table()}\n\n"
        text, count = pattern.subn(lambda match, body=body: body + match[1], text)
        assert count == 1, f"{path} has {count} places marked <!-- {name}: ... -->"
    return text


def _shown(value: object) -> str:
    if isinstance(value, int) and value >= MIB and value % MIB == 0:
        return f"{value:,} ({value // MIB} MiB)"
    return f"{value:,}" if isinstance(value, int) else f"`{value}`" if isinstance(value, str) else f"{value}"


def _range(field: FieldInfo) -> str:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    said = []
    for limit in field.metadata:
        for attribute, word in words.items():
            bound = getattr(limit, attribute, None)
            if bound is not None:
                said.append(f"{word} {bound:,}")
    return ", ".join(said)


def main() -> None:
    for path in sorted({file for file, _ in TABLES}):
        file = ROOT / path
        file.write_text(with_tables(path, file.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"written: {Path(path)}", file=sys.stderr)


if __name__ == "__main__":
    main()
