"""Assignment of cases to groups. It depends on the cases and the seed alone, and is the same on every machine.

No library's random stream is involved: cases are ordered by a SHA-256 digest of the seed and the id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from histopipe.core.errors import SplitError
from histopipe.data.splitting.classes import cases_by_class

CASES = 2  # index of the share of cases among the three measures
GOOD_ENOUGH = 0.5  # share of the best fit by which a case may be worse, so that the seed has cases to choose from
SHARE_BINS = 3  # cases are assigned bin by bin of their positive share, so that every split gets its part of each


def seeded_rank(name: str, seed: int) -> int:
    """Return a number that orders names at random, but always in the same way for one seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")


def assign_cases(
    cases: pd.DataFrame, fractions: Mapping[str, float], seed: int, assigned: Mapping[str, str] | None = None
) -> pd.Series:
    """Divide cases so that the shares of patches, positives and cases all come close to `fractions`.

    Cases are taken in turn, in a seeded order within bins of positive share and size. Each is assigned to the group
    whose squared shortfall of patches, positive patches and cases shrinks most; the last ones to groups that are still
    empty. If that leaves a group without a class, each group first gets one case of it: if each class has as many cases
    as there are groups, and none is known, every group gets both.

    Args:
        cases: one row per case, indexed by case id, columns `patches` and `positives` (counts).
        fractions: the share of each group; they sum to 1.
        seed: the number that selects one of many equally good divisions.
        assigned: groups that cases already have and keep.

    Returns:
        Group name per case id, in the order of `cases`.

    Example:
        >>> index = PatchStore.open(Path("data/store/idc")).index
        >>> assign_cases(case_counts(index), {"train": 0.7, "validation": 0.15, "test": 0.15}, seed=42)
    """
    before = {str(case): group for case, group in (assigned or {}).items() if case in cases.index}
    dealt = _deal(cases, fractions, seed, before)
    missing = _missing(cases, dealt, fractions)
    for classes in ([name for name, groups in missing.items() if groups], list(missing)):
        if not any(missing.values()):
            break
        first = _one_to_each(cases, fractions, seed, before, classes)
        again = _deal(cases, fractions, seed, first)
        left = _missing(cases, again, fractions)
        no_fewer = len(set(again.values())) >= len(set(dealt.values()))
        if no_fewer and sum(map(len, left.values())) < sum(map(len, missing.values())):
            dealt, missing = again, left
    return pd.Series([dealt[str(case)] for case in cases.index], index=cases.index, dtype=object, name="split")


def _deal(cases: pd.DataFrame, fractions: Mapping[str, float], seed: int, before: Mapping[str, str]) -> dict[str, str]:
    """Assign every case to a group, one after the other, each to the neediest."""
    measures = _measures(cases)
    assigned = dict(before)
    filled = _filled(assigned, measures, fractions)
    waiting = [case for case in _dealing_order(cases, seed) if case not in assigned]
    for number, case in enumerate(waiting):
        empty = [group for group in fractions if filled[group][CASES] == 0]
        open_groups = empty if len(waiting) - number <= len(empty) else list(fractions)
        assigned[case] = _neediest(open_groups, filled, measures[case], fractions)
        _fill(filled[assigned[case]], measures[case])
    return assigned


def _missing(cases: pd.DataFrame, assigned: Mapping[str, str], groups: Iterable[str]) -> dict[str, list[str]]:
    """Return the groups without a case of each class, by class."""
    missing = {}
    for name, members in cases_by_class(cases).items():
        present = {assigned[case] for case in members if case in assigned}
        missing[name] = [group for group in groups if group not in present]
    return missing


def _one_to_each(
    cases: pd.DataFrame, fractions: Mapping[str, float], seed: int, before: Mapping[str, str], classes: Sequence[str]
) -> dict[str, str]:
    """Assign one further case of each of `classes` to every group that lacks it.

    Small groups choose first, among the cases that fit their share best. A group that already has one of the classes
    takes a case of a single class if it can: a case with both may be the only one that helps another group.

    Returns:
        The groups of the cases in `before` and of the further ones.
    """
    measures, held = _measures(cases), cases_by_class(cases)
    order, assigned = _dealing_order(cases, seed), dict(before)
    both = set(held["negative"]) & set(held["positive"])
    for name in sorted(classes, key=lambda name: len(held[name])):
        lacking = _missing(cases, assigned, fractions)[name]
        enough = len(set(held[name]) - set(assigned)) >= len(lacking)  # else the first groups come first
        for group in sorted(lacking, key=lambda group: (fractions[group], seeded_rank(group, seed) if enough else 0)):
            able = set(held[name]) - set(assigned)
            if waiting := [case for case in order if case in able]:
                lacks_both = all(group in groups for groups in _missing(cases, assigned, fractions).values())
                preferred = [case for case in waiting if (case in both) == lacks_both] or waiting
                filled = _filled(assigned, measures, fractions)[group]
                gains = {case: round(_gain(filled, measures[case], fractions[group]), 12) for case in preferred}
                assigned[_one_of_the_best(gains, seed)] = group
    return assigned


def _one_of_the_best(gains: Mapping[str, float], seed: int) -> str:
    best = max(gains.values())
    fitting = [case for case, gain in gains.items() if gain >= best - GOOD_ENOUGH * abs(best)]
    return min(fitting, key=lambda case: seeded_rank(case, seed))


def _filled(
    assigned: Mapping[str, str], measures: Mapping[str, tuple[float, float, float]], groups: Iterable[str]
) -> dict[str, list[float]]:
    filled = {group: [0.0, 0.0, 0.0] for group in groups}
    for case, group in assigned.items():
        _fill(filled[group], measures[case])
    return filled


def _measures(cases: pd.DataFrame) -> dict[str, tuple[float, float, float]]:
    """Compute each case's share of all patches, all positive patches and all cases."""
    patches, positives = max(1, int(cases["patches"].sum())), max(1, int(cases["positives"].sum()))
    rows = zip(cases.index, cases["patches"], cases["positives"], strict=True)
    return {str(case): (int(n) / patches, int(p) / positives, 1 / len(cases)) for case, n, p in rows}


def _fill(group: list[float], measure: tuple[float, float, float]) -> None:
    for number, value in enumerate(measure):
        group[number] += value


def _dealing_order(cases: pd.DataFrame, seed: int) -> list[str]:
    """Sort large cases before small ones, by powers of two, so that late ones even out the shares."""
    keys = {}
    for case, patches, positives in zip(cases.index, cases["patches"], cases["positives"], strict=True):
        share_bin = min(SHARE_BINS - 1, int(SHARE_BINS * int(positives) / max(1, int(patches))))
        keys[str(case)] = (-int(patches).bit_length(), share_bin, seeded_rank(str(case), seed))
    return sorted(keys, key=lambda case: keys[case])


def _neediest(
    groups: Sequence[str],
    filled: Mapping[str, list[float]],
    measure: tuple[float, float, float],
    fractions: Mapping[str, float],
) -> str:
    """Return the group whose shortfall, relative to its share, falls most by taking a case of that measure."""

    def gain(group: str) -> tuple[float, int]:
        return round(_gain(filled[group], measure, fractions[group]), 12), seeded_rank(group, 0)

    return max(groups, key=gain)


def _gain(filled: Sequence[float], measure: tuple[float, float, float], share: float) -> float:
    """Compute how much a group's squared shortfalls, relative to its share, shrink by taking a case of that measure."""
    shortfalls = ((share - has, share - has - adds) for has, adds in zip(filled, measure, strict=True))
    return sum(before**2 - after**2 for before, after in shortfalls) / share


def assign_folds(cases: pd.DataFrame, folds: int, seed: int, assigned: Mapping[str, int] | None = None) -> pd.Series:
    """Divide cases into `folds` equal parts; return the fold number, from 0, per case id.

    Raises:
        SplitError: fewer cases than folds.
    """
    if len(cases) < folds:
        raise SplitError(f"{len(cases)} cases can't fill {folds} folds: lower split.folds or add cases")
    names = {str(fold): 1 / folds for fold in range(folds)}
    before = {case: str(fold) for case, fold in (assigned or {}).items()}
    return assign_cases(cases, names, seed, before).astype(int).rename("fold")


def assign_patches(files: pd.Series, fractions: Mapping[str, float], seed: int) -> pd.Series:
    """Divide single patches at random, as the tutorials do, which leaks cases between splits."""
    order = sorted(files, key=lambda file: seeded_rank(file, seed))
    groups: dict[str, str] = {}
    start = 0
    for group, end in _ends(fractions, len(order)):
        groups.update(dict.fromkeys(order[start:end], group))
        start = end
    return files.map(groups).rename("split")


def _ends(fractions: Mapping[str, float], count: int) -> list[tuple[str, int]]:
    ends, total = [], 0.0
    for group, share in fractions.items():
        total += share
        ends.append((group, round(total * count)))
    return ends
