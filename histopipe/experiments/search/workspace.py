"""Where a trial reads and writes: the main run's data, everything else of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from histopipe.core.workspace import Workspace, stage_name


@dataclass(frozen=True)
class TrialWorkspace(Workspace):
    """The checkout as one trial sees it.

    Attributes:
        study: the study's name.
        number: of the trial within it.
        parent: the MLflow run of the search.
    """

    study: str
    number: int
    parent: str

    def scratch(self, dataset: str, architecture: str) -> Path:
        """What is lost without loss once the study knows the trial's result."""
        return self.root / ".checkpoints" / "searches" / dataset / architecture / self.study / str(self.number)

    def model(self, dataset: str, architecture: str) -> Path:
        """The network and the record of its training, until the trial is over."""
        return self.scratch(dataset, architecture) / "model"

    def checkpoint(self, dataset: str, architecture: str) -> Path:
        """What a killed trial resumes from."""
        return self.scratch(dataset, architecture)

    def training_stage(self, dataset: str, architecture: str) -> str:
        """A name that DVC knows nothing of."""
        return stage_name("trial", dataset, architecture, str(self.number))

    def run_name(self, architecture: str) -> str:
        """What MLflow calls the trial's run."""
        return f"{architecture} trial {self.number}"

    @property
    def run_tags(self) -> dict[str, str]:
        """Tags that put the trial's run under the search's, apart from the main run and from other trials."""
        return {
            "study": "search",
            "variant": f"{self.study}-{self.number}",
            "trial": str(self.number),
            "mlflow.parentRunId": self.parent,
        }
