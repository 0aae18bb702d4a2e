"""Selection of the patches that calibrate a file, and of those it is measured on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from histopipe.core.cases.ids import is_among
from histopipe.core.cases.labels import holds_both_classes
from histopipe.core.errors import ExportError
from histopipe.data.splitting.membership import split_of_patches
from histopipe.data.store import PatchStore, Rows
from histopipe.evaluation.cases import joined_cases

CALIBRATION_PATCHES = 300


@dataclass(frozen=True)
class PatchSelection:
    """Selected rows of a store's index.

    Attributes:
        calibration: rows of training cases.
        test: rows of test cases that the model hasn't seen.
        set_aside: the number of test cases that it has seen.
    """

    calibration: Rows
    test: Rows
    set_aside: int


def select_patches(store: PatchStore, split: Path, seen: Collection[str], seed: int) -> PatchSelection:
    """Select calibration patches from the training cases, and the test patches.

    Args:
        store: the data set's store.
        split: the file of its split.
        seen: cases that the model was trained or validated on, as far as known; they are left out of the test.
        seed: the seed that draws the calibration patches.

    Raises:
        ExportError: there are no test patches, or of one class only, or no training patches to calibrate with.
    """
    index = store.index
    splits = split_of_patches(split, index)
    is_seen = _are_seen(index, seen, split.stem).to_numpy()
    is_test = (splits == "test").to_numpy()
    test = np.flatnonzero(is_test & ~is_seen)
    training = np.flatnonzero((splits == "train").to_numpy())
    if not holds_both_classes(index["label"].iloc[test]):
        raise ExportError(
            f"{split}: no test patches of both classes in cases that the model hasn't seen, so the file can't "
            "be measured: give a model trained under this split (`dvc repro`)"
        )
    if not len(training):
        raise ExportError(
            f"{split} has no training patches to calibrate with: run `dvc repro --force split@{split.stem}`"
        )
    calibration = balanced_over_cases(index["case_id"], training, CALIBRATION_PATCHES, seed)
    return PatchSelection(calibration, test, int(index["case_id"][is_test & is_seen].nunique()))


def _are_seen(index: pd.DataFrame, seen: Collection[str], dataset: str) -> pd.Series:
    """Mark the rows of cases that were seen, or of their copies (other ids with the same patches)."""
    is_seen = is_among(index["case_id"], seen, dataset)
    cases = joined_cases(index)
    return is_seen if cases is None else is_seen | cases.isin(cases[is_seen])


def balanced_over_cases(cases: pd.Series, rows: Rows, count: int, seed: int) -> Rows:
    """Draw rows evenly over cases: each case gives one row before any gives a second.

    Args:
        cases: the case id of every row of the index.
        rows: the rows to draw from.
        count: the largest number of rows to draw.
        seed: the seed of the draw.

    Returns:
        The drawn rows, in the store's order.
    """
    drawn = np.random.Generator(np.random.Philox(seed)).permutation(rows)
    turn = cases.iloc[drawn].groupby(cases.iloc[drawn]).cumcount().to_numpy()
    return np.sort(drawn[np.argsort(turn, kind="stable")[:count]])
