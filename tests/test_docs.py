"""The documents say what is so: files they name exist, generated parts are fresh, and nothing a user can meet is left out."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from thunderdb.base import errors
from thunderdb.engine.database import Database
from tools import generate_docs

ROOT = Path(__file__).resolve().parents[1]
DOCS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
NAMED = re.compile(
    r"`((?:thunderdb|sim|tools|tests|scenarios|deploy|docs|base|runtime|storage|wal|access|recovery|txn|engine|sql|server)/[\w./*-]*)`"
)
TARGET = re.compile(r"(?:^|`)\s*(?:APT=1 )?make ([a-z-]+)", re.M)


def roots(name: str) -> list[Path]:
    """Paths that a document's name may mean: from the top, or from the engine's package."""
    return [ROOT, ROOT / "thunderdb"]


def exists(name: str) -> bool:
    return any(any(root.glob(name)) if "*" in name else (root / name).exists() for root in roots(name))


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(path: Path) -> None:
    missing = sorted({name for name in NAMED.findall(path.read_text()) if not exists(name)})
    assert not missing, f"{path.name} names {missing}"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    links = [link for link in LINK.findall(path.read_text()) if "://" not in link]
    missing = [link for link in links if not (path.parent / link).exists()]
    assert not missing, f"{path.name} links to {missing}"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_make_targets_that_a_document_names_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(TARGET.findall("\n".join(code_of(path)))) <= targets


def code_of(path: Path) -> list[str]:
    """Inline code, indented blocks and fenced blocks of a document."""
    text = path.read_text()
    return [*re.findall(r"`[^`\n]+`", text), *re.findall(r"^    .*$", text, re.M), *re.findall(r"```.*?```", text, re.S)]


def test_architecture_names_every_package_and_stays_short() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert len(text.splitlines()) < 250
    assert len(NAMED.findall(text)) > 30
    for package in (path.parent for path in (ROOT / "thunderdb").glob("*/__init__.py")):
        assert f"{package.name}/" in text, f"{package.name} is not in the code map"


def test_generated_documents_are_fresh() -> None:
    for path, text in generate_docs.outputs().items():
        assert path.read_text() == text, f"{path.name} is stale: run `make docs`"


def error_classes(base: type[BaseException]) -> list[type[BaseException]]:
    return [base, *(deeper for sub in base.__subclasses__() for deeper in error_classes(sub))]


def test_every_sqlstate_and_exit_code_is_documented() -> None:
    text = (ROOT / "docs" / "exit-codes-and-sqlstates.md").read_text()
    for error in error_classes(errors.ThunderError):
        assert f"`{error.sqlstate}`" in text, f"{error.__name__}: SQLSTATE {error.sqlstate}"  # type: ignore[attr-defined]
        assert f"| {error.exit_code} |" in text, f"{error.__name__}: exit code {error.exit_code}"  # type: ignore[attr-defined]


def test_every_metric_is_documented() -> None:
    source = "".join(path.read_text() for path in sorted((ROOT / "thunderdb" / "server").glob("*.py")))
    names = set(re.findall(r'"(thunderdb_[a-z0-9_]+)"', source))
    gauges = inspect.getsource(Database.gauges)
    names |= {f"thunderdb_{name}" for name in re.findall(r'"([a-z0-9_]+)":', gauges)}
    assert len(names) > 20, "the metrics were not found"
    text = (ROOT / "docs" / "metrics.md").read_text()
    for braces in re.findall(r"`(\w+)\{([\w,]+)\}(\w+)`", text):
        text += "".join(f" `{braces[0]}{name}{braces[2]}`" for name in braces[1].split(","))
    missing = sorted(name for name in names if f"`{name}" not in text)
    assert not missing, f"docs/metrics.md does not describe {missing}"


def test_no_document_promises_output_that_nobody_saw() -> None:
    """Gaps that were to be filled from a real run are marked while they are open; none may be left."""
    for path in DOCS:
        assert "TO BE RUN" not in path.read_text(), path.name


def test_tests_that_a_document_names_exist() -> None:
    texts = [document.read_text() for document in DOCS]
    named = {(path, name) for text in texts for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)}
    assert len(named) > 40
    missing = sorted(f"{path}::{name}" for path, name in named if not _has_test(ROOT / path, name))
    assert not missing, f"named in a document, and not there: {missing}"


def _has_test(path: Path, name: str) -> bool:
    return path.exists() and re.search(rf"^(async )?def {name}\(", path.read_text(), re.M) is not None


def test_every_endpoint_is_documented() -> None:
    source = "".join(path.read_text() for path in (ROOT / "thunderdb" / "server").glob("admin*.py"))
    routes = re.findall(r'add_(get|post)\("(/[^"]+)"', source)
    text = (ROOT / "docs" / "admin-api.md").read_text()
    assert len(routes) > 10
    shown = [f"{method.upper()} {path.replace('{id}', '<id>')}" for method, path in routes]
    missing = [route for route in shown if f"`{route}`" not in text]
    assert not missing, f"docs/admin-api.md does not describe {missing}"
