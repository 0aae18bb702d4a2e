"""The split stage: membership is data, and known cases keep theirs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import pandas as pd

from histopipe.case_ids import case_key, look_alikes, spelt
from histopipe.errors import SplitError
from histopipe.files import write_json, write_text
from histopipe.params import Params, SplitParams
from histopipe.paths import Workspace
from histopipe.splitting.assignment import assign_cases, assign_folds, assign_patches
from histopipe.splitting.canonical import assign_canonical
from histopipe.splitting.membership import SPLITS, assert_disjoint, is_leaky
from histopipe.splitting.record import (
    fold_settings,
    known_cases,
    known_folds,
    require_record,
    under_todays_ids,
    used_settings,
)
from histopipe.splitting.summary import plot_summary, summarise
from histopipe.stage_inputs import require_unchanged_inputs
from histopipe.store import read_index
from histopipe.tables import csv_of

LOG = logging.getLogger(__name__)
MIN_CASES = 3


def split(dataset: str, params: Params, workspace: Workspace) -> pd.DataFrame:
    """Divide a data set's cases and write the membership, its record, a summary, a plot and the folds of a study.

    Returns:
        The summary table: one row per split.

    Raises:
        SplitError: the cases can't be divided as asked, a split would lack a class, or known cases would move
            because their record wasn't pulled.
    """
    index = _taking_part(dataset, params, read_index(workspace.store(dataset)))
    settings = used_settings(params)
    known, earlier = (
        under_todays_ids(recorded, index["case_id"].unique(), workspace.split_record(dataset))
        for recorded in (known_cases(workspace, dataset, settings), known_folds(workspace, dataset, params))
    )
    if params.split.scheme == "kfold":
        known = {case: str(fold) for case, fold in earlier.items()} | known
    membership = _divide(dataset, params.split, params.seed, index, known)
    folds = _folds(params, index, membership, earlier)
    path = workspace.split(dataset)
    assert_disjoint(membership, path)
    summary = summarise(membership, index)
    require_classes(summary, dataset)
    require_record(dataset, as_csv(membership), params, workspace)
    if is_leaky(membership):
        LOG.warning("%s: split.scheme random shares cases between splits; every run it feeds is tagged leaky", dataset)
    groups = {} if "file" in membership else _groups(membership)
    record = {
        "settings": settings,
        "leaky": is_leaky(membership),
        "cases": _sorted(known | groups),
        "folds": {"settings": fold_settings(params), "cases": _sorted(earlier | _by_case(folds))},
        "summary": summary.reset_index().to_dict("records"),
    }
    require_unchanged_inputs()
    _write(workspace, dataset, membership, folds, record, summary)
    return summary


def _sorted(groups: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(groups.items()))


def divide_anew(dataset: str, params: Params, index: pd.DataFrame) -> pd.DataFrame:
    """The membership that a first run with these parameters would give, remembering nothing.

    Raises:
        SplitError: the cases can't be divided as asked, or a split would lack a class.
    """
    taking_part = _taking_part(dataset, params, index)
    membership = _divide(dataset, params.split, params.seed, taking_part, {})
    require_classes(summarise(membership, taking_part), dataset)
    return membership


def _taking_part(dataset: str, params: Params, index: pd.DataFrame) -> pd.DataFrame:
    excluded = _excluded(dataset, params.dataset(dataset).exclude_cases, set(index["case_id"]))
    kept = index[~index["case_id"].isin(excluded)]
    if kept["case_id"].nunique() < MIN_CASES:
        raise SplitError(
            f"{dataset}: {kept['case_id'].nunique()} cases can't be divided into train, validation and test: "
            f"add cases (at least {MIN_CASES}, with both classes in each split)"
        )
    return kept


def _excluded(dataset: str, asked: Iterable[str], present: set[str]) -> set[str]:
    """The cases that `exclude_cases` names, by the ids that they have in the store.

    Raises:
        SplitError: one isn't in the data: a misspelt id would silently leave a case in that the user wants out.
    """
    by_key = {case_key(case): case for case in present}
    named = {name: case for name in asked if (case := name if name in present else by_key.get(case_key(name)))}
    absent = set(asked) - set(named)
    if absent:
        missing = min(absent)
        alike = [case for group in look_alikes({missing, *present}) if missing in group for case in group]
        others = " and ".join(spelt(case) for case in alike if case != missing)
        meant = f", which has {others}: write the id so, in quotes, in" if others else ": correct"
        raise SplitError(f"{dataset}.exclude_cases names {spelt(missing)}, which is not in the data{meant} params.yaml")
    _warn_of_look_alikes(dataset, set(named.values()), present)
    return set(named.values())


def _warn_of_look_alikes(dataset: str, excluded: set[str], present: set[str]) -> None:
    for group in look_alikes(present) if excluded else []:
        out, left = [case for case in group if case in excluded], [case for case in group if case not in excluded]
        if out and left:
            said = "%s.exclude_cases leaves out %s, but not %s, which looks like it: name both if they are one"
            LOG.warning(said, dataset, " and ".join(map(spelt, out)), " and ".join(map(spelt, left)))


def _divide(dataset: str, scheme: SplitParams, seed: int, index: pd.DataFrame, known: dict[str, str]) -> pd.DataFrame:
    fractions = {"train": scheme.train, "validation": scheme.validation, "test": scheme.test}
    cases = case_counts(index)
    if scheme.scheme == "random":
        splits = assign_patches(index["file"], fractions, seed)
        return index[["file", "case_id"]].assign(split=splits).reset_index(drop=True)
    if scheme.scheme == "canonical":
        return assign_canonical(dataset, cases, scheme.unlisted).rename_axis("case_id").reset_index()
    if scheme.scheme == "kfold":
        folds = assign_folds(cases, scheme.folds, seed, {case: int(group) for case, group in known.items()})
        return fold_membership(folds, 0, scheme.folds)
    return assign_cases(cases, fractions, seed, known).rename_axis("case_id").reset_index()


def fold_membership(folds: pd.Series, tested: int, count: int) -> pd.DataFrame:
    """One fold tests, the next (after the last: the first) validates, the others train; the main run tests fold 0.

    Args:
        folds: fold number by case id.
        tested: number of the fold that tests.
        count: how many folds there are.

    Returns:
        Columns `case_id,split,fold`.
    """
    table = folds.rename("fold").rename_axis("case_id").reset_index()
    named = {tested: "test", (tested + 1) % count: "validation"}
    table.insert(1, "split", table["fold"].map(named).fillna("train"))
    return table


def _folds(params: Params, index: pd.DataFrame, membership: pd.DataFrame, known: dict[str, int]) -> pd.DataFrame:
    """Columns `case_id,fold`, the same under every scheme; no rows where there are fewer cases than folds.

    The study of folds is on request: that it isn't possible must not stop the main run.
    """
    if "fold" in membership:
        return membership[["case_id", "fold"]]
    cases = case_counts(index)
    if len(cases) < params.split.folds:
        return pd.DataFrame({"case_id": [], "fold": []})
    folds = assign_folds(cases, params.split.folds, params.seed, known)
    return folds.rename_axis("case_id").reset_index()


def _by_case(folds: pd.DataFrame) -> dict[str, int]:
    return {str(case): int(fold) for case, fold in zip(folds["case_id"], folds["fold"], strict=True)}


def case_counts(index: pd.DataFrame) -> pd.DataFrame:
    """Patches and positive patches per case id, sorted by id."""
    grouped = index.groupby("case_id", sort=True)["label"]
    return pd.DataFrame({"patches": grouped.size(), "positives": grouped.sum()})


def require_classes(summary: pd.DataFrame, dataset: str) -> None:
    """Check that every split of a summary has patches of both classes.

    Raises:
        SplitError: one has not.
    """
    for name in SPLITS:
        row = summary.loc[name]
        if row["positive"] == 0 or row["positive"] == row["patches"]:
            missing = "no patches" if row["patches"] == 0 else "a class missing"
            raise SplitError(
                f"{dataset}: {name} would have {missing} ({row['cases']:.0f} cases, {row['patches']:.0f} patches, "
                f"{row['positive']:.0f} positive): add cases of both classes, or change split or seed"
            )


def _write(
    workspace: Workspace,
    dataset: str,
    membership: pd.DataFrame,
    folds: pd.DataFrame,
    record: dict[str, Any],
    summary: pd.DataFrame,
) -> None:
    """The record goes first: it alone decides what the next run keeps, so a kill in between loses nothing."""
    write_json(workspace.split_record(dataset), record)
    plot_summary(summary, dataset, workspace.split_plot(dataset))
    write_text(workspace.folds(dataset), as_csv(folds))
    write_text(workspace.split(dataset), as_csv(membership))


def as_csv(membership: pd.DataFrame) -> str:
    """The text of a split file."""
    return csv_of(membership)


def _groups(membership: pd.DataFrame) -> dict[str, str]:
    column = "fold" if "fold" in membership else "split"
    return dict(zip(membership["case_id"], membership[column].astype(str), strict=True))
