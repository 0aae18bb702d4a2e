"""The code that stages really load, against the code that `dvc.yaml` says they depend on."""

from __future__ import annotations

from collections import defaultdict
from fnmatch import fnmatch
from pathlib import Path

from histopipe.core.stages.inputs import read_declaration
from histopipe.core.workspace import Workspace

TRACER = Path(__file__).with_name("tracer")
NOTES = "LOADED_NOTES"  # the variable that tells the tracer where to write
PACKAGE = "histopipe/"

# loaded, but not named: what no stage's output depends on, and what one stage depends on in another way
ALLOWED = {
    "__init__.py": "is empty of code",
    "__main__.py": "starts the command",
    "*/__init__.py": "holds no code, but for the lists of data sets and of networks",
    "cli/*": "reads the command line and says what came out",
    "core/addresses.py": "hides passwords in what is said",
    "core/dvc.py": "asks DVC of its cache",
    "core/errors.py": "says what is wrong",
    "core/files.py": "writes a file as its content is given",
    "core/known_datasets.py": "checks names in params.yaml",
    "core/lineage.py": "notes commits and hashes",
    "core/locking.py": "lets processes take turns",
    "core/moved_keys.py": "says what an old params.yaml has to become",
    "core/names.py": "refuses names with control characters",
    "core/operating_point.py": "names the keys of a record and its file",
    "core/outputs/*": "refuses to overwrite",
    "core/params.py": "reads params.yaml, whose keys are named",
    "core/stages/*": "locks and watches stages",
    "core/startup_lines.py": "filters what TensorFlow says",
    "core/system_files.py": "refuses folders with files of others",
    "core/tables.py": "writes a table as its content is given",
    "core/training_record.py": "names the keys of a record and its file",
    "core/variants.py": "reads names of variants in params.yaml",
    "core/processes.py": "shares work out; what comes back is the same",
    "core/workspace.py": "says where files lie",
    "evaluation/explanation/record.py": "names the keys of a record and its file",
    "evaluation/record.py": "names the keys of a record and its file",
    "tracking/artifacts.py": "brings files of MLflow's runs",
    "tracking/entities.py": "names MLflow's classes",
    "tracking/logging.py": "logs to MLflow",
    "tracking/problems.py": "says what is wrong with MLflow",
    "tracking/relocation.py": "finds artifacts of a checkout that was moved",
    "tracking/runs.py": "logs to MLflow",
    "tracking/stores.py": "finds MLflow's stores",
}
_DRAWN = {
    "core/cases/*": "checks names in params.yaml",
    "ingest/archives/*": "looks into a file that stays whole",
    "ingest/datasets/*": "says what a data set is called",
    "ingest/synthetic/*": "data/source holds the digest of this code",
}
_SOURCE = {"ingest/sources/*": "data/source tells the archive"}
_NETWORK = {
    "networks/architectures/*": "data/weights has the digest of the network's own code",
    "networks/weights/*": "data/weights has what it brought",
}
_STARTS = {"networks/weights/record.py": "reads the record that data/weights holds"}
_BASELINE = {"data/sampling.py": "loaded with the tables; compare, which names it, fits the baseline"}
_GRADING = {
    f"evaluation/{name}.py": "loaded with what is named; promote grades by recorded predictions"
    for name in (
        *("calibration", "cases", "cautions", "delong", "drift/features", "drift/profiles", "figures"),
        *("neighbourhood", "slide_figures", "slide_maps", "thresholds"),
    )
}
_OUTPUT_LAYER = {"networks/architectures/blocks.py": "says what the output layer is called"}
ALLOWED_TO: dict[str, dict[str, str]] = {
    "locate": _DRAWN,
    "fetch": _DRAWN | _SOURCE | {"ingest/folders.py": "data/source tells a folder's files"},
    "ingest": {
        "ingest/sources/archive_file.py": "finds the one archive in its folder",
        "ingest/sources/wanted.py": "names the files that a source may have",
    },
    "weights": {"core/cases/*": "checks names in params.yaml"},
    "train": _NETWORK | {"ingest/datasets/layout.py": "names magnifications"},
    "evaluate": _OUTPUT_LAYER,
    "compare": _STARTS
    | {
        "ingest/sources/wanted.py": "names the files that a source may have",
        "data/splitting/record.py": "reads data/splits, which is named",
        "tracking/registry.py": "reads the ledger of looks at test cases",
    },
    "promote": _GRADING
    | _STARTS
    | _BASELINE
    | _OUTPUT_LAYER
    | {
        "ingest/datasets/layout.py": "names magnifications",
        "reporting/comparison/*": "words of the model card",
    },
}
ALLOWED_TO["train_variant"] = ALLOWED_TO["train"]
ALLOWED_TO["evaluate_variant"] = ALLOWED_TO["evaluate"]
ALLOWED_TO["split_variant"] = {"experiments/studies/workspace.py": "says where files lie"}
ALLOWED_TO["study"] = _STARTS | _BASELINE

# named, but not loaded by a small run of its own
FURTHER = {
    "histopipe/ingest/folders.py": "folders as sources",
    "histopipe/networks/weights/loading.py": "recipes that start from weights",
}


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
    named = read_declaration(stage, Workspace(root)).paths
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
        named = [name for name in read_declaration(stage, Workspace(root)).paths if name.startswith(PACKAGE)]
        loaded = {name for name in named for each in modules if f"{each}/".startswith(f"{name}/")}
        found[stage] = sorted(set(named) - loaded - set(FURTHER))
    return {stage: names for stage, names in found.items() if names}
