"""Where a variant reads and writes: the main run's data, everything else of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from histopipe.core.workspace import Workspace, stage_name

STAGES = {"folds": "fold", "seeds": "seed", "schemes": "scheme", "sizes": "size"}  # what makes one variant of a study

VariantName = int | str  # a fold, a seed or a number of cases; or a scheme


@dataclass(frozen=True)
class VariantWorkspace(Workspace):
    """The checkout as the stages of one variant see it.

    Training and evaluation replace a folder each; they work in scratch folders, beside the checkpoint, from which the
    variant's one folder is put together.

    Attributes:
        study: `folds`, `seeds`, `schemes` or `sizes`.
        architecture: of the variant.
        variant: its fold, seed, scheme or number of training cases.
    """

    study: str
    architecture: str
    variant: VariantName

    def scratch(self, dataset: str) -> Path:
        """What is lost without loss once the variant is complete."""
        return self.root / ".checkpoints" / "studies" / self.study / dataset / self.architecture / str(self.variant)

    def folder(self, dataset: str) -> Path:
        """What the variant leaves behind."""
        return self.variant_folder(self.study, dataset, self.architecture, str(self.variant))

    def split(self, dataset: str) -> Path:
        """The variant's own split, written before it trains."""
        return self.folder(dataset) / "split.csv"

    def model(self, dataset: str, architecture: str) -> Path:
        """The network and the record of its training, until the variant is complete."""
        return self.scratch(dataset) / "model"

    def evaluation(self, dataset: str, architecture: str) -> Path:
        """What grading the network gave, until the variant is complete."""
        return self.scratch(dataset) / "evaluation"

    def checkpoint(self, dataset: str, architecture: str) -> Path:
        """What a killed variant resumes from."""
        return self.scratch(dataset)

    def training_stage(self, dataset: str, architecture: str) -> str:
        """The stage that trains and evaluates the variant."""
        return stage_name(STAGES[self.study], dataset, architecture, str(self.variant))

    def training_record(self, dataset: str, architecture: str) -> Path:
        """The record of the training, where DVC keeps it."""
        return self.folder(dataset) / "run.json"

    def run_name(self, architecture: str) -> str:
        """What MLflow calls the variant's run."""
        return f"{architecture} {STAGES[self.study]} {self.variant}"

    @property
    def run_tags(self) -> dict[str, str]:
        """Tags that keep the variant's run apart from the main run and from other variants."""
        return {"study": self.study, "variant": str(self.variant)}
