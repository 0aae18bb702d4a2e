"""What a training works on, decided and checked before TensorFlow is loaded."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from histopipe.core.cases.ids import are_known
from histopipe.core.cases.labels import holds_both_classes
from histopipe.core.errors import TrainingError
from histopipe.core.params import Params, RecipeParams, TrainParams
from histopipe.core.workspace import Workspace
from histopipe.data.leakage import UNKNOWN, WHY_UNKNOWN, Leaky, worst_state
from histopipe.data.sampling import cap_rows
from histopipe.data.splitting.copies import cases_seen_as_pixels
from histopipe.data.splitting.membership import is_leaky, read_split, split_of_patches
from histopipe.data.store import PatchStore, Rows, read_report, require_reading
from histopipe.networks.weights.record import Weights, read_weights
from histopipe.training.recipe import effective_recipe, is_capped

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """One training: what on, what with, and where its checkpoint lies.

    Attributes:
        name: the recipe's name, as in `params.yaml`.
        train_rows, validation_rows: positions in the store's index, perhaps capped.
        validation_cases: all of the split's, capped or not.
        capped: whether the `quick` caps make it less than its recipe.
        split_digest: SHA-256 of the split's file, as the rows were read from it.
        leaky: whether its split shares cases, or its weights have seen some that it tests on: scores measure memory;
            `unknown` where nobody knows what its weights have seen.
        execution: how it runs on the machine, whatever the recipe.
        weights: what the network starts from; None for chance.
        weights_folder: where that lies.
        sharers: how many devices share each batch.
    """

    dataset: str
    name: str
    recipe: RecipeParams
    store: PatchStore
    train_rows: Rows
    validation_rows: Rows
    validation_cases: list[str]
    split_digest: str
    seed: int
    checkpoints: Path
    capped: bool
    leaky: Leaky
    execution: TrainParams
    weights: Weights | None
    weights_folder: Path
    sharers: int = 1

    @property
    def architecture(self) -> str:
        """The architecture that the recipe trains."""
        return self.recipe.architecture or self.name

    @property
    def image_size(self) -> int:
        """Side of the image that the network sees, in pixels."""
        return int(self.recipe.model["image_size"])

    @property
    def title(self) -> str:
        """How people are told of it."""
        return f"{self.dataset} {self.name}"


def plan_training(dataset: str, architecture: str, params: Params, workspace: Workspace) -> Training:
    """Gather what a training works on; the test split stays out of sight."""
    require_reading(workspace.store(dataset), params.case_reading(dataset))
    store = PatchStore.open(workspace.store(dataset))
    split = read_split(workspace.split(dataset))
    splits = split_of_patches(split, store.index)
    limit = params.quick.max_patches if params.quick else None
    image_size = read_report(store.folder)["image_size"]
    weights = read_weights(architecture, params, workspace)
    tested = store.index.loc[splits == "test", "case_id"]
    return Training(
        dataset=dataset,
        name=architecture,
        recipe=effective_recipe(params, architecture, image_size),
        store=store,
        train_rows=_rows(splits, store.index, "train", limit, params.seed),
        validation_rows=_rows(splits, store.index, "validation", limit, params.seed),
        validation_cases=sorted(store.index.loc[splits == "validation", "case_id"].unique()),
        split_digest=split.digest,
        seed=params.seed,
        checkpoints=workspace.checkpoint(dataset, architecture),
        capped=is_capped(params, architecture, image_size, int((splits == "train").sum())),
        leaky=worst_state([is_leaky(split.table), _have_seen(weights, dataset, tested, store.index)]),
        execution=params.train,
        weights=weights,
        weights_folder=workspace.weights(architecture),
    )


def _have_seen(weights: Weights | None, dataset: str, tested: pd.Series, index: pd.DataFrame) -> Leaky:
    """Whether the trainings behind the weights saw cases that are tested on now, under any id; says so."""
    if weights is None:
        return False
    cases, seen = tested.drop_duplicates(), (weights.seen or {}).get(dataset, [])
    shared = set(cases[are_known(cases, seen, dataset)])
    left = set(cases) - shared
    samples = [sample.split() for sample in weights.samples or []]
    if "digest" in index:  # what a seen case holds here tells its copies too, whatever the training recorded
        samples.append(list(index.loc[are_known(index["case_id"], seen, dataset), "digest"]))
    copies = cases_seen_as_pixels(index, left, samples)
    if copies:
        said = "%s: %s was trained on the patches of %d of today's test cases under other ids (first: %s); %s"
        LOG.warning(said, dataset, weights.asked, len(copies), min(copies), "the run is tagged leaky")
    if shared:
        said = "%s: %s was trained on %d of today's test cases (first: %s); the run is tagged leaky"
        LOG.warning(said, dataset, weights.asked, len(shared), min(shared))
    elif not copies and not weights.cases_known:
        LOG.warning("%s: %s (%s); the run is tagged leaky: unknown", dataset, WHY_UNKNOWN, weights.asked)
        return UNKNOWN
    return bool(shared or copies)


def _rows(splits: pd.Series, index: pd.DataFrame, split: str, limit: int | None, seed: int) -> Rows:
    rows = cap_rows(np.flatnonzero((splits == split).to_numpy()), limit, seed)
    if not holds_both_classes(index["label"].iloc[rows]):
        raise TrainingError(f"the {split} split has no patches of both classes: change split or quick.max_patches")
    return rows
