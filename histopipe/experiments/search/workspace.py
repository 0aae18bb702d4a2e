"""The paths of a trial: the main run's data, and its own folders for everything else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from histopipe.core.workspace import Workspace, stage_name


@dataclass(frozen=True)
class TrialWorkspace(Workspace):
    """The checkout as one trial sees it.

    Attributes:
        study: name of the study.
        number: number of the trial within it.
        parent: id of the search's MLflow run.
    """

    study: str
    number: int
    parent: str

    def scratch(self, dataset: str, architecture: str) -> Path:
        """Return the folder that can be deleted once the study has the trial's result."""
        return self.root / ".checkpoints" / "searches" / dataset / architecture / self.study / str(self.number)

    def model(self, dataset: str, architecture: str) -> Path:
        """Return the folder of the network and its training record, until the trial is over."""
        return self.scratch(dataset, architecture) / "model"

    def checkpoint(self, dataset: str, architecture: str) -> Path:
        """Return the folder that a killed trial resumes from."""
        return self.scratch(dataset, architecture)

    def training_stage(self, dataset: str, architecture: str) -> str:
        """Return a stage name that DVC doesn't know."""
        return stage_name("trial", dataset, architecture, str(self.number))

    def run_name(self, architecture: str) -> str:
        """Return the name of the trial's MLflow run."""
        return f"{architecture} trial {self.number}"

    @property
    def run_tags(self) -> dict[str, str]:
        """The tags that put the trial's run under the search's, and separate it from the main run and other trials."""
        return {
            "study": "search",
            "variant": f"{self.study}-{self.number}",
            "trial": str(self.number),
            "mlflow.parentRunId": self.parent,
        }
