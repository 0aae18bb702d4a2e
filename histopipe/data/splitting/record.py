"""The record of a split: the settings it was made with and the split of every case ever assigned."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar

import pandas as pd

from histopipe.core.cases.ids import case_key, is_among, normal_id, spell_out
from histopipe.core.cases.readings import READING, READINGS, accession_of, reading_entry, recorded_reading
from histopipe.core.errors import SplitError
from histopipe.core.files import read_json, restore_command
from histopipe.core.lineage import locked_stage
from histopipe.core.params import Params, SplitParams
from histopipe.core.workspace import Workspace, stage_name
from histopipe.data.splitting.copies import LeftOutEntry

LOG = logging.getLogger(__name__)
_SHARES = ("train", "validation", "test")
_KEYS = {"grouped": _SHARES, "random": _SHARES, "kfold": ("folds",), "canonical": ("unlisted",)}
Settings = dict[str, object]  # values of `params.yaml` by key; which keys there are depends on the scheme
Group = TypeVar("Group", str, int)

_REMEMBERING = ("grouped", "kfold")  # the other schemes assign a case independently of the others


class CopiesRecord(TypedDict):
    """The part of a split's record about cases that share patches.

    Attributes:
        joined: groups of case ids that share patches.
        left_out: cases that take no part, since a copy of them belongs to another split.
    """

    joined: NotRequired[list[list[str]]]
    left_out: NotRequired[list[LeftOutEntry]]


class FoldsRecord(TypedDict):
    """The folds of a study in a split's record.

    Attributes:
        settings: the settings that the folds were made with.
        cases: the fold by case id, including cases that are gone by now.
    """

    settings: Settings
    cases: dict[str, int]


class SplitCounts(TypedDict):
    """One row of a split's summary.

    Attributes:
        split: `train`, `validation` or `test`.
        cases, patches: numbers of cases and patches in the split.
        positive: the number of patches of the positive class.
        positive_share: the share of positive patches, 0 to 1.
    """

    split: str
    cases: int
    patches: int
    positive: int
    positive_share: float


class SplitRecord(CopiesRecord):
    """The content of a split's record, `data/splits/DATASET.json`; keys that earlier versions lack aren't required.

    Attributes:
        settings: the settings that known cases were divided with.
        leaky: whether patches of one case are in several splits.
        unlisted_train: whether training cases were added to the published ones.
        cases: the split (under `kfold`, the fold) by case id, including cases that are gone by now.
        folds: the folds of a study.
        summary: one row per split.
    """

    settings: Settings
    leaky: bool
    unlisted_train: NotRequired[bool]
    cases: dict[str, str]
    folds: NotRequired[FoldsRecord]
    summary: list[SplitCounts]


def used_settings(params: Params, dataset: str) -> Settings:
    """Return the settings that decide a known case's split; where one changes, all cases are divided again.

    Keys of other schemes are left out: changing one must not move a case.
    """
    scheme = params.split.scheme
    keys = {key: getattr(params.split, key) for key in _KEYS[scheme]}
    seed = {} if scheme == "canonical" else {"seed": params.seed}
    return {"scheme": scheme, **keys, **reading_entry(params.case_reading(dataset)), **seed}


def known_cases(workspace: Workspace, dataset: str, settings: Settings) -> dict[str, str]:
    """Return the groups of cases assigned before under the same settings, including cases that are gone by now.

    Raises:
        HistopipeError: the record can't be read.
    """
    record = workspace.split_record(dataset)
    if not record.exists():
        return {}
    before = read_split_record(record)
    cases, earlier = dict(before["cases"]), _with_reading(before.get("settings") or {}, before["cases"], dataset)
    if _fits(earlier, settings):
        return cases
    if _fits(earlier | {READING: settings.get(READING)}, settings):
        LOG.warning(
            "%s: known cases were read with `case: %s` and are read with `case: %s` now: all are divided again, and "
            "models of the earlier division have to be trained again",
            dataset,
            earlier[READING],
            settings[READING],
        )
    return {}


def _with_reading(settings: Settings, cases: Iterable[str], dataset: str) -> Settings:
    """Add the reading of cases to recorded settings, unless the ids are the same under every reading."""
    if dataset not in READINGS or (READING not in settings and all(accession_of(case) == case for case in cases)):
        return settings
    return {**settings, **reading_entry(recorded_reading(settings, dataset))}


def read_split_record(path: Path) -> SplitRecord:
    """Read a split's record; `Workspace.split_record` returns its path.

    Raises:
        HistopipeError: the file isn't a split's record.
    """
    record: SplitRecord = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("cases"), dict):
        raise SplitError(f"{path} is not a split's record: {restore_command(path)}")
    return record


def find_copies(cases: Iterable[str], dataset: str, workspace: Workspace) -> set[str]:
    """Return the ids that share patches with one of `cases`, by the split's record; none without a record.

    Raises:
        HistopipeError: the record can't be read.
    """
    record = workspace.split_record(dataset)
    groups = read_split_record(record).get("joined") or [] if record.exists() else []
    members = pd.Series([case for group in groups for case in group], dtype=object)
    seen = set(members[is_among(members, cases, dataset)]) if len(members) else set()
    return {case for group in groups if seen & set(group) for case in group}


def fold_settings(params: Params, dataset: str) -> Settings:
    """Return the settings that decide a known case's fold, whatever the scheme."""
    return {"folds": params.split.folds, "seed": params.seed, **reading_entry(params.case_reading(dataset))}


def known_folds(workspace: Workspace, dataset: str, params: Params) -> dict[str, int]:
    """Return the folds of cases assigned before under the same settings, including cases that are gone by now.

    Raises:
        HistopipeError: the record can't be read.
    """
    record = workspace.split_record(dataset)
    before = read_split_record(record).get("folds") if record.exists() else None
    cases = dict(before.get("cases") or {}) if before else {}
    earlier = _with_reading((before.get("settings") or {}) if before else {}, cases, dataset)
    return cases if _fits(earlier, fold_settings(params, dataset)) else {}


def with_current_ids(groups: dict[str, Group], cases: Iterable[str], record: Path) -> dict[str, Group]:
    """Return known groups by the ids that the cases have today.

    An earlier version, or another column of ids, may have written a case in another spelling.

    Args:
        groups: groups by case id, as they were recorded.
        cases: ids of the cases in the data.
        record: the record's path, for messages.

    Raises:
        SplitError: two recorded spellings are one case today, and are in two groups.
    """
    present = set(cases)
    by_key = {case_key(case): case for case in present}
    renamed: dict[str, Group] = {}
    recorded: dict[str, str] = {}
    for spelling, group in groups.items():
        case = normal_id(spelling)
        case = case if case in present else by_key.get(case_key(case), case)
        if renamed.setdefault(case, group) != group:
            other = recorded[case]
            raise SplitError(
                f"{record} holds {spell_out(other)} ({renamed[case]}) and {spell_out(spelling)} ({group}), which are "
                f"one case: delete one of the two lines there, then run `dvc repro split@{record.stem}`, and train the "
                "models again that had the case in training and will be tested on it"
            )
        recorded.setdefault(case, spelling)
    return renamed


def _fits(before: Settings, settings: Settings) -> bool:
    """Return whether the settings in use had the same values before; a record may hold further ones.

    `before` lacks the reading of cases where ids are the same under both readings.
    """
    return all(before.get(key, value if key == READING else None) == value for key, value in settings.items())


def require_record(dataset: str, membership: str, params: Params, workspace: Workspace) -> None:
    """Check that no known case moves because the split's record is missing.

    In a fresh clone, `dvc.lock` names a split whose record wasn't pulled. Dividing again is harmless as long as it
    gives the membership that `dvc.lock` names; with data that has grown it would not.

    Args:
        dataset: the data set's name.
        membership: the new text of the split file.
        params: the current parameters.
        workspace: the checkout.

    Raises:
        SplitError: the record is missing and cases would move.
    """
    path = workspace.split_record(dataset)
    locked = None if path.exists() else locked_stage(workspace, stage_name("split", dataset))
    if locked is None or params.split.scheme not in _REMEMBERING or _dealt_otherwise(locked, dataset, params):
        return
    outputs = {out["path"]: out.get("md5") for out in locked.get("outs") or []}
    recorded = outputs.get(_relative(workspace, workspace.split(dataset)))
    if recorded not in (None, hashlib.md5(membership.encode(), usedforsecurity=False).hexdigest()):
        shown = _relative(workspace, path)
        stage = stage_name("split", dataset)
        raise SplitError(
            f"{shown} is missing, which records the split of known cases: run `dvc pull {shown}` "
            f"(or delete {stage} from dvc.lock to divide all cases again)"
        )


def _dealt_otherwise(locked: dict[str, Any], dataset: str, params: Params) -> bool:
    """Return whether the recorded split had other settings, or synthetic cases that real ones have replaced since."""
    recorded = locked.get("params", {}).get("params.yaml", {})
    block = recorded.get(dataset) or {}
    before = SplitParams().model_dump() | (recorded.get("split") or {}) | {"seed": recorded.get("seed")}
    before |= {READING: block["case"]} if block.get("case") else {}
    source = block.get("source")
    drawn_then = source == "synthetic" and params.dataset(dataset).source != "synthetic"
    return drawn_then or not _fits(before, used_settings(params, dataset))


def _relative(workspace: Workspace, path: Path) -> str:
    return path.relative_to(workspace.root).as_posix()
