"""Further rows of the comparison that need no training: an ensemble, and a network without its averaging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logit

from histopipe.evaluation.stage import grade_table, graded_table, locked_point
from histopipe.params import Params
from histopipe.paths import Workspace

Row = dict[str, Any]

ENSEMBLE = "ensemble"
ONE_VIEW = ", one view"
_SUREST = 1e-12  # a probability rounded to 0 or 1 has no log odds
_PATCH = ["file", "case_id", "split", "label"]


def combined_rows(dataset: str, rows: Sequence[Row], params: Params, workspace: Workspace) -> list[Row]:
    """The rows that follow from the architectures' predictions, graded as those are.

    Each is calibrated anew and gets its threshold from validation. `A, one view` is an averaged network that sees each
    patch as it lies; `ensemble` is the mean of all architectures' log odds.

    Args:
        dataset: the data set's name.
        rows: the evaluated architectures, as `read_evaluation` gives them.
        params: rule of the threshold, resamples and seed.
        workspace: where the predictions lie.
    """
    tables = {
        row["architecture"]: table for row in rows if (table := _predictions(dataset, row, workspace)) is not None
    }
    known = {row["architecture"]: row for row in rows}
    combined = [
        _graded(name + ONE_VIEW, table[_PATCH].assign(logit=_log_odds(table["one_view"])), [known[name]], params)
        for name, table in tables.items()
        if "one_view" in table
    ]
    if len(tables) > 1:
        combined.append(
            _graded(ENSEMBLE, ensemble_logits(list(tables.values())), [known[name] for name in tables], params)
        )
    return combined


def _predictions(dataset: str, row: Row, workspace: Workspace) -> pd.DataFrame | None:
    path = workspace.evaluation(dataset, row["architecture"]) / "predictions.parquet"
    return pd.read_parquet(path) if path.is_file() else None


def ensemble_logits(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Mean log odds over several networks' predictions of the same patches.

    Returns:
        Columns `file,case_id,split,label,logit`; only patches that every network predicted.
    """
    odds = [table.set_index("file")["probability"].map(_log_odds) for table in tables]
    mean = pd.concat(odds, axis=1, join="inner").mean(axis=1).rename("logit")
    return tables[0][_PATCH].merge(mean, left_on="file", right_index=True)


def _log_odds(probability: Any) -> Any:
    return logit(np.clip(probability, _SUREST, 1 - _SUREST))


def _graded(name: str, logits: pd.DataFrame, members: Sequence[Row], params: Params) -> Row:
    """Calibrate, choose the threshold and grade, as `evaluate` does; the marks are those of any member."""
    point = locked_point(logits, params.evaluate.threshold) | {"positive_class": members[0]["positive_class"]}
    marks = {mark: next((row[mark] for row in members if row.get(mark)), None) for mark in ("quick", "leaky")}
    graded = grade_table(graded_table(logits, point), point, marks, params)
    return {"architecture": name, "members": [row["architecture"] for row in members], **graded}
