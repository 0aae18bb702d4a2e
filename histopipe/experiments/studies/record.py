"""The record of a study: the content of `summary.json`."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from histopipe.core.variants import Study
from histopipe.evaluation.intervals import Estimate
from histopipe.reporting.comparison.record import NamedRow


class VariantRow(TypedDict):
    """The entries that a summary takes from a variant's `metrics.json` (`MetricsRecord`)."""

    test: dict[str, Estimate]
    cases: int
    patches: int
    threshold: float
    run_id: str
    leaky: bool | Literal["unknown"] | None


class StudyRow(NamedRow):
    """The variants of one recipe.

    Attributes:
        variants: the variants by name.
        spread: `mean`, `sd`, `min` and `max` over the variants, by metric.
        mean: mean over folds with its interval, by metric; other studies have none.
    """

    variants: dict[str, VariantRow]
    spread: dict[str, Estimate]
    mean: NotRequired[dict[str, Estimate]]


class StudyDifference(TypedDict):
    """The difference of two recipes, the first less the second, variant by variant.

    Attributes:
        first, second: names of the recipes.
        spread: spread of the differences, by metric, as in `StudyRow`.
        higher: number of variants in which the first is higher, by metric.
        mean: mean over folds with its interval, by metric; other studies have none.
    """

    first: str
    second: str
    spread: dict[str, Estimate]
    higher: dict[str, int]
    mean: NotRequired[dict[str, Estimate]]


class Incomplete(TypedDict):
    """A recipe that lacks a variant.

    Attributes:
        architecture: name of the recipe.
        reason: the missing variant, and the remedy.
    """

    architecture: str
    reason: str


class StudySummary(TypedDict):
    """The content of `summary.json`.

    Attributes:
        dataset: name of the data set.
        study: kind of the variants.
        folds: number of folds that the cases are divided into; None for other studies.
        positive_class: name of the class of label 1.
        ranking: the recipes, best mean ROC AUC first.
        differences: differences of every two of them.
        incomplete: recipes that lack a variant.
    """

    dataset: str
    study: Study
    folds: int | None
    positive_class: str
    ranking: list[StudyRow]
    differences: list[StudyDifference]
    incomplete: list[Incomplete]
