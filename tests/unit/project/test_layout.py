"""The tree: few doors, a short DAG, declarations that agree, and no path in the docs that leads nowhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from histopipe.core.known_datasets import KNOWN_DATASETS, MAGNIFIED_DATASETS
from histopipe.ingest.datasets import get_dataset, list_datasets
from histopipe.ingest.synthetic.plan import list_drawn
from tests.builders.paths import ROOT

DOORS = 18
LINES = 200
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
OWN_FILE = re.compile(r"`((?:histopipe|tasks|flows|tests|benchmarks|docs|examples)/[\w./-]*[\w/])`")


def test_the_library_has_few_doors() -> None:
    doors = {path.name for path in (ROOT / "histopipe").iterdir() if not path.name.startswith("__pycache__")}
    assert len(doors) <= DOORS, sorted(doors)


ENTRANCES_WITH_CODE = {
    "histopipe",
    "histopipe/cli",
    "histopipe/ingest/datasets",
    "histopipe/networks/architectures",
    "histopipe/networks/architectures/backbones",
}


def test_the_entrance_of_a_package_loads_none_of_its_modules() -> None:
    """A stage that needs one module would otherwise load, and seem to depend on, all of them."""
    entrances = (ROOT / "histopipe").rglob("__init__.py")
    assert {_folder(path) for path in entrances if not _is_docstring(path)} == ENTRANCES_WITH_CODE


def _folder(path: Path) -> str:
    return path.parent.relative_to(ROOT).as_posix()


def _is_docstring(path: Path) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def test_the_dag_can_be_read_at_one_sitting() -> None:
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) <= LINES


def test_parameters_know_the_data_sets_that_are_declared() -> None:
    assert sorted(KNOWN_DATASETS) == list_datasets() == sorted(list_drawn())
    magnified = {name for name in list_datasets() if get_dataset(name).select_magnification is not None}
    assert magnified == MAGNIFIED_DATASETS


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page: str) -> None:
    named = OWN_FILE.findall((ROOT / page).read_text(encoding="utf-8"))
    missing = [name for name in named if "NAME" not in name and not (ROOT / name).exists()]
    assert not missing
