"""Paths that every stage reads and writes, relative to one project root."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from histopipe.core.errors import ParamsError

TRAINING_RECORD = "run.json"  # next to every network (histopipe/core/training_record.py)

PARAMS_FILE = "params.yaml"


@dataclass(frozen=True)
class Workspace:
    """The paths of one checkout; nothing is created until a stage writes.

    Attributes:
        root: the folder with `params.yaml`: the checkout, or one of its DVC experiments' folders.

    Example:
        >>> Workspace(Path("/srv/histopipe")).model("idc", "cancernet")
        PosixPath('/srv/histopipe/models/idc/cancernet')
    """

    root: Path

    @classmethod
    def find(cls, folder: Path | None = None) -> Workspace:
        """Find the checkout that contains `folder` (default: the current one).

        Raises:
            ParamsError: there is no `params.yaml` in the folder or above it, or its path has a character that
                databases refuse.
        """
        start = (folder or Path.cwd()).absolute()
        for candidate in (start, *start.parents):
            if (candidate / PARAMS_FILE).is_file():
                _require_usable(candidate)
                return cls(candidate)
        raise ParamsError(f"no {PARAMS_FILE} in {start} or above: change to a histopipe checkout and run again")

    @classmethod
    def find_or_none(cls) -> Workspace | None:
        """Return the checkout that contains the current folder; None if there is none."""
        try:
            return cls.find()
        except ParamsError:
            return None

    @property
    def checkout(self) -> Path:
        """The checkout's root, also for a workspace in one of DVC's temporary experiment folders.

        Databases and relative sources belong to the checkout: the logs of an experiment must outlive its folder.
        """
        parts = self.root.parts
        for depth in range(len(parts) - 3):
            if parts[depth : depth + 3] == (".dvc", "tmp", "exps"):
                return Path(*parts[:depth])
        return self.root

    @property
    def params(self) -> Path:
        """The file with the parameters of every stage."""
        return self.root / PARAMS_FILE

    def source(self, dataset: str) -> Path:
        """Return the path of a source's fingerprint, which `locate` writes."""
        return self.root / "data" / "source" / f"{dataset}.json"

    def used_source(self, dataset: str) -> Path:
        """Return the path of the fingerprint of the source that the last scheduled run processed."""
        return self.root / ".used-sources" / f"{dataset}.json"

    def digest(self, dataset: str) -> Path:
        """Return the path of the cached digest of a local archive."""
        return self.root / ".digests" / f"{dataset}.json"

    def raw(self, dataset: str) -> Path:
        """Return the folder of the unchanged archive."""
        return self.root / "data" / "raw" / dataset

    def downloads(self, dataset: str) -> Path:
        """Return the folder of unfinished downloads.

        It is outside of `raw`, since DVC deletes outputs before a stage runs.
        """
        return self.root / ".downloads" / dataset

    def store(self, dataset: str) -> Path:
        """Return the folder of the packed patches and their index."""
        return self.root / "data" / "store" / dataset

    def split(self, dataset: str) -> Path:
        """Return the path of the table that assigns cases to splits."""
        return self.root / "data" / "splits" / f"{dataset}.csv"

    def split_record(self, dataset: str) -> Path:
        """Return the path of the split's record, which remembers every case ever assigned."""
        return self.root / "data" / "splits" / f"{dataset}.json"

    def folds(self, dataset: str) -> Path:
        """Return the path of the table that assigns cases to folds, whatever the split's scheme."""
        return self.root / "data" / "splits" / f"{dataset}.folds.csv"

    def split_plot(self, dataset: str) -> Path:
        """Return the path of the split's plot."""
        return self.root / "data" / "splits" / f"{dataset}.png"

    def weights(self, recipe: str) -> Path:
        """Return the folder of the weights that a recipe's network starts from."""
        return self.root / "data" / "weights" / recipe

    def model(self, dataset: str, recipe: str) -> Path:
        """Return the folder of a trained network and its training's record."""
        return self.root / "models" / dataset / recipe

    def checkpoint(self, dataset: str, recipe: str) -> Path:
        """Return the folder from which a killed training resumes."""
        return self.root / ".checkpoints" / dataset / recipe

    def parts(self, dataset: str) -> Path:
        """Return the folder of shards that were decoded for a later ingest."""
        return self.root / ".checkpoints" / "ingest" / dataset

    def evaluation(self, dataset: str, recipe: str) -> Path:
        """Return the folder of a network's evaluation."""
        return self.root / "evaluations" / dataset / recipe

    def report(self, dataset: str) -> Path:
        """Return the folder of a data set's comparison and report."""
        return self.root / "reports" / dataset

    def variant_folder(self, dataset: str, recipe: str, name: str) -> Path:
        """Return the folder of a training and its evaluation under another split or seed than the main run's."""
        return self.root / "studies" / dataset / recipe / name

    def study_summary(self, study: str, dataset: str) -> Path:
        """Return the folder of a study's summary.

        It is outside of `studies/D`, since its stage depends on that whole folder.
        """
        return self.root / "studies" / "summaries" / dataset / study

    def search(self, dataset: str, recipe: str) -> Path:
        """Return the folder of a hyper-parameter search's results, to be committed with git."""
        return self.root / "searches" / dataset / recipe

    def training_stage(self, dataset: str, recipe: str) -> str:
        """Return the name of the stage that trains a recipe in this workspace."""
        return stage_name("train", dataset, recipe)

    def training_record(self, dataset: str, recipe: str) -> Path:
        """Return the path of a training's record, where DVC keeps it."""
        return self.model(dataset, recipe) / TRAINING_RECORD

    def run_name(self, recipe: str) -> str:
        """Return the name of a training's run in MLflow."""
        return recipe

    @property
    def run_tags(self) -> dict[str, str]:
        """Tags that distinguish this workspace's MLflow runs from those of the main run, which has none."""
        return {}

    def failure(self, stage: str) -> Path:
        """Return the path of a stage's recorded failure, for the task that ran it."""
        return self.root / ".failures" / f"{stage}.json"

    def lock(self, name: str) -> Path:
        """Return the path of a lock file by which processes take turns."""
        return self.root / ".locks" / f"{name}.lock"

    def checkout_lock(self, name: str) -> Path:
        """Return the path of a lock file that the checkout and its DVC experiments share."""
        return Workspace(self.checkout).lock(name)

    @property
    def dvc_lock(self) -> Path:
        """DVC's record of all outputs and the inputs that they were made from."""
        return self.root / "dvc.lock"


def _require_usable(checkout: Path) -> None:
    """Check that the checkout's path works in the address of a database, which `?` ends, and in DVC's progress bars.

    Raises:
        ParamsError: the path doesn't work there; the message names it.
    """
    path = str(checkout)
    if any(letter in "?{}\x7f" or letter < " " for letter in path):
        raise ParamsError(
            f"the checkout is in {path!r}: DVC and MLflow's database can't work in a path with ?, {{, }} or control "
            "characters; rename the folder"
        )


def stage_name(stage: str, *items: str | None) -> str:
    """Return a stage's name as DVC's matrix writes it: `train@idc-cancernet`, `train_variant@idc-cancernet-fold-3`."""
    return f"{stage}@{'-'.join(name for name in items if name)}"
