"""Format a study as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from histopipe.data.leakage import leaky_mark
from histopipe.evaluation.figures import format_estimate
from histopipe.evaluation.intervals import Estimate
from histopipe.experiments.studies.record import StudyDifference, StudyRow, StudySummary
from histopipe.reporting.comparison.table import COLUMNS, NOT_PUBLISHED, leaky_notes, markdown_table, marks, signed

NOTES = {
    "folds": (
        "In brackets: 95 % intervals from resampling whole cases within each fold; a metric is measured in each fold "
        "and averaged; predictions of different models are never pooled. They are for these models on further cases, "
        "and leave out the effect of another draw of training cases or of another seed.",
        "Differences are taken fold by fold on the same cases; those whose interval includes 0 may be due to chance. "
        "They are not corrected for the number of pairs.",
    ),
    "seeds": (
        "Mean ± standard deviation (lowest to highest) over seeds: how far split and training alone move a number. "
        "Test sets of different seeds overlap and models share training cases, so the deviation divided by the root "
        "of the number of seeds is no standard error, and the mean has no interval; by seed, each number has its own "
        "95 % interval by case.",
        "Differences are taken seed by seed on the same split.",
    ),
    "schemes": (
        "In brackets: 95 % intervals from resampling whole cases. Each scheme divides the same patches again, so test "
        "sets differ and nothing can be paired. What `random` seems to gain over `grouped` is memory of the cases "
        "that it puts into training and test alike, not skill on new ones.",
        "",
    ),
    "sizes": (
        "In brackets: 95 % intervals from resampling whole cases. Validation and test are the main run's throughout, "
        "and the cases of a smaller training set are among those of a larger one. The effect of another choice of "
        "training cases is not in the intervals.",
        "",
    ),
}
AVERAGED = ("folds", "seeds")  # variants that are draws of one thing, so that their mean is meaningful
PLURALS = {"schemes": "schemes of dividing the patches", "sizes": "numbers of training cases", "seeds": "seeds"}


def as_markdown(content: StudySummary) -> str:
    """Format means, the single variants, differences between recipes, and notes on the numbers."""
    study, singular = content["study"], content["study"].removesuffix("s")
    count = len(content["ranking"][0]["variants"])
    means = _table(["architecture", *COLUMNS.values()], [_mean_cells(row, study) for row in content["ranking"]])
    parts = [
        f"# {content['dataset']}: {extent(content)}",
        *([means, f"## By {singular}"] if study in AVERAGED else []),
        _table(["architecture", singular, "cases", "patches", *COLUMNS.values()], _variant_rows(content)),
    ]
    if content["differences"]:
        header = ["first less second", *COLUMNS.values()]
        parts += ["## Differences", _table(header, [_difference_cells(row, count) for row in content["differences"]])]
    return "\n\n".join([*parts, *_footnotes(content)]) + "\n"


def extent(content: StudySummary) -> str:
    """Describe the number of variants: `3 of 5 folds`, `2 seeds`, `4 numbers of training cases`."""
    count = len(content["ranking"][0]["variants"])
    return (
        f"{count} of {content['folds']} folds"
        if content["study"] == "folds"
        else f"{count} {PLURALS[content['study']]}"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table([header, [":--"] * len(header), *rows])


def _mean_cells(row: StudyRow, study: str) -> list[str]:
    shown = [
        format_estimate(row["mean"][name]) if study == "folds" else _spread(row["spread"][name]) for name in COLUMNS
    ]
    return [row["architecture"] + marks(row), *shown]


def _variant_rows(content: StudySummary) -> list[list[str]]:
    return [
        [
            row["architecture"] + marks(row),
            number + (leaky_mark(variant["leaky"]) if not row["leaky"] else ""),
            f"{variant['cases']:,}",
            f"{variant['patches']:,}",
            *(format_estimate(variant["test"][name]) for name in COLUMNS),
        ]
        for row in content["ranking"]
        for number, variant in row["variants"].items()
    ]


def _difference_cells(row: StudyDifference, count: int) -> list[str]:
    return [f"{row['first']} − {row['second']}", *(_difference(row, name, count) for name in COLUMNS)]


def _difference(row: StudyDifference, metric: str, count: int) -> str:
    if row["spread"][metric]["mean"] is None:
        return "undefined"
    higher = f"higher in {row['higher'][metric]} of {count}"
    if "mean" not in row:
        return f"{row['spread'][metric]['mean']:+.3f}, {higher}"
    return f"{signed(row['mean'][metric])}, {higher}"


def _spread(spread: Estimate) -> str:
    if spread["mean"] is None:
        return "undefined"
    if spread["sd"] is None:
        return f"{spread['mean']:.3f}"
    return f"{spread['mean']:.3f} ± {spread['sd']:.3f} ({spread['min']:.3f} to {spread['max']:.3f})"


def _footnotes(content: StudySummary) -> list[str]:
    ranking = content["ranking"]
    about, differences = NOTES[content["study"]]
    notes = [f"Positive class: {content['positive_class']}. {about}"]
    notes += [differences] if content["differences"] else []
    if any(row.get("quick") for row in ranking):
        notes.append("\\* Trained under the caps of `quick`, which the full recipe may exceed.")
    notes += leaky_notes(variant["leaky"] for row in ranking for variant in row["variants"].values())
    if any(row.get("unlisted_train") for row in ranking):
        notes.append(f"† {NOT_PUBLISHED}.")
    return notes + [f"Left out: {row['architecture']}: {row['reason']}." for row in content["incomplete"]]
