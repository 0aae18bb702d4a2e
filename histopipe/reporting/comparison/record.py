"""The record of a comparison, `comparison.json`, with its rows and pairs."""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired, TypedDict, final

from histopipe.core.errors import EvaluationError
from histopipe.core.files import read_record
from histopipe.core.training_record import CopiedTrainingFields
from histopipe.evaluation.intervals import Estimate
from histopipe.evaluation.record import MetricsRecord, SharedRowFields

COMPARISON_FILE = "comparison.json"


class NamedRow(CopiedTrainingFields):
    """A row with a model's name and the marks that are shown with it."""

    architecture: str


class Member(SharedRowFields):
    """The name and marks of a row that is a member of a combination."""

    architecture: str


class ModelRow(MetricsRecord):
    """One model's metrics with its name.

    Attributes:
        architecture: name of the recipe, or of a row that isn't a recipe.
    """

    architecture: str


@final
class EvaluationRow(MetricsRecord):
    """A `ModelRow` from an evaluation."""

    architecture: str


class RankedRow(ModelRow):
    """A row of the ranking.

    Attributes:
        rank: rank by ROC AUC among the recipes; None for other rows.
        rank_range: first and last rank that the pairs leave possible; None for other rows.
    """

    rank: int | None
    rank_range: list[int] | None


@final
class UnrankedRow(TypedDict):
    """A model that can't be ranked.

    Attributes:
        architecture: the model's name.
        state: the state, such as `not trained`.
        reason: the reason, and the remedy.
    """

    architecture: str
    state: str
    reason: str


class Pair(TypedDict):
    """Two models on the same cases.

    Attributes:
        first, second: their names in the order of the ranking.
        differences: the first model minus the second, by metric.
        p_delong: p-value of the areas by DeLong; None if the test isn't applicable.
        descriptive: whether either of them isn't a recipe.
    """

    first: str
    second: str
    differences: dict[str, Estimate]
    p_delong: float | None
    descriptive: bool


class JudgedPair(Pair):
    """A pair with its verdict.

    Attributes:
        p_corrected: p-value corrected for the number of pairs of recipes; None for descriptive pairs.
        separable: whether the difference is significant; None for descriptive pairs.
    """

    p_corrected: float | None
    separable: bool | None


class ImplausibleModels(TypedDict):
    """Models with a ROC AUC that suggests a leak.

    Attributes:
        limit: the limit that they exceed.
        architectures: their names.
    """

    limit: float
    architectures: list[str]


class PublishedRow(TypedDict):
    """The published results of a recipe on the data set.

    Attributes:
        architecture: the recipe's name.
        split: the published split, `by image` or `by case`.
        metrics: the published metrics by name.
        source: the publication.
    """

    architecture: str
    split: str
    metrics: dict[str, float]
    source: str


class Comparison(TypedDict):
    """The content of `comparison.json`.

    Attributes:
        dataset: the data set's name.
        positive_class: name of the class of label 1.
        ranking: the models, best ROC AUC on test first.
        pairs: all pairs of models.
        implausible: models that are too good to be true; None if there are none.
        unranked: models that can't be ranked, with the reasons.
        no_baseline: why there is no baseline; None if there is one.
        published: published results.
    """

    dataset: str
    positive_class: str
    ranking: list[RankedRow]
    pairs: list[JudgedPair]
    implausible: ImplausibleModels | None
    unranked: list[UnrankedRow]
    no_baseline: NotRequired[str | None]
    published: list[PublishedRow]


def read_comparison(folder: Path) -> Comparison:
    """Read the comparison from a report's folder.

    Raises:
        HistopipeError: the file is missing or damaged.

    Example:
        >>> comparison = read_comparison(Path("reports/idc"))
        >>> [row["architecture"] for row in comparison["ranking"]]
        ['histonet', 'cancernet', 'baseline']
    """
    comparison: Comparison = read_record(folder / COMPARISON_FILE, "comparison", EvaluationError)
    return comparison
