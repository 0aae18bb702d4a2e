"""The tests themselves: folders named after packages, fixtures in conftest.py, and shared code in builders alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.paths import ROOT

TESTS = ROOT / "tests"
LIBRARY = {path.parent.name for path in (ROOT / "histopipe").glob("*/__init__.py")}
FOLDERS = LIBRARY | {"flows", "tasks", "benchmarks", "project"}
CONFTESTS = sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("conftest.py"))


def imported_names(tree: ast.Module) -> Iterator[str]:
    """List what a module imports, inside functions too, as dotted names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_of_tests(name: str) -> bool:
    """Return whether a dotted name leads into a test module or a conftest.py."""
    first, *parts = name.split(".")
    return first == "tests" and any(part == "conftest" or part.startswith("test_") for part in parts)


def parse(path: Path) -> ast.Module:
    """Parse a file of Python."""
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("from tests.unit import test_reproduction", ["tests.unit.test_reproduction"]),
        ("def f():\n    from tests.unit.core.test_files import write", ["tests.unit.core.test_files.write"]),
        ("import tests.conftest", ["tests.conftest"]),
        ("from tests.builders.paths import ROOT", []),
    ],
)
def test_an_import_of_a_test_module_is_recognised(line: str, names: list[str]) -> None:
    assert [name for name in imported_names(ast.parse(line)) if is_of_tests(name)] == names


def test_no_module_imports_a_test_module() -> None:
    """Whoever changes or moves a test would otherwise break others."""
    imports = {
        path: [name for name in imported_names(parse(path)) if is_of_tests(name)] for path in TESTS.rglob("*.py")
    }
    assert {path.relative_to(ROOT).as_posix(): names for path, names in imports.items() if names} == {}


@pytest.mark.parametrize("name", CONFTESTS)
def test_functions_of_a_conftest_are_fixtures(name: str) -> None:
    functions = [node for node in parse(TESTS / name).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    plain = [
        node.name for node in functions if not any("pytest.fixture" in ast.unparse(d) for d in node.decorator_list)
    ]
    assert plain == []


@pytest.mark.parametrize("tier", ["unit", "model"])
def test_test_modules_lie_in_folders_named_after_packages(tier: str) -> None:
    modules = [path.relative_to(TESTS / tier) for path in (TESTS / tier).rglob("test_*.py")]
    assert {module.parts[0] for module in modules} <= FOLDERS
    assert [module.as_posix() for module in modules if len(module.parts) == 1] == []


def test_every_folder_of_tests_is_a_package() -> None:
    """Files of the same name in two folders would otherwise be taken for one module."""
    folders = {path.parent for path in TESTS.rglob("test_*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []
