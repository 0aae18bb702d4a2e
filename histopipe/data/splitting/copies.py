"""Cases that share patches pixel by pixel: one slide filed under two ids, which must not be in two splits.

Only exact copies are recognised: a slide that was scanned twice, cut on another grid or compressed again has other
digests.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from histopipe.core.cases.ids import MOST_NAMED, spell_out
from histopipe.core.colours import COLOURS

UNIFORM = 8.0  # largest standard deviation of a channel, of 255: below it a patch is blank except for dust or noise
LEAST = 3  # patches that two cases must share to be joined, or
LEAST_SHARE = 0.01  # of the smaller case's patches, so that a single patch that any scanner makes joins nothing
RARE = 5  # cases that share a patch: if there are more, it may be a placeholder, and counts towards LEAST only
SAMPLED_SHARE = 0.5  # of those patches of a case that the sample could hold
PAIRED = (
    200  # cases that share a patch: if there are more, they are compared with the first only, since pairs grow squared
)

_DEVIATIONS = [name for name in COLOURS if name.endswith("_std")]


@dataclass(frozen=True)
class JoinedCases:
    """Groups of case ids that are divided as one case.

    Attributes:
        groups: the groups, each sorted, with two ids or more.
        patches: the number of different patches that several cases of a group share.
    """

    groups: tuple[tuple[str, ...], ...] = ()
    patches: int = 0

    @property
    def first(self) -> dict[str, str]:
        """The first id of the group of each joined id."""
        return {case: group[0] for group in self.groups for case in group}

    @property
    def shown(self) -> str:
        """The groups in words: `8863 = 9999; 12 = 13 = 14; 4 more`."""
        named = [" = ".join(map(spell_out, group)) for group in self.groups[:MOST_NAMED]]
        more = len(self.groups) - len(named)
        return "; ".join([*named, *([f"{more} more"] if more > 0 else [])])


class LeftOutEntry(TypedDict):
    """The entry for a `LeftOut` in a split's record."""

    case: str
    group: str
    copy: str
    stays: str


@dataclass(frozen=True)
class LeftOut:
    """A case that takes no part, since its copy belongs to another split.

    Attributes:
        case: the case that takes no part.
        group: the split or fold that the record has for it.
        copy: the case that stays.
        stays: the split or fold of the case that stays.
    """

    case: str
    group: str
    copy: str
    stays: str

    def as_json(self) -> LeftOutEntry:
        """Return the entry of a split's record."""
        return {"case": self.case, "group": self.group, "copy": self.copy, "stays": self.stays}


def join_copies(index: pd.DataFrame) -> JoinedCases:
    """Join the cases that share patches of equal pixels, directly or through others.

    Two cases are joined if they share `LEAST` different patches that aren't uniform, or `LEAST_SHARE` of the smaller
    one's patches.

    Args:
        index: the index of a store; without digests, as earlier versions wrote it, nothing is joined.
    """
    shared = _shared_patches(index)
    if shared.empty:
        return JoinedCases()
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = _pairs_to_join(shared, index["case_id"].value_counts())
    names = sorted({*first, *second})
    number = {name: position for position, name in enumerate(names)}
    pairs = ([number[case] for case in first], [number[case] for case in second])
    links = coo_array((np.ones(len(first)), pairs), (len(names),) * 2)
    labels = pd.Series(connected_components(links, directed=False)[1] if names else [], index=names, dtype="int64")
    groups = sorted(tuple(part.index) for _, part in labels.groupby(labels))
    within = shared[shared["case_id"].isin(number)]
    return JoinedCases(tuple(groups), int(within["digest"].nunique()))


def _shared_patches(index: pd.DataFrame) -> pd.DataFrame:
    """Return columns `digest,case_id`, each pair once, of patches that aren't uniform and are in several cases."""
    if "digest" not in index:
        return pd.DataFrame({"digest": [], "case_id": []})
    pairs = _varied_patches(index[index["digest"].duplicated(keep=False)])
    return pairs[pairs["digest"].duplicated(keep=False)].reset_index(drop=True)


def _varied_patches(index: pd.DataFrame) -> pd.DataFrame:
    """Return columns `digest,case_id`, each pair once, of patches that aren't uniform."""
    deviations = [name for name in _DEVIATIONS if name in index]
    varied = index[index[deviations].max(axis=1) >= UNIFORM] if deviations else index
    return varied[["digest", "case_id"]].drop_duplicates()


def cases_seen_as_pixels(index: pd.DataFrame, cases: Collection[str], samples: Sequence[Collection[str]]) -> set[str]:
    """Return the cases that a training has seen under whatever id, as far as equal pixels reveal.

    Args:
        index: the index of the store with the cases; it may have other cases, too.
        cases: ids of the cases to look up.
        samples: for each training, the smallest digests of its patches, from its record. A digest that is missing below
            the largest of a sample wasn't in the training, so a sample covers part of each case's patches.

    Returns:
        Those of `cases` that share `LEAST` different patches with a training, none of them uniform, or that share
        `SAMPLED_SHARE` of the patches that the sample could hold and that no more than `RARE` cases have.
    """
    samples = [sample for sample in samples if len(sample)]
    if "digest" not in index or not samples:
        return set()
    patches = _varied_patches(index[index["case_id"].isin(set(cases))])
    holders = _varied_patches(index[index["digest"].isin(set(patches["digest"]))])["digest"].value_counts()
    rare = patches["digest"].map(holders) <= RARE
    return {case for sample in samples for case in _held_by(patches, rare, sample)}


def _held_by(patches: pd.DataFrame, rare: pd.Series, sample: Collection[str]) -> set[str]:
    """Return the cases of which a sample has enough patches; `rare` marks patches that few cases share."""
    within = patches["digest"] <= max(sample)
    held = patches["digest"].isin(set(sample))
    table = pd.DataFrame({"case_id": patches["case_id"], "within": within, "held": held, "rare": held & rare})
    counts = table.groupby("case_id")[["within", "held", "rare"]].sum()
    few = (counts["rare"] > 0) & (counts["rare"] >= SAMPLED_SHARE * counts["within"])
    return set(counts.index[few | (counts["held"] >= LEAST)])


def _pairs_to_join(shared: pd.DataFrame, sizes: pd.Series) -> tuple[Sequence[str], Sequence[str]]:
    """Return the ids of all pairs of cases that share enough: first ids, second ids."""
    cases, names = pd.factorize(shared["case_id"], sort=True)
    digests = pd.factorize(shared["digest"])[0]
    holders = np.bincount(digests)[digests]
    rare = holders <= RARE
    counts = _count_pairs(digests[rare], cases[rare]).rename("rare").to_frame()
    counts = counts.join(_count_pairs(digests[~rare], cases[~rare]).rename("common"), how="outer").fillna(0)
    first, second = (np.asarray(counts.index.get_level_values(level), dtype=np.int64) for level in (0, 1))
    smaller = np.minimum(*(sizes.reindex(names[ids]).to_numpy() for ids in (first, second)))
    enough = counts["rare"].to_numpy() >= np.maximum(1, LEAST_SHARE * smaller)
    enough |= counts.sum(axis=1).to_numpy() >= LEAST
    return list(names[first[enough]]), list(names[second[enough]])


def _count_pairs(digests: np.ndarray[Any, Any], cases: np.ndarray[Any, Any]) -> pd.Series:
    """Count the digests that every pair of cases shares, by their two numbers, the lower one first.

    A product of sparse matrices counts them: for one slide under 200 ids, a table of all pairs would take gigabytes.
    """
    from scipy.sparse import coo_array, triu

    table = pd.DataFrame({"digest": digests, "case": cases})
    firsts = table.groupby("digest")["case"].transform("min")
    many = (table.groupby("digest")["case"].transform("size") > PAIRED).to_numpy()
    shape = (table["case"].max() + 1, table["digest"].max() + 1) if len(table) else (1, 1)
    few = (table["case"][~many], table["digest"][~many])
    held = coo_array((np.ones(len(few[0]), dtype=np.int32), few), shape).tocsr()
    pairs = triu(held @ held.T, k=1).tocoo()
    far = table["case"][many][table["case"][many] > firsts[many]]
    counts = pd.DataFrame(
        {
            "case_x": np.concatenate([pairs.row, firsts[far.index]]),
            "case_y": np.concatenate([pairs.col, far]),
            "count": np.concatenate([pairs.data, np.ones(len(far), dtype=np.int32)]),
        }
    )
    return counts.groupby(["case_x", "case_y"])["count"].sum()


def settle_known(
    joined: JoinedCases, assigned: Mapping[str, str], sizes: Mapping[str, int]
) -> tuple[dict[str, str], list[LeftOut]]:
    """Return where joined cases belong of which some are known, and the cases that must leave.

    If known members of a group are in two splits, the largest keeps its split, and the others take no part, so that no
    network is tested on a copy of a training case.

    Args:
        joined: the groups of joined cases.
        assigned: split or fold of cases that have one already.
        sizes: the number of patches of each case in the data.

    Returns:
        Split or fold by the first id of each group that has known members; and the cases that leave.
    """
    settled: dict[str, str] = {}
    leaving: list[LeftOut] = []
    for group in joined.groups:
        placed = [case for case in group if case in assigned]
        if placed:
            stays = max(placed, key=lambda case: sizes[case])  # the first of equal ones
            target = assigned[stays]
            settled[group[0]] = target
            leaving += [LeftOut(case, assigned[case], stays, target) for case in placed if assigned[case] != target]
    return settled, leaving
