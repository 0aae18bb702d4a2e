"""The data that a model was made from, and its relation to the data in this checkout.

A name such as `mine` doesn't identify the data behind it: two checkouts that share a tracking server may use it for
different patches, or give the same patches opposite labels. So every model carries a sample of the data it was made
from: the smallest digests of its patches' pixels, with their labels. Digests are as good as random, so data that only
grew still holds all of them, data that shares some cases holds its share of them, and other data holds none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from histopipe.core.addresses import is_url, public_source
from histopipe.core.cases.ids import is_among
from histopipe.core.errors import HistopipeError
from histopipe.core.files import file_digest, read_json
from histopipe.core.lineage import output_hash
from histopipe.core.params import read_params
from histopipe.core.training_record import DataRecord
from histopipe.core.workspace import Workspace, stage_name
from histopipe.data.store import INDEX_FILE, read_index, read_store_record
from histopipe.ingest.datasets import get_dataset, list_datasets

DRAWN = "synthetic"  # kind of a source that histopipe draws itself
SAMPLE = 1024  # digests that a model carries; about ten of them remain if a hundredth of the data does
LEAST_SHARED = 4  # fewer may be patches of a single colour, which any data holds
LEAST_AGREEMENT = 0.5  # Cohen's kappa of the labels: corrections of some stay far above, other tasks near 0
LEAST_EQUAL = 0.9  # share of equal labels, where one side has a single label and kappa is undefined

_IDENTITIES = ("sha256", "digest", "checksum", "handle")  # keys of a source's fingerprint that identify the archive

Verdict = Literal["same", "other", "unknown"]


def no_labels() -> pd.Series:
    """Return empty labels."""
    return pd.Series(dtype="int64", index=pd.Index([], dtype="object"))


@dataclass(frozen=True, eq=False)
class Provenance:
    """The known facts about the data that a model was made from, or that is in a checkout.

    Attributes:
        dataset: name of the data set.
        kind: kind of its source: `synthetic`, `archive`, `folder`, `web` or `kaggle`; None where unknown.
        source: the value in `params.yaml`, without credentials; empty where unknown.
        classes: the negative and the positive class; an empty name where unknown.
        archives: identifiers of the raw archive and of the index made of it, such as `sha256:…`.
        capped: whether `quick` capped the training; None for a checkout's data, or where unknown.
        labels: label by digest of the pixels: a sample for a model, all patches for a checkout.
    """

    dataset: str
    kind: str | None = None
    source: str = ""
    classes: tuple[str, str] = ("", "")
    archives: frozenset[str] = frozenset()
    capped: bool | None = None
    labels: pd.Series = field(default_factory=no_labels)

    @property
    def is_synthetic(self) -> bool:
        """Return whether the data is known to be synthetic slides."""
        return self.kind == DRAWN

    @property
    def title(self) -> str:
        """The name of the data in messages: `drawn slides`, `archive /data/mine.zip`."""
        if self.is_synthetic:
            return "drawn slides"
        named = self.source if self.source and self.source != self.kind else ""
        return f"{self.kind or 'data of unknown origin'} {named}".strip()

    def as_json(self) -> DataRecord:
        """Return the content of a record that `from_json` reads."""
        return {
            "data_set": self.dataset,
            "kind": self.kind,
            "source": self.source,
            "classes": list(self.classes),
            "archives": sorted(self.archives),
            "capped": self.capped,
            "digests": " ".join(self.labels.index),
            "labels": "".join(map(str, self.labels)),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Provenance:
        """Read a record.

        Raises:
            ValueError, KeyError, TypeError: the content is no such record.
        """
        negative, positive = content["classes"]
        labels = pd.Series([int(label) for label in content["labels"]], index=content["digests"].split(), dtype="int64")
        return cls(
            str(content["data_set"]),
            content["kind"],
            str(content["source"]),
            (negative, positive),
            frozenset(content["archives"]),
            content["capped"],
            labels,
        )


@dataclass(frozen=True)
class Relation:
    """The relation of a model's data to other data.

    Attributes:
        verdict: `same`, also where patches were only added or removed; `other`; `unknown` where too little is recorded.
        reason: the reason, as a sentence without its full stop.
    """

    verdict: Verdict
    reason: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.reason}"


def relate(model: Provenance, data: Provenance) -> Relation:
    """Compare a model's data with other data, as far as both are recorded.

    Example:
        >>> relate(served.made_from, data_here("mine", workspace)).verdict
        'other'
    """
    if model.dataset and model.dataset != data.dataset:
        return Relation("other", f"it is a model of {model.dataset}, not of {data.dataset}")
    if other_classes(model, data):
        return Relation(
            "other", f"its classes are {_joined_classes(model.classes)}, here they are {_joined_classes(data.classes)}"
        )
    return _relate_by_patches(model, data) or _relate_by_source(model, data)


def other_classes(model: Provenance, data: Provenance) -> bool:
    """Return whether the classes are known on both sides, and differ."""
    return any(own and theirs and own != theirs for own, theirs in zip(model.classes, data.classes, strict=True))


def _joined_classes(classes: Iterable[str]) -> str:
    return " and ".join(name or "?" for name in classes)


def _relate_by_patches(model: Provenance, data: Provenance) -> Relation | None:
    """Compare by the patches that both hold; None where there are too few."""
    shared = model.labels.index.intersection(data.labels.index)
    sampled = len(model.labels)
    if len(shared) < min(LEAST_SHARED, max(1, sampled // 2)):
        return None
    differing = int((model.labels[shared] != data.labels[shared]).sum())
    if differing and _agreement(model.labels[shared], data.labels[shared]) < LEAST_AGREEMENT:
        return Relation("other", f"{differing} of {len(shared)} patches that both hold have other labels here")
    return Relation("same", f"{len(shared)} of {sampled} patches sampled of its data are here")


def _agreement(first: pd.Series, second: pd.Series) -> float:
    """Compute Cohen's kappa of two lists of labels.

    Where one side has a single label, it is 1 if nearly all are equal, else 0.
    """
    from sklearn.metrics import cohen_kappa_score

    if min(first.nunique(), second.nunique()) < 2:
        return float((first == second).mean() >= LEAST_EQUAL)
    return float(cohen_kappa_score(first, second))


def _relate_by_source(model: Provenance, data: Provenance) -> Relation:
    if model.archives & data.archives:
        return Relation("same", "it was made from the same archive")
    if model.is_synthetic and data.is_synthetic:
        return Relation("same", "both are drawn slides")
    if model.kind and data.kind and model.is_synthetic != data.is_synthetic:
        return Relation("other", f"it was made from {model.title}, here are {data.title}")
    if len(model.labels) and len(data.labels):
        return Relation("other", f"none of {len(model.labels)} patches sampled of its data is here")
    return Relation("unknown", "too little is recorded of its data" if not len(model.labels) else "its data isn't here")


def data_of_training(dataset: str, cases: Iterable[str], index: pd.DataFrame, workspace: Workspace) -> Provenance:
    """Describe the data that a training used: a sample of the patches of its training and validation cases.

    Args:
        dataset: name of the data set.
        cases: ids of those cases.
        index: index of the store.
        workspace: workspace of the training.
    """
    used = labels_by_digest(index[is_among(index["case_id"], list(cases))])
    return _describe(dataset, workspace, used.sort_index().head(SAMPLE))


def data_here(dataset: str, workspace: Workspace) -> Provenance:
    """Describe the data in a checkout, as far as there is any.

    Without a store, `synthetic` in `params.yaml` doesn't count: it is the value in every new clone.

    Raises:
        StoreError: there is a store, but it can't be read.
    """
    store = workspace.store(dataset)
    if (store / INDEX_FILE).exists():
        return _describe(dataset, workspace, labels_by_digest(read_index(store, ("digest", "label"))))
    data = _describe(dataset, workspace, no_labels())
    return replace(data, kind=None) if data.is_synthetic else data


def labels_by_digest(index: pd.DataFrame) -> pd.Series:
    """Return the label by digest of the pixels; pixels that carry both labels are left out."""
    pairs = index[["digest", "label"]].drop_duplicates().drop_duplicates("digest", keep=False)
    return pairs.set_index("digest")["label"].astype("int64")


def _describe(dataset: str, workspace: Workspace, labels: pd.Series) -> Provenance:
    kind, source, archives = _source(dataset, workspace)
    return Provenance(dataset, kind, source, _classes(dataset, workspace), archives, None, labels)


def _source(dataset: str, workspace: Workspace) -> tuple[str | None, str, frozenset[str]]:
    """Return kind and value of the source, and the archive's identifiers, as located or as in `params.yaml`."""
    raw = output_hash(workspace, stage_name("fetch", dataset), f"data/raw/{dataset}")
    index = workspace.store(dataset) / INDEX_FILE
    archives = {f"dvc:{raw}"} if raw else set()
    archives |= {f"index:{file_digest(index)}"} if index.exists() else set()
    try:
        located = read_json(workspace.source(dataset))
        fingerprint = located["fingerprint"]
        archives |= {f"{name}:{fingerprint[name]}" for name in _IDENTITIES if fingerprint.get(name)}
        return located["kind"], located["source"], frozenset(archives)
    except (HistopipeError, OSError, KeyError, TypeError, AttributeError):
        return *_named_source(dataset, workspace), frozenset(archives)


def _named_source(dataset: str, workspace: Workspace) -> tuple[str | None, str]:
    try:
        source = read_params(workspace.params).dataset(dataset).source
        return kind_of(source), public_source(source)
    except HistopipeError:
        return None, ""


def kind_of(source: str) -> str:
    """Return the kind of a source that was never located, by its value in `params.yaml`."""
    if source in (DRAWN, "kaggle"):
        return source
    return "web" if is_url(source) else "archive"


def _classes(dataset: str, workspace: Workspace) -> tuple[str, str]:
    """Return the classes from the store, else from the data set's definition."""
    try:
        negative, positive = read_store_record(workspace.store(dataset))["classes"]
        return negative, positive
    except (HistopipeError, OSError, KeyError, TypeError, ValueError):
        pass
    try:
        block = read_params(workspace.params).dataset(dataset)
    except HistopipeError:
        return "", ""
    return get_dataset(dataset).classes if dataset in list_datasets() and not block.manifest else ("", "")
