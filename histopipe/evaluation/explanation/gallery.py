"""The choice of patches for the gallery: most confident right, most confident wrong, and least certain ones."""

from __future__ import annotations

import numpy as np
import pandas as pd

from histopipe.evaluation.calibration import log_odds

RIGHT, WRONG, UNCERTAIN = "most confident right", "most confident wrong", "least certain"
GROUPS = (RIGHT, WRONG, UNCERTAIN)
PER_ROW = 4  # patches per group and class
PER_CASE = 2  # most of these from one case, so that a single slide doesn't fill the row
COLUMNS = ["file", "case_id", "group", "label", "probability"]


def choose_gallery(
    table: pd.DataFrame, threshold: float, per_row: int = PER_ROW, per_case: int = PER_CASE
) -> pd.DataFrame:
    """Choose patches of each group and actual class.

    The certainty of a prediction is the distance of its log odds from those of the threshold. A patch is in one group
    only, and ties are ordered by file name.

    Args:
        table: predictions with `file`, `case_id`, `label`, `probability`, `decision` and any other columns.
        threshold: the probability from which a patch is called positive.
        per_row: maximum number of patches per group and class.
        per_case: maximum number of these patches from one case.

    Returns:
        The chosen rows with a further column `group`, by group, negative patches first, the most extreme first.
    """
    distance = log_odds(table["probability"].to_numpy(dtype=np.float64)) - log_odds(np.array([threshold]))
    patches = table.assign(certainty=np.abs(distance), right=table["label"] == table["decision"])
    confident = [
        _row(patches[(patches["right"] == right) & (patches["label"] == label)], group, False, per_row, per_case)
        for group, right in ((RIGHT, True), (WRONG, False))
        for label in (0, 1)
    ]
    rest = patches.drop(index=pd.concat(confident).index)
    uncertain = [_row(rest[rest["label"] == label], UNCERTAIN, True, per_row, per_case) for label in (0, 1)]
    return pd.concat([*confident, *uncertain]).drop(columns=["certainty", "right"]).reset_index(drop=True)


def _row(part: pd.DataFrame, group: str, ascending: bool, per_row: int, per_case: int) -> pd.DataFrame:
    ordered = part.sort_values(["certainty", "file"], ascending=[ascending, True], kind="stable")
    return ordered[ordered.groupby("case_id").cumcount() < per_case].head(per_row).assign(group=group)
