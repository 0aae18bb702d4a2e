"""What an edit makes stale: the table of docs/production.md, row by row, as the real `dvc status` has it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from benchmarks.checkouts import change_params, copy_project
from tests.builders.paths import ROOT

Edit = Callable[[Path], None]
PACKAGE = "histopipe"
OTHER = "resnet"  # the architecture that is edited; its neighbour is cancernet
MATRIX: dict[str, Any] = {
    "architectures": ["cancernet", OTHER],
    "studies": {"variants": ["fold-0"], "summaries": ["folds"]},
}


def in_code(name: str, pattern: str, replacement: str) -> Edit:
    def edit(root: Path) -> None:
        path = root / PACKAGE / name
        text, count = re.subn(pattern, replacement, path.read_text(encoding="utf-8"), count=1)
        assert count == 1, f"{name} has no {pattern}"
        path.write_text(text, encoding="utf-8")

    return edit


def in_params(*keys: str, value: Any) -> Edit:
    def edit(root: Path) -> None:
        content = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
        block = content
        for key in keys[:-1]:
            block = block[key]
        assert block[keys[-1]] != value
        block[keys[-1]] = value
        (root / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    return edit


EDITS: dict[str, Edit] = {
    "a range of `search`": in_params("search", "cancernet", value={"epochs": {"low": 1, "high": 9}}),
    "a figure of `published`": in_params("published", OTHER, "metrics", value={"accuracy": 0.5}),
    "`evaluate.threshold`": in_params("evaluate", "threshold", value="f1"),
    "a colour of `evaluation/figures.py`": in_code("evaluation/figures.py", r'"#[0-9a-fA-F]{6}"', '"#123456"'),
    "`networks/weights/stage.py`": in_code("networks/weights/stage.py", r"\Z", "# changed\n"),
    "`networks/weights/loading.py`": in_code("networks/weights/loading.py", r"\Z", "# changed\n"),
    "a data set's declaration, `ingest/datasets/idc.py`": in_code("ingest/datasets/idc.py", r"\Z", "# changed\n"),
    "a data set's block, `idc`": in_params("idc", "exclude_cases", value=["8863"]),
    "another recipe's block": in_params("recipes", OTHER, "batch_size", value=7),
    "another architecture's file": in_code(f"networks/architectures/{OTHER}.py", r"\Z", "# changed\n"),
    "an error's wording, `core/errors.py`": in_code("core/errors.py", r"\Z", "# changed\n"),
    "the command, `cli/`": in_code("cli/stages.py", r"\Z", "# changed\n"),
    "a study's table": in_code("experiments/studies/table.py", r"\Z", "# changed\n"),
}


def documented() -> dict[str, set[str]]:
    """What the page says that `dvc status` names, by edit."""
    page = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
    table = page.partition("| after an edit of | `dvc status` names |\n")[2].partition("\n\n")[0]
    rows = [line.strip("|").split(" | ") for line in table.splitlines()[1:]]
    return {edit.strip(): set(re.findall(r"`([^`]+)`", names)) for edit, names in rows}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose `dvc.lock` has every stage, with files in place of what the stages would have made."""
    root = tmp_path_factory.mktemp("recorded") / "checkout"
    copy_project(root)
    change_params(root, **MATRIX)
    with chdir(root), Repo() as repo:
        for output in repo.index.outs:
            path = Path(output.fs_path)
            is_folder = not path.suffix
            (path if is_folder else path.parent).mkdir(parents=True, exist_ok=True)
            (path / "index.parquet" if is_folder else path).write_text("made\n", encoding="utf-8")
        for name in ("index.parquet", "report.json"):
            (root / "data/store/idc" / name).write_text("made\n", encoding="utf-8")
        repo.commit(force=True)
    assert stale(root) == set()
    return root


def stale(root: Path) -> set[str]:
    with chdir(root), Repo() as repo:
        return set(repo.status())


@pytest.fixture
def restored(recorded: Path) -> Iterator[Path]:
    """The checkout, whose code and parameters are put back behind a test."""
    tracked = [recorded / "params.yaml", *(recorded / PACKAGE).rglob("*.py")]
    before = {path: path.read_bytes() for path in tracked}
    yield recorded
    for path, content in before.items():
        if path.read_bytes() != content:
            path.write_bytes(content)


def test_every_row_of_the_page_is_tried() -> None:
    assert list(documented()) == list(EDITS)


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_makes_stale_what_the_page_says(restored: Path, edit: str) -> None:
    EDITS[edit](restored)
    names, stages = (
        documented()[edit],
        set(yaml.safe_load((restored / "dvc.lock").read_text(encoding="utf-8"))["stages"]),
    )
    assert stale(restored) == {stage for stage in stages if stage in names or stage.partition("@")[0] in names}
    assert names <= stages | {stage.partition("@")[0] for stage in stages}
