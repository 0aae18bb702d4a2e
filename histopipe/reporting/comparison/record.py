"""What a comparison tells of its models: rows, pairs, and `comparison.json`, which holds them."""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired, TypedDict, final

from histopipe.core.errors import EvaluationError
from histopipe.core.files import read_json, restoring
from histopipe.core.training_record import TrainingMarks
from histopipe.evaluation.intervals import Estimate
from histopipe.evaluation.record import EvaluationMarks, MetricsRecord

COMPARISON_FILE = "comparison.json"


class NamedRow(TrainingMarks):
    """Any row that stands under a model's name, with what is marked beside it."""

    architecture: str


class Member(EvaluationMarks):
    """What a row made of other rows takes over from one of them."""

    architecture: str


class ModelRow(MetricsRecord):
    """One model's numbers under its name.

    Attributes:
        architecture: the recipe's name, or what a row that no evaluation made is called.
    """

    architecture: str


@final
class EvaluationRow(MetricsRecord):
    """A `ModelRow` that an evaluation made."""

    architecture: str


class RankedRow(ModelRow):
    """A row of the ranking.

    Attributes:
        rank: by ROC AUC among the recipes; None of other rows.
        rank_range: first and last rank that the pairs leave possible; None of other rows.
    """

    rank: int | None
    rank_range: list[int] | None


@final
class UnrankedRow(TypedDict):
    """A model that can't be ranked.

    Attributes:
        architecture: the model's name.
        state: such as `not trained`.
        reason: why, and the remedy.
    """

    architecture: str
    state: str
    reason: str


class Pair(TypedDict):
    """Two models on the same cases.

    Attributes:
        first, second: their names, the one that stands first in the ranking first.
        differences: first less second, by metric.
        p_delong: of the areas, by DeLong; None where that doesn't hold.
        descriptive: whether one of them is no recipe.
    """

    first: str
    second: str
    differences: dict[str, Estimate]
    p_delong: float | None
    descriptive: bool


class JudgedPair(Pair):
    """A pair with its verdict.

    Attributes:
        p_corrected: for the number of pairs of recipes; None of descriptive pairs.
        separable: whether the two are told apart; None of descriptive pairs.
    """

    p_corrected: float | None
    separable: bool | None


class Implausible(TypedDict):
    """Models whose ROC AUC points to a leak.

    Attributes:
        limit: that they are above.
        architectures: their names.
    """

    limit: float
    architectures: list[str]


class PublishedRow(TypedDict):
    """What others report of a recipe on the data set.

    Attributes:
        architecture: the recipe's name.
        split: `by image` or `by case`.
        metrics: by name.
        source: who reports it.
    """

    architecture: str
    split: str
    metrics: dict[str, float]
    source: str


class Comparison(TypedDict):
    """Content of `comparison.json`.

    Attributes:
        dataset: the data set's name.
        positive_class: name of the class of label 1.
        ranking: the models, best ROC AUC on test first.
        pairs: every two of them.
        implausible: models that are too good to be true; None where there are none.
        unranked: models without numbers, with the reasons.
        no_baseline: why there is no row of colours alone; None where there is one.
        published: what others report.
    """

    dataset: str
    positive_class: str
    ranking: list[RankedRow]
    pairs: list[JudgedPair]
    implausible: Implausible | None
    unranked: list[UnrankedRow]
    no_baseline: NotRequired[str | None]
    published: list[PublishedRow]


def read_comparison(folder: Path) -> Comparison:
    """Read the comparison that lies in a report's folder.

    Raises:
        HistopipeError: the file is missing or damaged.
    """
    path = folder / COMPARISON_FILE
    content: Comparison = read_json(path)
    if not isinstance(content, dict):
        raise EvaluationError(f"{path} holds no comparison: {restoring(path)}")
    return content
