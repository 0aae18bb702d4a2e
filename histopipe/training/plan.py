"""The plan of a training, made and checked before TensorFlow is loaded."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from histopipe.core.cases.ids import is_among
from histopipe.core.cases.labels import holds_both_classes
from histopipe.core.errors import TrainingError
from histopipe.core.params import Params, RecipeParams, TrainParams
from histopipe.core.workspace import Workspace
from histopipe.data.leakage import UNKNOWN, WHY_UNKNOWN, Leaky, worst_state
from histopipe.data.sampling import cap_rows
from histopipe.data.splitting.copies import cases_seen_as_pixels
from histopipe.data.splitting.membership import is_leaky, read_split, split_of_patches
from histopipe.data.store import PatchStore, Rows, read_store_record, require_reading
from histopipe.networks.weights.record import Weights, read_weights
from histopipe.training.recipe import effective_recipe, is_capped

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """A training: its patches, recipe and starting weights, and the folder of its checkpoint.

    Attributes:
        name: the recipe's name, as in `params.yaml`.
        train_rows, validation_rows: positions in the store's index, perhaps capped.
        validation_cases: all validation cases of the split, capped or not.
        capped: whether the `quick` caps make the training smaller than its recipe.
        split_digest: SHA-256 of the split's file that the rows were read from.
        leaky: whether its split shares cases, or its weights have seen test cases, so that metrics measure memory;
            `unknown` where the cases that its weights have seen aren't recorded.
        execution: its use of the machine, independent of the recipe.
        weights: the weights that the network starts from; None for random ones.
        weights_folder: folder of these weights.
        sharers: number of devices that share each batch.
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
        """The side of the network's input, in pixels."""
        return int(self.recipe.model["image_size"])

    @property
    def title(self) -> str:
        """The name of the training in messages."""
        return f"{self.dataset} {self.name}"


def plan_training(dataset: str, architecture: str, params: Params, workspace: Workspace) -> Training:
    """Gather what a training works on, without looking at the test split's patches."""
    require_reading(workspace.store(dataset), params.case_reading(dataset))
    store = PatchStore.open(workspace.store(dataset))
    split = read_split(workspace.split(dataset))
    splits = split_of_patches(split, store.index)
    limit = params.quick.max_patches if params.quick else None
    image_size = read_store_record(store.folder)["image_size"]
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
        leaky=worst_state([is_leaky(split.table), _saw_test_cases(weights, dataset, tested, store.index)]),
        execution=params.train,
        weights=weights,
        weights_folder=workspace.weights(architecture),
    )


def _saw_test_cases(weights: Weights | None, dataset: str, tested: pd.Series, index: pd.DataFrame) -> Leaky:
    """Return whether the trainings behind the weights saw today's test cases, under any id, and log a warning."""
    if weights is None:
        return False
    cases, seen = tested.drop_duplicates(), (weights.seen or {}).get(dataset, [])
    shared = set(cases[is_among(cases, seen, dataset)])
    left = set(cases) - shared
    samples = [sample.split() for sample in weights.samples or []]
    if "digest" in index:  # a seen case's pixels here identify its copies, too
        samples.append(list(index.loc[is_among(index["case_id"], seen, dataset), "digest"]))
    copies = cases_seen_as_pixels(index, left, samples)
    if copies:
        warning = "%s: %s was trained on the patches of %d of today's test cases under other ids (first: %s); %s"
        LOG.warning(warning, dataset, weights.choice, len(copies), min(copies), "the run is tagged leaky")
    if shared:
        warning = "%s: %s was trained on %d of today's test cases (first: %s); the run is tagged leaky"
        LOG.warning(warning, dataset, weights.choice, len(shared), min(shared))
    elif not copies and not weights.cases_known:
        LOG.warning("%s: %s (%s); the run is tagged leaky: unknown", dataset, WHY_UNKNOWN, weights.choice)
        return UNKNOWN
    return bool(shared or copies)


def _rows(splits: pd.Series, index: pd.DataFrame, split: str, limit: int | None, seed: int) -> Rows:
    rows = cap_rows(np.flatnonzero((splits == split).to_numpy()), limit, seed)
    if not holds_both_classes(index["label"].iloc[rows]):
        raise TrainingError(f"the {split} split has no patches of both classes: change split or quick.max_patches")
    return rows
