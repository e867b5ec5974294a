"""The tree itself: floors, lists that must agree, documents that must say what the code does, nothing left over."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
import pytest

from sekali.http.app import create_app
from sekali.settings import Settings
from sekali.wire.rules import ItemCode
from tests.docs.tables import TABLES, wire_errors, with_tables
from tests.serving import ROOT

SOURCE = ROOT / "src" / "sekali"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def lint_imports(source: Path) -> subprocess.CompletedProcess[str]:
    """The contracts of pyproject.toml, asked of the package under `source`."""
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()",
         "--no-logo", "--no-cache", "--config", str(ROOT / "pyproject.toml")],
        cwd=source, env={**os.environ, "PYTHONPATH": str(source), "PYTHONUTF8": "1"}, capture_output=True, text=True,
        encoding="utf-8", check=False,
    )  # fmt: skip


def test_imports_go_downward_only() -> None:
    linted = lint_imports(SOURCE.parent)
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("wire/native.py", "from sekali.store import store"),
        ("store/store.py", "from sekali import hub"),
        ("store/store.py", "import fastapi"),
        ("http/app.py", "import sekali.cli"),
        ("client/client.py", "import sekali.settings"),
    ],
)
def test_an_import_that_goes_upward_or_sideways_is_found(tmp_path: Path, module: str, line: str) -> None:
    shutil.copytree(SOURCE, tmp_path / "sekali", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "sekali" / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    linted = lint_imports(tmp_path)
    assert linted.returncode != 0
    assert "BROKEN" in linted.stdout


def test_every_module_is_reached_from_an_entry_point() -> None:
    graph = grimp.build_graph("sekali", cache_dir=None)
    reached: set[str] = set()
    waiting = ["sekali", "sekali.__main__", "sekali.cli", "sekali.http.app", "sekali.client"]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting.extend(graph.find_modules_directly_imported_by(module))
    packages = {module for module in graph.modules if graph.find_children(module)}
    assert graph.modules - reached - packages == set()


def test_every_file_that_is_not_python_is_named_by_the_code() -> None:
    code = "\n".join(file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py"))
    others = [file for file in SOURCE.rglob("*") if file.is_file() and file.suffix not in {".py", ".pyc"}]
    by_name = [f for f in others if f.name not in code and not is_linked_from_an_asset(f, others)]
    assert [str(file.relative_to(ROOT)) for file in by_name if file.name != "py.typed"] == []


def is_linked_from_an_asset(file: Path, assets: list[Path]) -> bool:
    pages = [asset for asset in assets if asset.suffix in {".html", ".css", ".js"} and asset != file]
    return any(file.name in page.read_text(encoding="utf-8") for page in pages)


def test_every_setting_is_used() -> None:
    code = "\n".join(file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py") if file.name != "settings.py")
    fields = set(Settings.model_fields) - {"db_path"}  # read through `db_file`
    assert {name for name in fields if not re.search(rf"\b{name}\b", code)} == set()


def test_requirements_txt_holds_what_the_package_and_its_tests_need_and_nothing_else() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    project = PYPROJECT["project"]
    assert listed == project["dependencies"] + project["optional-dependencies"]["test"]


@pytest.mark.parametrize(("folders", "extra"), [(["src"], None), (["src", "tests", "bench", "scripts"], "test")])
def test_whatever_is_imported_is_a_requirement_of_its_own(folders: list[str], extra: str | None) -> None:
    lines = list(PYPROJECT["project"]["dependencies"])
    if extra is not None:
        lines += PYPROJECT["project"]["optional-dependencies"][extra]
    required = {name_of(line) for line in lines}
    providers = packages_distributions()
    missing = {
        f"{module} in {file.relative_to(ROOT)}"
        for folder in folders
        for file in (ROOT / folder).rglob("*.py")
        for module in modules_imported_by(file)
        if module in providers and not required & {name.lower().replace("_", "-") for name in providers[module]}
    }
    assert missing == set()


def modules_imported_by(file: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module.partition(".")[0])
    return modules - {"sekali"}


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9-]+", requirement)
    assert found is not None, requirement
    return found[0]


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-serve.lock"])
def test_a_lock_file_has_every_requirement_once_with_hashes_and_names_no_host(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    pinned = re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE)
    project = PYPROJECT["project"]
    wanted = list(project["dependencies"])
    if lock == "requirements.lock":
        wanted += project["optional-dependencies"]["test"] + project["optional-dependencies"]["dev"]
    names = {name_of(line) for line in wanted}
    assert names - {"sekali"} <= set(pinned)
    assert len(pinned) == len(set(pinned))
    assert text.count("--hash=sha256:") >= len(pinned)
    assert "://" not in text


def test_the_image_gets_the_versions_that_were_tested() -> None:
    tested, served = (
        dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE))
        for lock in ("requirements.lock", "requirements-serve.lock")
    )
    assert served.items() <= tested.items()


def test_every_dependency_is_explained() -> None:
    project = PYPROJECT["project"]
    explained = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    lines = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    names = {name_of(line) for line in lines} - {"sekali"}
    assert {name for name in names if f"| `{name}` |" not in explained} == set()


@pytest.mark.parametrize("path", sorted({path for path, _ in TABLES}))
def test_a_table_made_from_the_code_is_current(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert with_tables(path, text) == text, "run: make docs"


def test_every_route_is_documented_and_every_documented_route_exists() -> None:
    text = (ROOT / "docs" / "http-api.md").read_text(encoding="utf-8")
    documented = {(method, path) for method, path in re.findall(r"^### `([A-Z]+) (/\S*?)`", text, re.MULTILINE)}
    paths = create_app(Settings()).openapi()["paths"]
    served = {(method.upper(), path) for path, methods in paths.items() for method in methods if method != "head"}
    assert documented == served


def test_every_error_code_is_one_class_and_documented() -> None:
    codes = [error.code for error in wire_errors()]
    assert len(codes) == len(set(codes))
    text = (ROOT / "docs" / "http-api.md").read_text(encoding="utf-8")
    assert {code for code in [*codes, *ItemCode] if f"| `{code}` |" not in text} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_between_documents_leads_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_document_is_linked_from_another() -> None:
    linked = {
        (document.parent / target.partition("#")[0]).resolve()
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
        if "://" not in target
    }
    front_door = {ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"}
    assert {str(document.relative_to(ROOT)) for document in set(DOCUMENTS) - front_door - linked} == set()
