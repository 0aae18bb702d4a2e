"""Which patches to look at: those that the model is surest of, right and wrong, and those it can't decide on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from histopipe.evaluation.calibration import log_odds

RIGHT, WRONG, UNCERTAIN = "most confident right", "most confident wrong", "least certain"
GROUPS = (RIGHT, WRONG, UNCERTAIN)
PER_ROW = 4  # patches of a group and a class
PER_CASE = 2  # of these, so that one slide doesn't fill them
COLUMNS = ["file", "case_id", "group", "label", "probability"]


def choose_gallery(
    table: pd.DataFrame, threshold: float, per_row: int = PER_ROW, per_case: int = PER_CASE
) -> pd.DataFrame:
    """At most `per_row` patches of each group and actual class, at most `per_case` of them from one case.

    How certain a model is of a patch is how far the log odds lie from those of the threshold. A patch is in one
    group only; of equally certain patches those come first whose file names do.

    Args:
        table: graded patches: `file`, `case_id`, `label`, `probability`, `decision` and whatever else they have.
        threshold: at or above which a patch is called positive.

    Returns:
        The rows chosen with a further column `group`, group by group, negative patches first, the most extreme first.
    """
    distance = log_odds(table["probability"].to_numpy(dtype=np.float64)) - log_odds(np.array([threshold]))
    graded = table.assign(certainty=np.abs(distance), right=table["label"] == table["decision"])
    confident = [
        _row(graded[(graded["right"] == right) & (graded["label"] == label)], group, False, per_row, per_case)
        for group, right in ((RIGHT, True), (WRONG, False))
        for label in (0, 1)
    ]
    rest = graded.drop(index=pd.concat(confident).index)
    uncertain = [_row(rest[rest["label"] == label], UNCERTAIN, True, per_row, per_case) for label in (0, 1)]
    return pd.concat([*confident, *uncertain]).drop(columns=["certainty", "right"]).reset_index(drop=True)


def _row(part: pd.DataFrame, group: str, ascending: bool, per_row: int, per_case: int) -> pd.DataFrame:
    ordered = part.sort_values(["certainty", "file"], ascending=[ascending, True], kind="stable")
    return ordered[ordered.groupby("case_id").cumcount() < per_case].head(per_row).assign(group=group)
