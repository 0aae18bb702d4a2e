"""What a split remembers: the settings it was made with and where every case ever assigned belongs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar

import pandas as pd

from histopipe.core.cases.ids import are_known, case_key, normal_id, spelt
from histopipe.core.cases.readings import READING, READINGS, accession_of, reading_entry, recorded_reading
from histopipe.core.errors import SplitError
from histopipe.core.files import read_json, restoring
from histopipe.core.lineage import locked_stage
from histopipe.core.params import Params, SplitParams
from histopipe.core.workspace import Workspace, stage_name
from histopipe.data.splitting.copies import LeftOutEntry

LOG = logging.getLogger(__name__)
_SHARES = ("train", "validation", "test")
_KEYS = {"grouped": _SHARES, "random": _SHARES, "kfold": ("folds",), "canonical": ("unlisted",)}
Settings = dict[str, object]  # values of `params.yaml` by key; which keys there are depends on the scheme
Group = TypeVar("Group", str, int)

_REMEMBERING = ("grouped", "kfold")  # the other schemes place a case without looking at the rest


class CopiesRecord(TypedDict):
    """What a split's record holds of cases that share patches.

    Attributes:
        joined: case ids that share patches, group by group.
        left_out: cases that take no part, since a copy of theirs belongs to another split.
    """

    joined: NotRequired[list[list[str]]]
    left_out: NotRequired[list[LeftOutEntry]]


class FoldsRecord(TypedDict):
    """The folds of a study as a split's record keeps them.

    Attributes:
        settings: that the folds were dealt out with.
        cases: fold by case id, also of cases that have gone since.
    """

    settings: Settings
    cases: dict[str, int]


class SplitCounts(TypedDict):
    """One row of a split's summary.

    Attributes:
        split: `train`, `validation` or `test`.
        cases, patches: in it.
        positive: patches of the positive class.
        positive_share: of the patches, 0 to 1.
    """

    split: str
    cases: int
    patches: int
    positive: int
    positive_share: float


class SplitRecord(CopiesRecord):
    """Content of a split's record, `data/splits/D.json`; what earlier versions didn't write isn't required.

    Attributes:
        settings: that known cases were dealt out with.
        leaky: whether patches of one case stand in several splits.
        unlisted_train: whether training cases were added to the published ones.
        cases: split (of `kfold`, fold) by case id, also of cases that have gone since.
        folds: of a study.
        summary: a row for each split.
    """

    settings: Settings
    leaky: bool
    unlisted_train: NotRequired[bool]
    cases: dict[str, str]
    folds: NotRequired[FoldsRecord]
    summary: list[SplitCounts]


def used_settings(params: Params, dataset: str) -> Settings:
    """What a known case's membership depends on; where it changes, cases are dealt out anew.

    Keys of other schemes are left out: changing one must not move a case.
    """
    scheme = params.split.scheme
    keys = {key: getattr(params.split, key) for key in _KEYS[scheme]}
    seed = {} if scheme == "canonical" else {"seed": params.seed}
    return {"scheme": scheme, **keys, **reading_entry(params.case_reading(dataset)), **seed}


def known_cases(workspace: Workspace, dataset: str, settings: Settings) -> dict[str, str]:
    """Groups of cases assigned before under the same settings, also of cases that have gone since.

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
        said = "%s: known cases were read with `case: %s` and are read with `case: %s` now: all are divided anew"
        LOG.warning(
            said + ", and models of the earlier division are to be trained anew",
            dataset,
            earlier[READING],
            settings[READING],
        )
    return {}


def _with_reading(settings: Settings, cases: Iterable[str], dataset: str) -> Settings:
    """Recorded settings with what counted as a case then, unless the ids are the same whatever that was."""
    if dataset not in READINGS or (READING not in settings and all(accession_of(case) == case for case in cases)):
        return settings
    return {**settings, **reading_entry(recorded_reading(settings, dataset))}


def read_split_record(path: Path) -> SplitRecord:
    """Read a split's record, as `Workspace.split_record` says where it lies.

    Raises:
        HistopipeError: it isn't one.
    """
    record: SplitRecord = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("cases"), dict):
        raise SplitError(f"{path} is not a split's record: {restoring(path)}")
    return record


def copies_of(cases: Iterable[str], dataset: str, workspace: Workspace) -> set[str]:
    """Return the ids that share patches with one of `cases`, as the split's record tells; none without a record.

    Raises:
        HistopipeError: the record can't be read.
    """
    record = workspace.split_record(dataset)
    groups = read_split_record(record).get("joined") or [] if record.exists() else []
    members = pd.Series([case for group in groups for case in group], dtype=object)
    seen = set(members[are_known(members, cases, dataset)]) if len(members) else set()
    return {case for group in groups if seen & set(group) for case in group}


def fold_settings(params: Params, dataset: str) -> Settings:
    """What a known case's fold depends on, whatever the scheme."""
    return {"folds": params.split.folds, "seed": params.seed, **reading_entry(params.case_reading(dataset))}


def known_folds(workspace: Workspace, dataset: str, params: Params) -> dict[str, int]:
    """Folds of cases dealt out before under the same settings, also of cases that have gone since.

    Raises:
        HistopipeError: the record can't be read.
    """
    record = workspace.split_record(dataset)
    before = read_split_record(record).get("folds") if record.exists() else None
    cases = dict(before.get("cases") or {}) if before else {}
    earlier = _with_reading((before.get("settings") or {}) if before else {}, cases, dataset)
    return cases if _fits(earlier, fold_settings(params, dataset)) else {}


def under_todays_ids(known: dict[str, Group], cases: Iterable[str], record: Path) -> dict[str, Group]:
    """What is known of cases, by the ids that they have today.

    An earlier version, or a column of ids that looked otherwise then, may have written a case in another spelling.

    Args:
        known: groups by case id, as they were recorded.
        cases: ids of the cases at hand.
        record: the file, for messages.

    Raises:
        SplitError: two recorded spellings are one case today, and stand in two groups.
    """
    present = set(cases)
    by_key = {case_key(case): case for case in present}
    renamed: dict[str, Group] = {}
    recorded: dict[str, str] = {}
    for spelling, group in known.items():
        case = normal_id(spelling)
        case = case if case in present else by_key.get(case_key(case), case)
        if renamed.setdefault(case, group) != group:
            other = recorded[case]
            raise SplitError(
                f"{record} holds {spelt(other)} ({renamed[case]}) and {spelt(spelling)} ({group}), which are one case: "
                f"delete one of the two lines there, then `dvc repro split@{record.stem}`, and train anew what had "
                "the case in training and is to be tested on it"
            )
        recorded.setdefault(case, spelling)
    return renamed


def _fits(before: Settings, settings: Settings) -> bool:
    """Whether the settings in use had the same values before; a record may hold further ones.

    How cases were read is left out of `before` where ids are the same either way.
    """
    return all(before.get(key, value if key == READING else None) == value for key, value in settings.items())


def require_record(dataset: str, membership: str, params: Params, workspace: Workspace) -> None:
    """Check that no known case moves because the record of where it belongs isn't at hand.

    In a fresh clone `dvc.lock` knows of a split whose record wasn't pulled. Dealing anew is harmless as long as it
    gives the membership that `dvc.lock` names; with data that has grown it would not.

    Args:
        dataset: the data set's name.
        membership: the split file's text, as it would be written.
        params: the parameters of now.
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
            f"{shown} is missing, which says where known cases belong: run `dvc pull {shown}` "
            f"(or delete {stage} from dvc.lock to deal anew)"
        )


def _dealt_otherwise(locked: dict[str, Any], dataset: str, params: Params) -> bool:
    """Whether the recorded split had other settings, or was of drawn cases that real ones have replaced since."""
    recorded = locked.get("params", {}).get("params.yaml", {})
    block = recorded.get(dataset) or {}
    before = SplitParams().model_dump() | (recorded.get("split") or {}) | {"seed": recorded.get("seed")}
    before |= {READING: block["case"]} if block.get("case") else {}
    source = block.get("source")
    drawn_then = source == "synthetic" and params.dataset(dataset).source != "synthetic"
    return drawn_then or not _fits(before, used_settings(params, dataset))


def _relative(workspace: Workspace, path: Path) -> str:
    return path.relative_to(workspace.root).as_posix()
