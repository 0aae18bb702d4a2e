"""Where a variant reads and writes: the main run's data, everything else of its own."""

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
    """Content of `variant.json`: what a variant's training and evaluation go by instead of the main run's parameters.

    Attributes:
        seed: that cases were divided with, and training is seeded with.
        split: `scheme` and `unlisted`, as the block `split` of `params.yaml` has them.
    """

    seed: int
    split: dict[str, str]


@dataclass(frozen=True)
class VariantWorkspace(Workspace):
    """The checkout as the stages of one variant see it.

    Training and evaluation replace a folder each; they work in scratch folders, beside the checkpoint, from which the
    files that are kept go into the variant's one folder.

    Attributes:
        study: `folds`, `seeds`, `schemes` or `sizes`.
        architecture: of the variant.
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
        """What is lost without loss once the variant is complete."""
        return self.root / ".checkpoints" / "studies" / self.study / dataset / self.architecture / str(self.variant)

    def folder(self, dataset: str) -> Path:
        """What the variant leaves behind."""
        return self.variant_folder(dataset, self.architecture, self.name)

    def split(self, dataset: str) -> Path:
        """The variant's own split."""
        return self.folder(dataset) / "split.csv"

    def settings(self, dataset: str) -> Path:
        """What else makes the variant differ from the main run: its seed and how its cases were divided."""
        return self.folder(dataset) / SETTINGS_FILE

    def model(self, dataset: str, architecture: str) -> Path:
        """The network and the record of its training, until the training is complete."""
        return self.scratch(dataset) / "model"

    def evaluation(self, dataset: str, architecture: str) -> Path:
        """What grading the network gave, until the grading is complete."""
        return self.scratch(dataset) / "evaluation"

    def checkpoint(self, dataset: str, architecture: str) -> Path:
        """What a killed variant resumes from."""
        return self.scratch(dataset)

    def training_stage(self, dataset: str, architecture: str) -> str:
        """The stage that trains the variant."""
        return stage_name("train_variant", dataset, architecture, self.name)

    def training_record(self, dataset: str, architecture: str) -> Path:
        """The record of the training, where DVC keeps it."""
        return self.folder(dataset) / TRAINING_RECORD

    def run_name(self, architecture: str) -> str:
        """What MLflow calls the variant's run."""
        return f"{architecture} {KINDS[self.study]} {self.variant}"

    @property
    def run_tags(self) -> dict[str, str]:
        """Tags that keep the variant's run apart from the main run and from other variants."""
        return {"study": self.study, "variant": str(self.variant)}


@dataclass(frozen=True)
class TrainedVariant(VariantWorkspace):
    """The checkout as a variant's evaluation sees it: the network lies where its training left it."""

    def model(self, dataset: str, architecture: str) -> Path:
        """The network and the record of its training."""
        return self.folder(dataset)


def settled_params(dataset: str, params: Params, own: VariantWorkspace) -> Params:
    """Give the main run's parameters the seed and the division of cases that a variant's split was made with.

    They are read from the file that the split left, so that a variant goes stale with what it was made from: one of
    another seed doesn't change with the main run's.

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
    """Take these files of a scratch folder into the variant's own; the rest goes.

    Raises:
        ChangedInputError: what they were made from changed meanwhile.
    """
    require_unchanged_inputs()
    for name in names:
        with replaced_file(folder / name) as beside:
            shutil.copy2(scratch / name, beside)
    shutil.rmtree(scratch, ignore_errors=True)
