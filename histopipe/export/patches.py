"""Which patches calibrate a file, and which it is measured on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from histopipe.core.cases.ids import are_known
from histopipe.core.cases.labels import holds_both_classes
from histopipe.core.errors import ExportError
from histopipe.data.splitting.membership import split_of_patches
from histopipe.data.store import PatchStore, Rows
from histopipe.evaluation.cases import joined_cases

CALIBRATION_PATCHES = 300


@dataclass(frozen=True)
class Chosen:
    """Rows of a store's index.

    Attributes:
        calibration: of training cases.
        test: of test cases that the model hasn't seen.
        set_aside: how many test cases it has.
    """

    calibration: Rows
    test: Rows
    set_aside: int


def choose_patches(store: PatchStore, split: Path, seen: Collection[str], seed: int) -> Chosen:
    """Calibration patches of the training cases, and the test patches.

    Args:
        store: of the data set.
        split: its file.
        seen: cases that the model trained or validated on, as far as is known; none of them tests it.
        seed: decides which patches calibrate.

    Raises:
        ExportError: there is nothing to test on, or one class only, or nothing to calibrate by.
    """
    index = store.index
    splits = split_of_patches(split, index)
    known = _are_seen(index, seen, split.stem).to_numpy()
    testing = (splits == "test").to_numpy()
    test = np.flatnonzero(testing & ~known)
    training = np.flatnonzero((splits == "train").to_numpy())
    if not holds_both_classes(index["label"].iloc[test]):
        raise ExportError(
            f"{split}: no test patches of both classes in cases that the model hasn't seen, so nothing to measure the "
            "file on: give a model trained under this split (`dvc repro`)"
        )
    if not len(training):
        raise ExportError(
            f"{split} has no training patches to calibrate by: run `dvc repro --force split@{split.stem}`"
        )
    calibration = balanced_over_cases(index["case_id"], training, CALIBRATION_PATCHES, seed)
    return Chosen(calibration, test, int(index["case_id"][testing & known].nunique()))


def _are_seen(index: pd.DataFrame, seen: Collection[str], dataset: str) -> pd.Series:
    """Tell which rows belong to a case that was seen, or to a copy of one: an id that shares its patches."""
    known = are_known(index["case_id"], seen, dataset)
    cases = joined_cases(index)
    return known if cases is None else known | cases.isin(cases[known])


def balanced_over_cases(cases: pd.Series, rows: Rows, count: int, seed: int) -> Rows:
    """At most `count` of `rows`, one of each case before a second of any, drawn by `seed`; in the store's order.

    Args:
        cases: case id of every row of the index.
    """
    drawn = np.random.Generator(np.random.Philox(seed)).permutation(rows)
    turn = cases.iloc[drawn].groupby(cases.iloc[drawn]).cumcount().to_numpy()
    return np.sort(drawn[np.argsort(turn, kind="stable")[:count]])
