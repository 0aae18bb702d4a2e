"""The Markdown table of a comparison, with footnotes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

from histopipe.core.tables import markdown_cell
from histopipe.data.leakage import LEAKY_NOTE, UNKNOWN_NOTE, leaky_mark
from histopipe.evaluation.case_kinds import KIND_METRICS, KIND_TITLES, evaluated_kinds, missing_kinds_reason
from histopipe.evaluation.delong import LEAST_CASES
from histopipe.evaluation.figures import format_estimate
from histopipe.evaluation.intervals import Estimate
from histopipe.reporting.comparison.baseline import BASELINE
from histopipe.reporting.comparison.combination import D4, ENSEMBLE, ONE_VIEW
from histopipe.reporting.comparison.neighbours import NEIGHBOURS
from histopipe.reporting.comparison.pairs import COMPARED, SEPARATING, SIGNIFICANCE, is_descriptive
from histopipe.reporting.comparison.record import (
    Comparison,
    ImplausibleModels,
    JudgedPair,
    ModelRow,
    NamedRow,
    RankedRow,
    UnrankedRow,
)

COLUMNS = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}

NOT_PUBLISHED = (
    "Also trained on cases that are in no published list (`split.unlisted: train`): not the published protocol, and "
    "not comparable with its results"
)


class WithinRow(TypedDict):
    """A model's metrics within cases of one kind.

    Attributes:
        architecture: the model's name, with its marks.
        kind: the kind of cases, in words.
        cases, patches: number of cases of that kind, and of their patches.
        metrics: metrics by name, `within` these cases and of `all` cases.
    """

    architecture: str
    kind: str
    cases: int
    patches: int
    metrics: dict[str, dict[str, Estimate]]


def as_markdown(content: Comparison) -> str:
    """Format a comparison as a Markdown table with footnotes."""
    header = ["", "architecture", *COLUMNS.values(), "threshold", "cases", "patches", "AUC on validation"]
    rule = ["--:", ":--", *[":--"] * len(COLUMNS), "--:", "--:", "--:", "--:"]
    lines = [header, rule, *map(_cells, content["ranking"])]
    table = markdown_table(lines)
    title = f"# {content['dataset']}: comparison on the test split"
    further = [*_within_table(content), *_pairs_table(content), *_published_table(content)]
    parts = [title, table, *further, *footnotes(content)]
    return "\n\n".join(parts) + "\n"


def within_kinds_of(ranking: Sequence[ModelRow]) -> list[WithinRow]:
    """List each model's metrics within cases of one kind, together with those of all cases.

    Args:
        ranking: the rows of a comparison, or the results of one evaluation with a name.

    Returns:
        Rows with `architecture`, `kind` (in words), `cases`, `patches` and `metrics`, each `within` and of `all` cases.
    """
    return [
        {
            "architecture": row["architecture"] + marks(row),
            "kind": KIND_TITLES[kind],
            "cases": part["cases"],
            "patches": part["patches"],
            "metrics": {name: {"within": metrics[name], "all": row["test"][name]} for name in KIND_METRICS},
        }
        for row in ranking
        for kind, part, metrics in evaluated_kinds(row)
    ]


def _within_table(content: Comparison) -> list[str]:
    """Format the table of metrics within cases of one kind; empty if they would repeat the others."""
    lines = [
        [
            row["architecture"],
            f"{row['kind']}: {row['cases']:,}, {row['patches']:,} patches",
            *(format_estimate(row["metrics"][name][which]) for name in KIND_METRICS for which in ("within", "all")),
        ]
        for row in within_kinds_of(content["ranking"])
    ]
    if not lines:
        return []
    titles = [title for name in KIND_METRICS for title in (metric_title(name), f"{metric_title(name)}, all cases")]
    header = ["architecture", "within", *titles]
    return ["## Within cases of one kind", markdown_table([header, [":--"] * len(header), *lines])]


def metric_title(name: str) -> str:
    """Return the title of a metric, such as `ROC AUC`."""
    return COLUMNS.get(name, name.replace("_", " "))


def _pairs_table(content: Comparison) -> list[str]:
    """Format the table of all pairs, the better model first; empty if there is only one model."""
    if not content["pairs"]:
        return []
    header = ["better − worse", *(COLUMNS[name] for name in COMPARED), "p", "p, corrected", "p by DeLong", ""]
    lines = [_pair_cells(pair) for pair in content["pairs"]]
    return ["## Pairs of models, case by case", markdown_table([header, [":--"] * len(header), *lines])]


def _pair_cells(pair: JudgedPair) -> list[str]:
    differences = [signed(pair["differences"][name]) for name in COMPARED]
    p_values = [
        p_value(pair["differences"][SEPARATING]["p"]),
        *map(p_if_there, (pair["p_corrected"], pair["p_delong"])),
    ]
    return [f"{pair['first']} − {pair['second']}", *differences, *p_values, verdict(pair)]


def verdict(pair: JudgedPair) -> str:
    """State whether two recipes are separable; `descriptive` if a row isn't a recipe."""
    if is_descriptive(pair):
        return "descriptive"
    return "separable" if pair["separable"] else "not separable"


def p_if_there(p: float | None) -> str:
    """Format a p-value like `p_value`, or a dash if there is none."""
    return "–" if p is None else p_value(p)


def p_value(p: float | None) -> str:
    """Format a p-value as journals print it: `.047`, `< .001`.

    Example:
        >>> p_value(0.0471), p_value(0.0004)
        ('.047', '< .001')
    """
    if p is None:
        return "undefined"
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def signed(measured: Estimate) -> str:
    """Format a difference with its interval, such as `+0.012 [-0.003, +0.027]`."""
    if measured["value"] is None:
        return "undefined"
    return f"{measured['value']:+.3f} [{measured['low']:+.3f}, {measured['high']:+.3f}]"


def _published_table(content: Comparison) -> list[str]:
    """Format the table of published results and ours; empty if there are none."""
    here = {row["architecture"]: row["test"] for row in content["ranking"]}
    lines = [
        [
            entry["architecture"],
            title.replace("_", " "),
            f"{value:.3f}",
            ", ".join(filter(None, (entry["split"], entry.get("source")))),
            format_estimate(here[entry["architecture"]][title]),
        ]
        for entry in content["published"]
        for title, value in entry["metrics"].items()
    ]
    if not lines:
        return []
    header = ["architecture", "metric", "published", "published split", "here, by case"]
    return [markdown_table([header, [":--"] * len(header), *lines])]


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Format lines of cells, the heading and its rule first, as a Markdown table."""
    return "\n".join("| " + " | ".join(map(markdown_cell, cells)) + " |" for cells in lines)


def _cells(row: RankedRow) -> list[str]:
    validation = row["validation"]["roc_auc"]
    return [
        format_ranks(row),
        row["architecture"] + marks(row),
        *(format_estimate(row["test"][name]) for name in COLUMNS),
        f"{row['threshold']:.3f}",
        f"{row['cases']:,}",
        f"{row['patches']:,}",
        "undefined" if validation is None else f"{validation:.3f}",
    ]


def format_ranks(row: RankedRow) -> str:
    """Format the range of possible ranks: `2`, `1–3` if models aren't separable, a dash if the row isn't a recipe."""
    if row["rank_range"] is None:
        return "–"
    first, last = row["rank_range"]
    return str(first) if first == last else f"{first}–{last}"


def marks(row: NamedRow) -> str:
    """Return the signs of a row's footnotes.

    `*` marks the caps of `quick`, `!` a leaky split, `?` a possible leak, and `†` training on more cases than the
    published protocol has.
    """
    more = "†" if row.get("unlisted_train") else ""
    return ("\\*" if row.get("quick") else "") + leaky_mark(row.get("leaky")) + more


def footnotes(content: Comparison) -> list[str]:
    """List the notes that a reader of the metrics needs, as Markdown."""
    ranking = content["ranking"]
    notes = [
        f"Positive class: {content['positive_class']}; sensitivity is its recall. "
        "In brackets: 95 % intervals from resampling whole cases. Threshold and calibration come from "
        "validation. Rows are ordered by ROC AUC on test; the first column holds the ranks that remain possible.",
        "AUC on validation: on the cases by which epoch and calibration were chosen, and so higher than on new cases.",
    ]
    notes += narrow_intervals(ranking)
    notes += _pair_notes(content)
    notes += _within_notes(ranking[0])
    ensemble = next((row for row in ranking if row["architecture"] == ENSEMBLE), None)
    if ensemble:
        notes.append(f"{ENSEMBLE}: the mean of the log odds of {', '.join(ensemble['members'])}.")
    if any(row["architecture"] == BASELINE for row in ranking):
        notes.append(
            f"{BASELINE}: a logistic regression, without a network, on the mean and spread of a patch's red, green and "
            "blue, fitted to the same training patches. The difference to it shows what a network adds."
        )
    if any(row["architecture"].endswith(ONE_VIEW) for row in ranking):
        notes.append("One view: the same network without averaging over the eight symmetries of the square.")
    if any(row["architecture"].endswith(D4) for row in ranking):
        notes.append("D4: the same network averaged over the eight symmetries of the square.")
    if any(row["architecture"].endswith(NEIGHBOURS) for row in ranking):
        notes.append(
            "Neighbours: a logistic regression on the network's probabilities of a patch and of those around it on the "
            "slide, fitted on validation. Calibration and threshold come from fits without the patch's case."
        )
    if quick := next((quick for row in ranking if (quick := row.get("quick"))), None):
        caps = ", ".join(f"{name} {value}" for name, value in quick.items() if value is not None)
        notes.append(f"\\* Trained under the caps of `quick` ({caps}): the full recipe gives other results.")
    notes += leaky_notes(row.get("leaky") for row in ranking)
    if any(row.get("unlisted_train") for row in ranking):
        notes.append(f"† {NOT_PUBLISHED}.")
    if content["implausible"]:
        notes.append(f"**Too good to be true?** {implausible_note(content['implausible'])}.")
    notes += [f"Not ranked: {unranked_text(entry)}." for entry in content["unranked"]]
    return [*notes, f"No {content['no_baseline']}."] if content.get("no_baseline") else notes


def _within_notes(row: ModelRow) -> list[str]:
    """Explain the metrics within cases of one kind, or why there are none; all models share the test cases."""
    if evaluated_kinds(row):
        return [
            "Within cases that hold positives: a model that recognises kinds of cases, such as slides of healthy and "
            "of infected donors by their stain, gains from that among all cases, and not within these."
        ]
    reason = missing_kinds_reason(row)
    return [f"Within cases that hold positives: {reason}."] if reason else []


def narrow_intervals(rows: Sequence[ModelRow]) -> list[str]:
    """List why intervals may be too narrow, each reason once with the models concerned, as Markdown."""
    models: dict[str, list[str]] = {}
    for row in rows:
        for caution in row.get("cautions", ()):
            models.setdefault(caution, []).append(row["architecture"])
    concerned = {
        caution: "" if len(names) == len(rows) else f" ({', '.join(names)})" for caution, names in models.items()
    }
    return [f"**Intervals may be too narrow**{names}: {caution}." for caution, names in concerned.items()]


def leaky_notes(recorded: Iterable[Any]) -> list[str]:
    """Return the footnotes of `!` and `?` if any model has these marks; `recorded` are their `leaky` values."""
    marks = {leaky_mark(leaky) for leaky in recorded}
    return [f"{mark} {note}" for mark, note in (("!", LEAKY_NOTE), ("?", UNKNOWN_NOTE)) if mark in marks]


def _pair_notes(content: Comparison) -> list[str]:
    """Explain how the pairs were compared; empty if there are none."""
    family = [pair for pair in content["pairs"] if not is_descriptive(pair)]
    notes = []
    if family:
        notes.append(
            f"Two recipes are separable if their areas differ with p < {SIGNIFICANCE:g} after correction "
            f"for {_counted(len(family))} of recipes (step-down maxT); p is the probability of such a difference when "
            "the two models' predictions are exchanged at random in whole cases. The intervals are not corrected."
        )
    if len(family) < len(content["pairs"]):
        notes.append(
            "Rows that aren't recipes have a dash for a rank. They are descriptive, as are their pairs, which have "
            "uncorrected p-values and no verdict."
        )
    if content["pairs"]:
        notes.append(
            "DeLong: a cross-check in Obuchowski's form for patches in cases. It shows a dash where it would be too "
            f"optimistic: with fewer than {LEAST_CASES} cases of either class, or with a few large cases."
        )
    return notes


def _counted(pairs: int) -> str:
    return f"the {pairs} pairs" if pairs > 1 else "the one pair"


def unranked_text(entry: UnrankedRow) -> str:
    """State why a recipe isn't ranked, with the remedy."""
    return f"{entry['architecture']}: {entry['state']}, {entry['reason']}"


def implausible_note(implausible: ImplausibleModels) -> str:
    """Warn of results that are too good to be true."""
    return (
        f"{', '.join(implausible['architectures'])}: a ROC AUC above {implausible['limit']} by case isn't plausible on "
        "this data: check whether test cases are among the training cases, under another name or as copies"
    )
