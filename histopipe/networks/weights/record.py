"""The record of the weights stage: a file, and `weights.json`, which describes it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from histopipe.core.errors import HistopipeError, WeightsError
from histopipe.core.files import file_digest, read_json, restore_command, write_json
from histopipe.core.params import Params
from histopipe.core.workspace import Workspace, stage_name
from histopipe.networks.architectures import network_code

RECORD_FILE = "weights.json"
CHOICE_KEY = "asked"  # key of `Weights.choice` in the file
RANDOM, IMAGENET = "random", "imagenet"


@dataclass(frozen=True)
class Weights:
    """The weights that one recipe's network starts from.

    Attributes:
        choice: `random`, `imagenet`, a path, or `models:/…`, as in the recipe.
        architecture: the architecture that the recipe trains.
        code: digest of the files that build its network. Training depends on this record, so that it is stale when its
            own architecture changes and not when another does.
        backbone: the feature extractor inside that published files fit; None where there is none.
        file: name of the file next to the record; None for `random`.
        sha256: digest of the file.
        origin: origin of the file: a URL, a path, or model, version and run.
        seen: the cases that earlier trainings of the weights trained or validated on, by data set, as far as recorded;
            empty for a file without any record.
        unknown: whether an earlier training of the weights isn't recorded; None in records of earlier versions, which
            don't state it.
        samples: digests of pixels as in `SeenData.samples`, where there are any.
    """

    choice: str
    architecture: str
    code: str
    backbone: str | None = None
    file: str | None = None
    sha256: str | None = None
    origin: dict[str, str] | None = None
    seen: dict[str, list[str]] | None = None
    unknown: bool | None = None
    samples: list[str] | None = None

    @classmethod
    def read(cls, folder: Path) -> Weights:
        """Read the record in `folder`.

        Raises:
            HistopipeError: the record is missing or damaged.
        """
        content = read_json(folder / RECORD_FILE)
        try:
            return cls(**{"choice" if key == CHOICE_KEY else key: value for key, value in content.items()})
        except (TypeError, AttributeError):
            raise WeightsError(
                f"{folder / RECORD_FILE} is no record of weights: run `histopipe weights {folder.name}`"
            ) from None

    def write(self, folder: Path) -> None:
        """Write the record atomically."""
        content = {CHOICE_KEY if key == "choice" else key: value for key, value in asdict(self).items()}
        write_json(folder / RECORD_FILE, {key: value for key, value in content.items() if value is not None})

    @property
    def cases_known(self) -> bool:
        """Return whether all cases behind the weights are known; published and random ones have seen none of ours."""
        return self.choice in (RANDOM, IMAGENET) or (bool(self.seen) and self.unknown is False)

    @property
    def summary(self) -> dict[str, str]:
        """The description of the weights in a training's record."""
        shown = {CHOICE_KEY: self.choice, "backbone": self.backbone, "file": self.file, "sha256": self.sha256}
        return {key: value for key, value in (shown | (self.origin or {})).items() if value}

    @property
    def shown(self) -> list[str]:
        """The details shown after the choice: the file, and for a registered model the version."""
        version = (self.origin or {}).get("version")
        return [*filter(None, [self.file, f"version {version}" if version else None])]


def code_digest(architecture: str) -> str:
    """Compute a digest of the files that build an architecture's network."""
    return hashlib.sha256("\n".join(map(file_digest, network_code(architecture))).encode()).hexdigest()


def read_weights(name: str, params: Params, workspace: Workspace) -> Weights | None:
    """Read the record of the weights fetched for the recipe `name`; None where it starts from random ones.

    Raises:
        WeightsError: the weights are missing, damaged, or not those that the recipe names now.
    """
    choice, folder = params.weights(name), workspace.weights(name)
    if choice == RANDOM:
        return None
    remedy = f"run `dvc repro {stage_name('weights', name)}`"
    if not (folder / RECORD_FILE).exists():
        raise WeightsError(f"{folder} is missing: {remedy}")
    weights = Weights.read(folder)
    if weights.choice != choice or not weights.file:
        raise WeightsError(f"{folder} holds {weights.choice} weights, but recipes.{name} names {choice}: {remedy}")
    if not (folder / weights.file).is_file() or file_digest(folder / weights.file) != weights.sha256:
        raise WeightsError(f"{folder / weights.file} is missing or damaged: {restore_command(folder)}")
    return weights


def weights_digest(name: str, params: Params, workspace: Workspace) -> str | None:
    """Return the recorded digest of the file that a recipe's network starts from; None where there is none."""
    if params.weights(name) == RANDOM:
        return None
    try:
        return Weights.read(workspace.weights(name)).sha256
    except HistopipeError:
        return None
