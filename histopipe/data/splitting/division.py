"""Division of a data set's cases under each scheme; copies of one slide count as one case in all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pandas as pd

from histopipe.core.cases.ids import MOST_NAMED, spell_out
from histopipe.core.params import SplitParams
from histopipe.data.splitting.assignment import assign_cases, assign_folds, assign_patches
from histopipe.data.splitting.canonical import assign_canonical, canonical_cases
from histopipe.data.splitting.classes import class_remedy
from histopipe.data.splitting.copies import JoinedCases, LeftOut, join_copies, settle_known
from histopipe.data.splitting.membership import SPLITS
from histopipe.data.splitting.record import CopiesRecord


@dataclass(frozen=True)
class Division:
    """A division of cases, before it is checked and written.

    Attributes:
        scheme: the scheme with its settings (`split` in `params.yaml`).
        membership: the split's table: columns `case_id,split[,fold]`, or `file,case_id,split`.
        counts: patches and positive patches by case id, joined cases as one.
        joined: case ids that share patches.
        left_out: cases that take no part, since a copy of them belongs to another split.
    """

    scheme: SplitParams
    membership: pd.DataFrame
    counts: pd.DataFrame
    joined: JoinedCases
    left_out: tuple[LeftOut, ...] = ()

    @property
    def remarks(self) -> list[str]:
        """Warnings for the user, one line each."""
        lines = []
        if self.joined.groups:
            how = "and are in several splits" if self.scheme.scheme == "random" else "and count as one case each"
            lines.append(
                f"{len(self.joined.groups)} groups of case ids share patches pixel by pixel ({self.joined.patches:,} "
                f"patches) {how}: {self.joined.shown}"
            )
        if self.left_out:
            named = [
                f"{spell_out(o.case)} ({o.group}) for {spell_out(o.copy)} ({o.stays})"
                for o in self.left_out[:MOST_NAMED]
            ]
            more = len(self.left_out) - len(named)
            lines.append(
                f"{len(self.left_out)} cases are known in another split than a larger copy of them and take no part: "
                + ", ".join([*named, *([f"{more} more"] if more else [])])
            )
        if self.scheme.adds_unlisted:
            unlisted = len(set(self.membership["case_id"]) - set(canonical_cases().index))
            lines.append(
                f"split.unlisted: train adds {unlisted} cases to the published training cases: results aren't "
                "comparable with published ones, and every run is tagged `unlisted_train`"
            )
        return lines

    def remedy(self, before: Collection[str]) -> str:
        """Return the remedy where a split lacks a class.

        `before` holds the cases that kept their split.
        """
        if self.scheme.scheme == "random":
            return "add patches of both classes"
        if self.scheme.scheme == "canonical":
            return "use the complete archive or `scheme: grouped`"
        return class_remedy(self.counts, len(SPLITS), bool(set(before) & set(self.membership["case_id"])))

    def as_json(self) -> CopiesRecord:
        """Return the entries of the split's record."""
        return {
            "joined": [list(group) for group in self.joined.groups],
            "left_out": [left_out.as_json() for left_out in self.left_out],
        }


def divide(dataset: str, scheme: SplitParams, seed: int, index: pd.DataFrame, assigned: Mapping[str, str]) -> Division:
    """Divide the cases of an index.

    Args:
        dataset: the data set's name.
        scheme: the scheme with its settings.
        seed: the number that selects one of many equally good divisions.
        index: the index of the store, without excluded cases.
        assigned: splits (folds under `kfold`) that cases already have and keep.

    Raises:
        SplitError: there are too few cases, or no published lists of them.
    """
    joined = join_copies(index)
    counts = merge_joined(case_counts(index), joined)
    left_out: list[LeftOut] = []
    if scheme.scheme == "random":
        splits = assign_patches(index["file"], _fractions(scheme), seed)
        membership = index[["file", "case_id"]].assign(split=splits).reset_index(drop=True)
    elif scheme.scheme == "canonical":
        membership, left_out = _published(dataset, index, joined, scheme.unlisted)
    elif scheme.scheme == "kfold":
        folds, left_out = divide_folds(index, joined, scheme.folds, seed, assigned)
        membership = fold_membership(folds.set_index("case_id")["fold"], 0, scheme.folds)
    else:
        kept, settled, left_out = _settled(index, joined, assigned)
        groups = assign_cases(merge_joined(kept, joined), _fractions(scheme), seed, settled)
        membership = _by_member(groups, kept.index, joined)
    return Division(scheme, membership, counts, joined, tuple(left_out))


def _fractions(scheme: SplitParams) -> dict[str, float]:
    return {"train": scheme.train, "validation": scheme.validation, "test": scheme.test}


def divide_folds(
    index: pd.DataFrame, joined: JoinedCases, count: int, seed: int, assigned: Mapping[str, str]
) -> tuple[pd.DataFrame, list[LeftOut]]:
    """Return the folds of cases, columns `case_id,fold`, and the cases that take no part.

    Raises:
        SplitError: fewer cases than folds.
    """
    kept, settled, left_out = _settled(index, joined, assigned)
    folds = assign_folds(merge_joined(kept, joined), count, seed, {case: int(fold) for case, fold in settled.items()})
    return _by_member(folds, kept.index, joined), left_out


def _settled(
    index: pd.DataFrame, joined: JoinedCases, assigned: Mapping[str, str]
) -> tuple[pd.DataFrame, dict[str, str], list[LeftOut]]:
    """Return counts of the cases that take part, known groups by first id of joined cases, and the cases that leave."""
    counts = case_counts(index)
    settled, left_out = settle_known(joined, assigned, _sizes(counts))
    alone = {case: group for case, group in assigned.items() if case not in joined.first}
    return counts.drop([leaving.case for leaving in left_out]), alone | settled, left_out


def _by_member(assigned: pd.Series, cases: pd.Index, joined: JoinedCases) -> pd.DataFrame:
    """Expand the groups of joined cases from their first ids to all members."""
    groups = [assigned[joined.first.get(case, case)] for case in cases]
    return pd.DataFrame({"case_id": cases, str(assigned.name): pd.Series(groups, dtype=assigned.dtype)})


def _published(
    dataset: str, index: pd.DataFrame, joined: JoinedCases, unlisted: str
) -> tuple[pd.DataFrame, list[LeftOut]]:
    """Divide cases by the published lists, without copies of cases that are in another split."""
    counts = case_counts(index)
    assigned = assign_canonical(dataset, counts, unlisted)
    listed = {str(case): str(split) for case, split in canonical_cases().items() if case in counts.index}
    settled, left_out = settle_known(joined, listed, _sizes(counts))
    for group in joined.groups:
        stays = settled.get(group[0], "train")
        copy = next((case for case in group if listed.get(case) == stays), "")
        further = [case for case in group if case in assigned.index and case not in listed and stays != "train"]
        left_out += [LeftOut(case, "train", copy, stays) for case in further]
    assigned = assigned.drop([leaving.case for leaving in left_out])
    return assigned.rename_axis("case_id").reset_index(), left_out


def fold_membership(folds: pd.Series, tested: int, count: int) -> pd.DataFrame:
    """Make a split from folds: one tests, the next (after the last, the first) validates, the others train.

    The main run tests fold 0.

    Args:
        folds: fold number by case id.
        tested: the number of the fold that tests.
        count: the number of folds.

    Returns:
        Columns `case_id,split,fold`.
    """
    table = folds.rename("fold").rename_axis("case_id").reset_index()
    named = {tested: "test", (tested + 1) % count: "validation"}
    table.insert(1, "split", table["fold"].map(named).fillna("train"))
    return table


def case_counts(index: pd.DataFrame) -> pd.DataFrame:
    """Count patches and positive patches per case id, sorted by id."""
    grouped = index.groupby("case_id", sort=True)["label"]
    return pd.DataFrame({"patches": grouped.size(), "positives": grouped.sum()})


def _sizes(counts: pd.DataFrame) -> dict[str, int]:
    return {str(case): int(patches) for case, patches in counts["patches"].items()}


def merge_joined(counts: pd.DataFrame, joined: JoinedCases) -> pd.DataFrame:
    """Add up the counts of joined cases under the first id of their group."""
    first = joined.first
    return counts.groupby(lambda case: first.get(case, case), sort=True).sum() if first else counts
