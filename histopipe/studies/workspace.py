"""Where a variant reads and writes: the main run's data, everything else of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from histopipe.paths import Workspace, stage_name

STAGES = {"folds": "fold", "seeds": "seed"}  # the stage that makes one variant of a study, and what people call it


@dataclass(frozen=True)
class VariantWorkspace(Workspace):
    """The checkout as the stages of one variant see it.

    Training and evaluation replace a folder each; they work in scratch folders, beside the checkpoint, from which the
    variant's one folder is put together.

    Attributes:
        study: `folds` or `seeds`.
        architecture: of the variant.
        number: of its fold, or its seed.
    """

    study: str
    architecture: str
    number: int

    def scratch(self, dataset: str) -> Path:
        """What is lost without loss once the variant is complete."""
        return self.root / ".checkpoints" / "studies" / self.study / dataset / self.architecture / str(self.number)

    def folder(self, dataset: str) -> Path:
        """What the variant leaves behind."""
        return self.variant_folder(self.study, dataset, self.architecture, str(self.number))

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
        return stage_name(STAGES[self.study], dataset, architecture, str(self.number))

    def training_record(self, dataset: str, architecture: str) -> Path:
        """The record of the training, where DVC keeps it."""
        return self.folder(dataset) / "run.json"

    def run_name(self, architecture: str) -> str:
        """What MLflow calls the variant's run."""
        return f"{architecture} {STAGES[self.study]} {self.number}"

    @property
    def run_tags(self) -> dict[str, str]:
        """Tags that keep the variant's run apart from the main run and from other variants."""
        return {"study": self.study, "variant": str(self.number)}
