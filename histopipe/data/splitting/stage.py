"""The split stage: membership is data, and known cases keep their split."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pandas as pd

from histopipe.core.cases.ids import case_key, look_alikes, spell_out
from histopipe.core.cases.readings import Reading, accession_of, siblings
from histopipe.core.errors import SplitError
from histopipe.core.files import write_json, write_text
from histopipe.core.params import Params
from histopipe.core.stages.inputs import require_unchanged_inputs
from histopipe.core.tables import format_csv
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.classes import require_classes, warn_of_few_cases
from histopipe.data.splitting.copies import join_copies
from histopipe.data.splitting.division import Division, case_counts, divide, divide_folds, fold_membership, merge_joined
from histopipe.data.splitting.membership import assert_disjoint, is_leaky
from histopipe.data.splitting.record import (
    Group,
    SplitCounts,
    SplitRecord,
    fold_settings,
    known_cases,
    known_folds,
    require_record,
    used_settings,
    with_current_ids,
)
from histopipe.data.splitting.summary import plot_summary, summarise
from histopipe.data.store import read_index, require_reading

__all__ = ["as_csv", "divide_from_scratch", "fold_membership", "require_classes", "split"]
LOG = logging.getLogger(__name__)
MIN_CASES = 3


def split(dataset: str, params: Params, workspace: Workspace) -> pd.DataFrame:
    """Divide a data set's cases and write the membership, its record, a summary, a plot and the folds of a study.

    Returns:
        The summary table: one row per split.

    Raises:
        SplitError: the cases can't be divided as `params.yaml` asks, a split would lack a class, or known cases would
            move because their record wasn't pulled.
        StoreError: there is no index, or its cases were read otherwise than `params.yaml` asks.
    """
    require_reading(workspace.store(dataset), params.case_reading(dataset))
    index = _taking_part(dataset, params, read_index(workspace.store(dataset)))
    settings = used_settings(params, dataset)
    before, earlier = (
        with_current_ids(recorded, index["case_id"].unique(), workspace.split_record(dataset))
        for recorded in (known_cases(workspace, dataset, settings), known_folds(workspace, dataset, params))
    )
    if params.split.scheme == "kfold":
        before = {case: str(fold) for case, fold in earlier.items()} | before
    divided = divide(dataset, params.split, params.seed, index, before)
    membership = divided.membership
    folds = _folds(params, index, divided, earlier)
    assert_disjoint(membership, workspace.split(dataset))
    summary = summarise(membership, index)
    require_classes(summary, dataset, divided.remedy(before))
    require_record(dataset, as_csv(membership), params, workspace)
    _tell(dataset, divided, index)
    groups = {} if "file" in membership else _groups(membership)
    record: SplitRecord = {
        "settings": settings,
        "leaky": is_leaky(membership),
        "unlisted_train": params.split.adds_unlisted,
        "cases": _sorted(before | groups),
        "folds": {"settings": fold_settings(params, dataset), "cases": _sorted(earlier | _by_case(folds))},
        **divided.as_json(),
        "summary": _rows(summary),
    }
    require_unchanged_inputs()
    _write(workspace, dataset, membership, folds, record, summary)
    return summary


def _rows(summary: pd.DataFrame) -> list[SplitCounts]:
    return [
        {
            "split": str(split),
            "cases": int(row["cases"]),
            "patches": int(row["patches"]),
            "positive": int(row["positive"]),
            "positive_share": float(row["positive_share"]),
        }
        for split, row in summary.iterrows()
    ]


def _sorted(groups: dict[str, Group]) -> dict[str, Group]:
    return dict(sorted(groups.items()))


def _tell(dataset: str, divided: Division, index: pd.DataFrame) -> None:
    """Warn of a division's weaknesses before anything is trained with it."""
    membership = divided.membership
    for line in divided.remarks:
        LOG.warning("%s: %s", dataset, line)
    if is_leaky(membership):
        LOG.warning("%s: split.scheme random shares cases between splits; every run it feeds is tagged leaky", dataset)
    else:
        warn_of_few_cases(dataset, membership, index, divided.joined.first)


def divide_from_scratch(dataset: str, params: Params, index: pd.DataFrame) -> pd.DataFrame:
    """Return the membership that a first run with these parameters would give, without a record.

    Raises:
        SplitError: the cases can't be divided as `params.yaml` asks, or a split would lack a class.
    """
    taking_part = _taking_part(dataset, params, index)
    divided = divide(dataset, params.split, params.seed, taking_part, {})
    require_classes(summarise(divided.membership, taking_part), dataset, divided.remedy({}))
    return divided.membership


def _taking_part(dataset: str, params: Params, index: pd.DataFrame) -> pd.DataFrame:
    excluded = _excluded(
        dataset, params.dataset(dataset).exclude_cases, set(index["case_id"]), params.case_reading(dataset)
    )
    _warn_of_copies(dataset, excluded, index)
    kept = index[~index["case_id"].isin(excluded)]
    if kept["case_id"].nunique() < MIN_CASES:
        raise SplitError(
            f"{dataset}: {kept['case_id'].nunique()} cases can't be divided into train, validation and test: "
            f"add cases (at least {MIN_CASES}, with both classes in each split)"
        )
    return kept


def _warn_of_copies(dataset: str, excluded: set[str], index: pd.DataFrame) -> None:
    for group in join_copies(index).groups if excluded else ():
        out, left = [case for case in group if case in excluded], [case for case in group if case not in excluded]
        if out and left:
            LOG.warning(
                "%s.exclude_cases leaves out %s, but not %s, which has the same patches: name both",
                dataset,
                " and ".join(map(spell_out, out)),
                " and ".join(map(spell_out, left)),
            )


def _excluded(dataset: str, excluded: Iterable[str], present: set[str], reading: Reading | None) -> set[str]:
    """Return the cases that `exclude_cases` names, by their ids in the store.

    Raises:
        SplitError: an id isn't in the data: a misspelt id would silently keep a case that the user excludes.
    """
    by_key = {case_key(case): case for case in present}
    named = {name: case for name in excluded if (case := name if name in present else by_key.get(case_key(name)))}
    absent = set(excluded) - set(named)
    if absent:
        missing = min(absent)
        alike = [case for group in look_alikes({missing, *present}) if missing in group for case in group]
        others = " and ".join(spell_out(case) for case in alike if case != missing)
        meant = f", which has {others}: write the id so, in quotes, in" if others else ": correct"
        meant = _meant_by_reading(missing, present, reading) or meant
        raise SplitError(
            f"{dataset}.exclude_cases names {spell_out(missing)}, which is not in the data{meant} params.yaml"
        )
    _warn_of_look_alikes(dataset, set(named.values()), present)
    _warn_of_siblings(dataset, set(named.values()), present, reading)
    return set(named.values())


def _warn_of_look_alikes(dataset: str, excluded: set[str], present: set[str]) -> None:
    for group in look_alikes(present) if excluded else []:
        out, left = [case for case in group if case in excluded], [case for case in group if case not in excluded]
        if out and left:
            LOG.warning(
                "%s.exclude_cases leaves out %s, but not %s, which looks like it: name both if they are one case",
                dataset,
                " and ".join(map(spell_out, out)),
                " and ".join(map(spell_out, left)),
            )


def _folds(params: Params, index: pd.DataFrame, divided: Division, before: dict[str, int]) -> pd.DataFrame:
    """Return columns `case_id,fold`, the same under every scheme; no rows where there are fewer cases than folds.

    The study of folds is optional: if it isn't possible, the main run must not stop.
    """
    if "fold" in divided.membership:
        return divided.membership[["case_id", "fold"]]
    if len(merge_joined(case_counts(index), divided.joined)) < params.split.folds:
        return pd.DataFrame({"case_id": [], "fold": []})
    named = {case: str(fold) for case, fold in before.items()}
    return divide_folds(index, divided.joined, params.split.folds, params.seed, named)[0]


def _by_case(folds: pd.DataFrame) -> dict[str, int]:
    return {str(case): int(fold) for case, fold in zip(folds["case_id"], folds["fold"], strict=True)}


def _meant_by_reading(missing: str, present: set[str], reading: Reading | None) -> str:
    """Suggest the id that an absent one may mean under the reading in use; empty if there is none."""
    alike = siblings(missing, present) if reading else []
    if not alike:
        return ""
    return f", where `case: {reading}` makes it {' and '.join(alike)}: write the id so, in quotes, in"


def _warn_of_siblings(dataset: str, excluded: set[str], present: set[str], reading: Reading | None) -> None:
    """Warn of an excluded accession number that is also the id of one patient among several of that number."""
    for case in sorted(excluded) if reading else ():
        left = [other for other in siblings(case, present) if other not in excluded]
        if left and accession_of(case) == case:
            LOG.warning(
                "%s.exclude_cases leaves out %s, but not %s of the same accession number: name them if all are meant",
                dataset,
                case,
                " and ".join(left),
            )


def _write(
    workspace: Workspace,
    dataset: str,
    membership: pd.DataFrame,
    folds: pd.DataFrame,
    record: SplitRecord,
    summary: pd.DataFrame,
) -> None:
    """Write the record first, since it alone decides what the next run keeps: a kill in between loses nothing."""
    write_json(workspace.split_record(dataset), record)
    plot_summary(summary, dataset, workspace.split_plot(dataset))
    write_text(workspace.folds(dataset), as_csv(folds))
    write_text(workspace.split(dataset), as_csv(membership))


def as_csv(membership: pd.DataFrame) -> str:
    """Return the text of a split file."""
    return format_csv(membership)


def _groups(membership: pd.DataFrame) -> dict[str, str]:
    column = "fold" if "fold" in membership else "split"
    return dict(zip(membership["case_id"], membership[column].astype(str), strict=True))
