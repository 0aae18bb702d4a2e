"""Where every stage reads and writes, relative to one project root."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from histopipe.core.errors import ParamsError

TRAINING_RECORD = "run.json"  # beside every network (histopipe/core/training_record.py)

PARAMS_FILE = "params.yaml"


@dataclass(frozen=True)
class Workspace:
    """The folders of one checkout; nothing is created until a stage writes."""

    root: Path

    @classmethod
    def around(cls, folder: Path | None = None) -> Workspace:
        """Find the checkout that `folder` (default: the current one) lies in.

        Raises:
            ParamsError: no `params.yaml` in the folder or above it, or it lies under a name that databases can't have.
        """
        start = (folder or Path.cwd()).absolute()
        for candidate in (start, *start.parents):
            if (candidate / PARAMS_FILE).is_file():
                _require_usable(candidate)
                return cls(candidate)
        raise ParamsError(f"no {PARAMS_FILE} in {start} or above: change to a histopipe checkout and run again")

    @classmethod
    def if_around(cls) -> Workspace | None:
        """The checkout that the current folder lies in, if it lies in one."""
        try:
            return cls.around()
        except ParamsError:
            return None

    @property
    def home(self) -> Path:
        """The checkout itself, also from inside one of DVC's temporary experiment folders.

        Databases and relative sources belong to the checkout: what an experiment logs must outlive its folder.
        """
        parts = self.root.parts
        for place in range(len(parts) - 3):
            if parts[place : place + 3] == (".dvc", "tmp", "exps"):
                return Path(*parts[:place])
        return self.root

    @property
    def params(self) -> Path:
        """The parameters of every stage."""
        return self.root / PARAMS_FILE

    def source(self, dataset: str) -> Path:
        """What `locate` found: the source's fingerprint."""
        return self.root / "data" / "source" / f"{dataset}.json"

    def used_source(self, dataset: str) -> Path:
        """The fingerprint of the source when results were last made from it by a schedule."""
        return self.root / ".used-sources" / f"{dataset}.json"

    def digest(self, dataset: str) -> Path:
        """The digest of a local archive, remembered with what the file looked like."""
        return self.root / ".digests" / f"{dataset}.json"

    def raw(self, dataset: str) -> Path:
        """The archive as it came."""
        return self.root / "data" / "raw" / dataset

    def downloads(self, dataset: str) -> Path:
        """Unfinished downloads; DVC deletes outputs before a stage runs, so they lie outside `raw`."""
        return self.root / ".downloads" / dataset

    def store(self, dataset: str) -> Path:
        """The packed patches and their index."""
        return self.root / "data" / "store" / dataset

    def split(self, dataset: str) -> Path:
        """Which case belongs to which split."""
        return self.root / "data" / "splits" / f"{dataset}.csv"

    def split_record(self, dataset: str) -> Path:
        """How the split was made; remembers every case ever assigned."""
        return self.root / "data" / "splits" / f"{dataset}.json"

    def folds(self, dataset: str) -> Path:
        """Which case belongs to which fold, whatever the split's scheme."""
        return self.root / "data" / "splits" / f"{dataset}.folds.csv"

    def split_plot(self, dataset: str) -> Path:
        """The split as a picture."""
        return self.root / "data" / "splits" / f"{dataset}.png"

    def weights(self, recipe: str) -> Path:
        """What a recipe's network starts from."""
        return self.root / "data" / "weights" / recipe

    def model(self, dataset: str, architecture: str) -> Path:
        """A trained network and the record of its training."""
        return self.root / "models" / dataset / architecture

    def checkpoint(self, dataset: str, architecture: str) -> Path:
        """What a killed training resumes from."""
        return self.root / ".checkpoints" / dataset / architecture

    def parts(self, dataset: str) -> Path:
        """Shards that were decoded for an ingest to come."""
        return self.root / ".checkpoints" / "ingest" / dataset

    def evaluation(self, dataset: str, architecture: str) -> Path:
        """What grading a network gave."""
        return self.root / "evaluations" / dataset / architecture

    def report(self, dataset: str) -> Path:
        """The comparison of a data set's architectures."""
        return self.root / "reports" / dataset

    def variant_folder(self, dataset: str, architecture: str, name: str) -> Path:
        """A training and its evaluation under another split or seed than the main run's."""
        return self.root / "studies" / dataset / architecture / name

    def study_summary(self, study: str, dataset: str) -> Path:
        """What a study's variants give together; outside of `studies/D`, on which its stage depends whole."""
        return self.root / "studies" / "summaries" / dataset / study

    def search(self, dataset: str, architecture: str) -> Path:
        """What a hyper-parameter search found, to be committed with git."""
        return self.root / "searches" / dataset / architecture

    def training_stage(self, dataset: str, architecture: str) -> str:
        """The stage that trains here."""
        return stage_name("train", dataset, architecture)

    def training_record(self, dataset: str, architecture: str) -> Path:
        """The record of a training, where DVC keeps it."""
        return self.model(dataset, architecture) / TRAINING_RECORD

    def run_name(self, architecture: str) -> str:
        """What MLflow calls a training's run."""
        return architecture

    @property
    def run_tags(self) -> dict[str, str]:
        """Tags that tell this workspace's MLflow runs from those of the main run; none for the main run itself."""
        return {}

    def failure(self, stage: str) -> Path:
        """Why a stage failed, for the task that ran it."""
        return self.root / ".failures" / f"{stage}.json"

    def lock(self, name: str) -> Path:
        """A file that processes lock to take turns."""
        return self.root / ".locks" / f"{name}.lock"

    def home_lock(self, name: str) -> Path:
        """A file that processes lock to take turns at what the checkout and its experiments' folders share."""
        return Workspace(self.home).lock(name)

    @property
    def dvc_lock(self) -> Path:
        """DVC's record of what was made from what."""
        return self.root / "dvc.lock"


def _require_usable(checkout: Path) -> None:
    """Check that the checkout's path can be part of a database's address, which `?` ends, and of DVC's progress bars.

    Raises:
        ParamsError: it can't; the line names it.
    """
    path = str(checkout)
    if any(letter in "?{}\x7f" or letter < " " for letter in path):
        raise ParamsError(
            f"the checkout lies at {path!r}: DVC and MLflow's database can't work under a name with ?, {{, }} or "
            "control characters; rename the folder"
        )


def stage_name(stage: str, *of: str | None) -> str:
    """A stage's name as DVC's matrix writes it: `train@idc-cancernet`, `train_variant@idc-cancernet-fold-3`."""
    return f"{stage}@{'-'.join(name for name in of if name)}"
