"""What a study tells of its variants: the content of `summary.json`."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from histopipe.core.variants import Study
from histopipe.evaluation.intervals import Measured
from histopipe.reporting.comparison.record import NamedRow


class VariantRow(TypedDict):
    """What a summary takes over from a variant's `metrics.json`, see `MetricsRecord`."""

    test: dict[str, Measured]
    cases: int
    patches: int
    threshold: float
    run_id: str
    leaky: bool | Literal["unknown"] | None


class StudyRow(NamedRow):
    """One recipe's variants.

    Attributes:
        variants: by name.
        spread: `mean`, `sd`, `min` and `max` over the variants, by metric.
        mean: over folds, with its interval, by metric; other studies have none.
    """

    variants: dict[str, VariantRow]
    spread: dict[str, Measured]
    mean: NotRequired[dict[str, Measured]]


class StudyDifference(TypedDict):
    """Two recipes, the first less the second, variant by variant.

    Attributes:
        first, second: their names.
        spread: of the differences, by metric, as in `StudyRow`.
        higher: in how many variants the first is higher, by metric.
        mean: over folds, with its interval, by metric; other studies have none.
    """

    first: str
    second: str
    spread: dict[str, Measured]
    higher: dict[str, int]
    mean: NotRequired[dict[str, Measured]]


class Incomplete(TypedDict):
    """A recipe that lacks a variant.

    Attributes:
        architecture: the recipe's name.
        reason: what is missing, and the remedy.
    """

    architecture: str
    reason: str


class StudySummary(TypedDict):
    """Content of `summary.json`.

    Attributes:
        dataset: the data set's name.
        study: of which variants.
        folds: into how many the cases are divided; None of other studies.
        positive_class: name of the class of label 1.
        ranking: the recipes, best mean ROC AUC first.
        differences: of every two of them.
        incomplete: recipes that lack a variant.
    """

    dataset: str
    study: Study
    folds: int | None
    positive_class: str
    ranking: list[StudyRow]
    differences: list[StudyDifference]
    incomplete: list[Incomplete]
