"""What the weights stage leaves behind: a file, and `weights.json`, which says what it is."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from histopipe.core.errors import HistopipeError, WeightsError
from histopipe.core.files import file_digest, read_json, restoring, write_json
from histopipe.core.params import Params
from histopipe.core.workspace import Workspace, stage_name
from histopipe.networks.architectures import network_code

RECORD_FILE = "weights.json"
RANDOM, IMAGENET = "random", "imagenet"


@dataclass(frozen=True)
class Weights:
    """The weights that one recipe's network starts from.

    Attributes:
        asked: `random`, `imagenet`, a path, or `models:/…`, as the recipe has it.
        architecture: that the recipe trains.
        code: digest of the files that draw its network. Training depends on this record, so that it is stale when its
            own architecture changes and not when another does.
        backbone: the feature extractor inside that published files fit; None where there is none.
        file: name of the file beside the record; None for `random`.
        sha256: of the file.
        origin: where it came from: a URL, a path, or model, version and run.
        seen: the cases, by data set, that the trainings behind them trained or validated on, as far as those tell; none
            of a file that nothing is known of.
        unknown: whether some training behind them doesn't tell; None where that isn't written down, as by earlier
            versions: nobody knows then.
        samples: as `Behind.samples`, where there are any.
    """

    asked: str
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
            HistopipeError: it is missing or damaged.
        """
        content = read_json(folder / RECORD_FILE)
        try:
            return cls(**content)
        except TypeError:
            raise WeightsError(
                f"{folder / RECORD_FILE} is no record of weights: run `histopipe weights {folder.name}`"
            ) from None

    def write(self, folder: Path) -> None:
        """Write the record, whole or not at all."""
        write_json(folder / RECORD_FILE, {key: value for key, value in asdict(self).items() if value is not None})

    @property
    def cases_known(self) -> bool:
        """Whether all cases behind them are known: published weights have seen none of ours, chance neither."""
        return self.asked in (RANDOM, IMAGENET) or (bool(self.seen) and self.unknown is False)

    @property
    def summary(self) -> dict[str, str]:
        """What a training's record says of them."""
        shown = {"asked": self.asked, "backbone": self.backbone, "file": self.file, "sha256": self.sha256}
        return {key: value for key, value in (shown | (self.origin or {})).items() if value}

    @property
    def shown(self) -> list[str]:
        """What people are told of them beside what was asked for: the file, and of a registered model the version."""
        version = (self.origin or {}).get("version")
        return [*filter(None, [self.file, f"version {version}" if version else None])]


def code_digest(architecture: str) -> str:
    """Digest of the files that draw an architecture's network."""
    return hashlib.sha256("\n".join(map(file_digest, network_code(architecture))).encode()).hexdigest()


def read_weights(name: str, params: Params, workspace: Workspace) -> Weights | None:
    """The weights that were fetched for the recipe called `name`; None where it asks for random ones.

    Raises:
        WeightsError: they are missing, damaged, or not those that the recipe asks for now.
    """
    asked, folder = params.weights(name), workspace.weights(name)
    if asked == RANDOM:
        return None
    mend = f"run `dvc repro {stage_name('weights', name)}`"
    if not (folder / RECORD_FILE).exists():
        raise WeightsError(f"{folder} is missing: {mend}")
    found = Weights.read(folder)
    if found.asked != asked or not found.file:
        raise WeightsError(f"{folder} holds {found.asked} weights, but recipes.{name} asks for {asked}: {mend}")
    if not (folder / found.file).is_file() or file_digest(folder / found.file) != found.sha256:
        raise WeightsError(f"{folder / found.file} is missing or damaged: {restoring(folder)}")
    return found


def weights_digest(name: str, params: Params, workspace: Workspace) -> str | None:
    """Digest of the file that a recipe's network starts from, as recorded; None where there is none."""
    if params.weights(name) == RANDOM:
        return None
    try:
        return Weights.read(workspace.weights(name)).sha256
    except HistopipeError:
        return None
