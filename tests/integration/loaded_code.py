"""The code that stages really load, against the code that `dvc.yaml` says they depend on."""

from __future__ import annotations

from collections import defaultdict
from fnmatch import fnmatch
from pathlib import Path

from histopipe.core.stages.inputs import declaration
from histopipe.core.workspace import Workspace

TRACER = Path(__file__).with_name("tracer")
NOTES = "LOADED_NOTES"  # the variable that tells the tracer where to write
PACKAGE = "histopipe/"

# loaded, but no part of a stage's output: what is allowed to all stages, and what to some
ALLOWED: dict[str, str] = {}
ALLOWED_TO: dict[str, dict[str, str]] = {}


def notes_of(root: Path) -> Path:
    """Where the tracer writes for a checkout: beside it, so that the checkout is as a user's."""
    return root.with_name(f"{root.name}.loaded")


def loaded_by_stage(root: Path) -> dict[str, set[str]]:
    """The project's modules that each stage of a traced checkout has loaded, in all of its processes."""
    found: dict[str, set[str]] = defaultdict(set)
    for note in notes_of(root).iterdir():
        stage = note.name.rpartition(".")[0]
        found[stage] |= {name for name in note.read_text(encoding="utf-8").splitlines() if name.startswith(PACKAGE)}
    return found


def unnamed_code(root: Path) -> dict[str, list[str]]:
    """Modules that a stage loads, but neither names in `dvc.yaml` nor may leave unnamed."""
    found = {stage: _unnamed(stage, modules, root) for stage, modules in loaded_by_stage(root).items()}
    return {stage: names for stage, names in found.items() if names}


def _unnamed(stage: str, modules: set[str], root: Path) -> list[str]:
    named = declaration(stage, Workspace(root)).paths
    allowed = [*ALLOWED, *ALLOWED_TO.get(stage.partition("@")[0], {})]
    return sorted(
        module
        for module in modules
        if not any(module == name or module.startswith(f"{name}/") for name in named)
        and not any(fnmatch(module.removeprefix(PACKAGE), pattern) for pattern in allowed)
    )


def needless_code(root: Path) -> dict[str, list[str]]:
    """Code that a stage names in `dvc.yaml`, but of which it loads nothing."""
    found = {}
    for stage, modules in loaded_by_stage(root).items():
        named = [name for name in declaration(stage, Workspace(root)).paths if name.startswith(PACKAGE)]
        found[stage] = [name for name in named if not any(f"{each}/".startswith(f"{name}/") for each in modules)]
    return {stage: names for stage, names in found.items() if names}
