"""The champion as a registered version keeps it: a comparison with it doesn't need the files it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pandas as pd
from scipy.special import expit

from histopipe.core.errors import EvaluationError, HistopipeError, PromotionError
from histopipe.core.files import write_text
from histopipe.core.training_record import read_training_record, write_training_record
from histopipe.core.workspace import TRAINING_RECORD
from histopipe.data.store import PatchStore
from histopipe.evaluation.metrics import Numbers
from histopipe.networks.weights.registered import KEPT, PREDICTIONS, data_of_record, kept_folder
from histopipe.networks.weights.seen_data import cases_seen, pixels_seen
from histopipe.promotion.candidate import Candidate
from histopipe.promotion.card import CARD_FILE
from histopipe.tracking.problems import store_error
from histopipe.tracking.provenance import Provenance
from histopipe.tracking.runs import log_if_changed

if TYPE_CHECKING:
    from histopipe.tracking.entities import MlflowClient, ModelVersion

_PATCH = ["file", "digest"]


@dataclass(frozen=True)
class Champion:
    """A registered version and what its run holds.

    Attributes:
        version: the registered version.
        seen: the cases that it, or a model that its weights come from, was trained or validated on.
        logged: its predictions of the test patches when it was promoted: columns `file,digest,probability`.
        made_from: the data that it was trained on.
        samples: digests of patches that these trainings saw, in the form of `SeenData.samples`.
    """

    version: ModelVersion
    seen: list[str]
    logged: pd.DataFrame
    made_from: Provenance
    samples: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The champion's name in messages."""
        return f"the champion (version {self.version.version} of {self.version.name})"


def log_for_later_promotions(candidate: Candidate, card: str, client: MlflowClient, run_id: str) -> str:
    """Log into a run what later promotions need of its model: the training's record and the test predictions.

    The card is logged with them, into a folder for this candidate alone. A process that is killed can't damage the
    files of another version of the same run, which may be the champion.

    Returns:
        The folder.
    """
    kept = f"{KEPT}/{candidate.identity}"
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_training_record(folder, {**candidate.record, "data": candidate.made_from.as_json()})
        candidate.test[[*_PATCH, "probability"]].to_parquet(folder / PREDICTIONS, index=False)
        write_text(folder / CARD_FILE, card)
        for path in sorted(folder.iterdir()):
            log_if_changed(client, run_id, path, kept)
    return kept


def read_champion(version: ModelVersion, client: MlflowClient) -> Champion:
    """Read the champion's training record and predictions, which `log_for_later_promotions` logged.

    Raises:
        PromotionError: the record or the predictions are missing or damaged.
    """
    kept = kept_folder(version)
    if not {TRAINING_RECORD, PREDICTIONS} <= _kept_files(version, kept, client):
        raise _unknown(version, f"doesn't hold {kept}/{TRAINING_RECORD}")
    with TemporaryDirectory() as scratch:
        folder = Path(client.download_artifacts(str(version.run_id), kept, scratch))
        try:
            record = read_training_record(folder / TRAINING_RECORD)
            seen, logged = cases_seen(record)[record["dataset"]], pd.read_parquet(folder / PREDICTIONS)
            made_from = data_of_record(version, record, folder / PREDICTIONS, client)
            return Champion(version, seen, logged, made_from, pixels_seen(record))
        except (HistopipeError, KeyError, OSError, ValueError):
            raise _unknown(version, f"holds a damaged {kept}/") from None


def _kept_files(version: ModelVersion, kept: str, client: MlflowClient) -> set[str]:
    """List what its run keeps in a folder; nothing if it was registered without a run, or the run is gone."""
    if not version.run_id:
        return set()
    try:
        return {Path(file.path).name for file in client.list_artifacts(version.run_id, kept)}
    except store_error() as problem:
        if problem.error_code == "RESOURCE_DOES_NOT_EXIST":
            return set()
        raise


def _unknown(version: ModelVersion, fault: str) -> PromotionError:
    return PromotionError(
        f"version {version.version} of {version.name} is champion, but its run {version.run_id} {fault}, so the "
        "cases that it was trained on are unknown: restore the run's artifacts from a backup, run `histopipe promote` "
        f"where it was trained, or replace it without a comparison (`histopipe promote … --replace {version.version}`)"
    )


def champion_probabilities(champion: Champion, patches: pd.DataFrame, store: Path) -> Numbers:
    """Return the champion's probability of each patch, (patches,).

    Predictions logged with its version are used if they cover every patch, pixel for pixel; otherwise the registered
    network predicts again.

    Args:
        champion: from `read_champion`.
        patches: columns `file`, `digest` and `row`.
        store: the store that holds the current patches.

    Raises:
        PromotionError: the network is missing, or its predictions aren't numbers.
    """
    logged = patches[_PATCH].merge(champion.logged, on=_PATCH, how="left", validate="one_to_one")["probability"]
    if logged.between(0, 1).all():
        return logged.to_numpy()
    return _predicted(champion, patches, PatchStore.open(store))


def _predicted(champion: Champion, patches: pd.DataFrame, store: PatchStore) -> Numbers:
    """Predict with the registered network; Keras' safe mode runs no code that a registry might hold."""
    from histopipe.networks.logits import finite_logits, load_network
    from histopipe.networks.weights.registered import copy_network

    print(f"{champion.title} predicts {len(patches):,} test patches again", flush=True)
    with TemporaryDirectory() as scratch:
        try:
            file = copy_network(champion.version, Path(scratch))
            if file is None:
                raise PromotionError(f"{champion.title} holds no Keras network: give the alias to another version")
            network = load_network(file)
            logits = finite_logits(network, store, patches["row"].to_numpy(), champion.title)
        except (EvaluationError, OSError) as problem:
            raise PromotionError(f"{champion.title} can't predict: {problem}") from None
    probabilities: Numbers = expit(logits)
    return probabilities
