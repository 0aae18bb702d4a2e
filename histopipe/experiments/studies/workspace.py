"""The paths of a variant: the main run's data, and its own folders for everything else."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from histopipe.core.errors import SplitError
from histopipe.core.files import read_json, replaced_file
from histopipe.core.params import Params
from histopipe.core.stages.inputs import require_unchanged_inputs
from histopipe.core.variants import KINDS, Study, VariantValue, variant_name
from histopipe.core.workspace import TRAINING_RECORD, Workspace, stage_name

SETTINGS_FILE = "variant.json"


class VariantSettings(TypedDict):
    """The content of `variant.json`: settings of a variant that replace the main run's parameters.

    Attributes:
        seed: seed of the split and of the training.
        split: `scheme` and `unlisted`, as in the block `split` of `params.yaml`.
    """

    seed: int
    split: dict[str, str]


@dataclass(frozen=True)
class VariantWorkspace(Workspace):
    """The checkout as the stages of one variant see it.

    Training and evaluation each replace a folder; they work in scratch folders next to the checkpoint, from which the
    files to keep are moved to the variant's one folder.

    Attributes:
        study: `folds`, `seeds`, `schemes` or `sizes`.
        architecture: name of the variant's recipe.
        variant: its fold, seed, scheme or number of training cases.
    """

    study: Study
    architecture: str
    variant: VariantValue

    @property
    def name(self) -> str:
        """The variant's name, such as `fold-0`."""
        return variant_name(self.study, self.variant)

    def scratch(self, dataset: str) -> Path:
        """Return the folder that can be deleted once the variant is complete."""
        return self.root / ".checkpoints" / "studies" / self.study / dataset / self.architecture / str(self.variant)

    def folder(self, dataset: str) -> Path:
        """Return the folder of the variant's outputs."""
        return self.variant_folder(dataset, self.architecture, self.name)

    def split(self, dataset: str) -> Path:
        """Return the path of the variant's own split."""
        return self.folder(dataset) / "split.csv"

    def settings(self, dataset: str) -> Path:
        """Return the path of the variant's other settings: its seed and how its cases were divided."""
        return self.folder(dataset) / SETTINGS_FILE

    def model(self, dataset: str, recipe: str) -> Path:
        """Return the folder of the network and its training record, until the training is complete."""
        return self.scratch(dataset) / "model"

    def evaluation(self, dataset: str, recipe: str) -> Path:
        """Return the folder of the evaluation, until it is complete."""
        return self.scratch(dataset) / "evaluation"

    def checkpoint(self, dataset: str, recipe: str) -> Path:
        """Return the folder that a killed variant resumes from."""
        return self.scratch(dataset)

    def training_stage(self, dataset: str, recipe: str) -> str:
        """Return the name of the stage that trains the variant."""
        return stage_name("train_variant", dataset, recipe, self.name)

    def training_record(self, dataset: str, recipe: str) -> Path:
        """Return the path of the training's record, where DVC keeps it."""
        return self.folder(dataset) / TRAINING_RECORD

    def run_name(self, recipe: str) -> str:
        """Return the name of the variant's MLflow run."""
        return f"{recipe} {KINDS[self.study]} {self.variant}"

    @property
    def run_tags(self) -> dict[str, str]:
        """The tags that separate the variant's run from the main run and from other variants."""
        return {"study": self.study, "variant": str(self.variant)}


@dataclass(frozen=True)
class TrainedVariant(VariantWorkspace):
    """The checkout as a variant's evaluation sees it: the network is in the training's output folder."""

    def model(self, dataset: str, recipe: str) -> Path:
        """Return the folder of the network and its training record."""
        return self.folder(dataset)


def apply_variant_settings(dataset: str, params: Params, own: VariantWorkspace) -> Params:
    """Return the main run's parameters with the seed and the split settings of a variant.

    They are read from the file that the split wrote, so that a variant is stale only when its own settings change: one
    with another seed doesn't change with the main run's.

    Raises:
        SplitError: the variant has no split yet.
    """
    path = own.settings(dataset)
    if not path.is_file():
        stage = stage_name("split_variant", dataset, own.architecture, own.name)
        raise SplitError(f"{path} is missing: run `dvc repro {stage}`")
    settings: VariantSettings = read_json(path)
    split = params.split.model_copy(update=settings["split"])
    return params.model_copy(update={"seed": settings["seed"], "split": split})


def keep_files(scratch: Path, folder: Path, names: Sequence[str]) -> None:
    """Copy these files of a scratch folder to the variant's own, and delete the scratch folder.

    Raises:
        ChangedInputError: their inputs changed meanwhile.
    """
    require_unchanged_inputs()
    for name in names:
        with replaced_file(folder / name) as target:
            shutil.copy2(scratch / name, target)
    shutil.rmtree(scratch, ignore_errors=True)
