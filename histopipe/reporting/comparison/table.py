"""A comparison as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

from histopipe.core.tables import markdown_cell
from histopipe.data.leakage import LEAKY_NOTE, UNKNOWN_NOTE, leaky_mark
from histopipe.evaluation.case_kinds import KIND_METRICS, KIND_TITLES, evaluated_kinds, missing_kinds_reason
from histopipe.evaluation.delong import LEAST_CASES
from histopipe.evaluation.figures import with_interval
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
    "Trained also on cases that no published list has (`split.unlisted: train`): not the published protocol, and not "
    "comparable with its results"
)


class WithinRow(TypedDict):
    """A model's metrics within cases of one kind.

    Attributes:
        architecture: the model's name, with its marks.
        kind: of the cases, in words.
        cases, patches: of that kind.
        metrics: by name, `within` these cases and of `all`.
    """

    architecture: str
    kind: str
    cases: int
    patches: int
    metrics: dict[str, dict[str, Estimate]]


def as_markdown(content: Comparison) -> str:
    """The comparison as a Markdown table with its footnotes."""
    header = ["", "architecture", *COLUMNS.values(), "threshold", "cases", "patches", "AUC on validation"]
    rule = ["--:", ":--", *[":--"] * len(COLUMNS), "--:", "--:", "--:", "--:"]
    lines = [header, rule, *map(_cells, content["ranking"])]
    table = markdown_table(lines)
    title = f"# {content['dataset']}: comparison on the test split"
    further = [*_within_table(content), *_pairs_table(content), *_published_table(content)]
    parts = [title, table, *further, *footnotes(content)]
    return "\n\n".join(parts) + "\n"


def within_kinds_of(ranking: Sequence[ModelRow]) -> list[WithinRow]:
    """List each model's metrics within cases of one kind beside those of all cases, model by model.

    Args:
        ranking: the rows of a comparison, or results of one evaluation under a name.

    Returns:
        Rows with `architecture`, `kind` (in words), `cases`, `patches`, `metrics`: by name, `within` and `all`.
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
    """The same metrics within cases of one kind; nothing where they would repeat the others."""
    lines = [
        [
            row["architecture"],
            f"{row['kind']}: {row['cases']:,}, {row['patches']:,} patches",
            *(with_interval(row["metrics"][name][which]) for name in KIND_METRICS for which in ("within", "all")),
        ]
        for row in within_kinds_of(content["ranking"])
    ]
    if not lines:
        return []
    titles = [title for name in KIND_METRICS for title in (metric_title(name), f"{metric_title(name)}, all cases")]
    header = ["architecture", "within", *titles]
    return ["## Within cases of one kind", markdown_table([header, [":--"] * len(header), *lines])]


def metric_title(name: str) -> str:
    """Title of a metric: `ROC AUC`, `accuracy`."""
    return COLUMNS.get(name, name.replace("_", " "))


def _pairs_table(content: Comparison) -> list[str]:
    """Every two models, the better one first; nothing where there is one only."""
    if not content["pairs"]:
        return []
    header = ["better less worse", *(COLUMNS[name] for name in COMPARED), "p", "p, corrected", "p by DeLong", ""]
    lines = [_pair_cells(pair) for pair in content["pairs"]]
    return ["## Every two, case by case", markdown_table([header, [":--"] * len(header), *lines])]


def _pair_cells(pair: JudgedPair) -> list[str]:
    differences = [signed(pair["differences"][name]) for name in COMPARED]
    p_values = [
        p_value(pair["differences"][SEPARATING]["p"]),
        *map(p_if_there, (pair["p_corrected"], pair["p_delong"])),
    ]
    return [f"{pair['first']} − {pair['second']}", *differences, *p_values, verdict(pair)]


def verdict(pair: JudgedPair) -> str:
    """Whether two recipes are separable; `descriptive` where a row isn't a recipe."""
    if is_descriptive(pair):
        return "descriptive"
    return "separable" if pair["separable"] else "not separable"


def p_if_there(p: float | None) -> str:
    """A p-value as `p_value` writes it; a dash where none is given."""
    return "–" if p is None else p_value(p)


def p_value(p: float | None) -> str:
    """A p-value as journals print it: `.047`, `< .001`."""
    if p is None:
        return "undefined"
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def signed(measured: Estimate) -> str:
    """A difference and its interval, as `+0.012 [-0.003, +0.027]`."""
    if measured["value"] is None:
        return "undefined"
    return f"{measured['value']:+.3f} [{measured['low']:+.3f}, {measured['high']:+.3f}]"


def _published_table(content: Comparison) -> list[str]:
    """Published figures and ours, line by line; nothing where none are known."""
    here = {row["architecture"]: row["test"] for row in content["ranking"]}
    lines = [
        [
            entry["architecture"],
            title.replace("_", " "),
            f"{value:.3f}",
            ", ".join(filter(None, (entry["split"], entry.get("source")))),
            with_interval(here[entry["architecture"]][title]),
        ]
        for entry in content["published"]
        for title, value in entry["metrics"].items()
    ]
    if not lines:
        return []
    header = ["architecture", "metric", "published", "published split", "here, by case"]
    return [markdown_table([header, [":--"] * len(header), *lines])]


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the heading and its rule first, as a Markdown table."""
    return "\n".join("| " + " | ".join(map(markdown_cell, cells)) + " |" for cells in lines)


def _cells(row: RankedRow) -> list[str]:
    validation = row["validation"]["roc_auc"]
    return [
        ranks(row),
        row["architecture"] + marks(row),
        *(with_interval(row["test"][name]) for name in COLUMNS),
        f"{row['threshold']:.3f}",
        f"{row['cases']:,}",
        f"{row['patches']:,}",
        "undefined" if validation is None else f"{validation:.3f}",
    ]


def ranks(row: RankedRow) -> str:
    """The ranks that a model may have: `2`, or `1–3` among those it can't be told from; a dash if it isn't a recipe."""
    if row["rank_range"] is None:
        return "–"
    first, last = row["rank_range"]
    return str(first) if first == last else f"{first}–{last}"


def marks(row: NamedRow) -> str:
    """Signs that lead to a footnote: `*` the `quick` caps, `!` a split that leaks, `?` perhaps so, `†` more cases.

    The last one is of canonical splits: more than those that the published protocol trains on.
    """
    more = "†" if row.get("unlisted_train") else ""
    return ("\\*" if row.get("quick") else "") + leaky_mark(row.get("leaky")) + more


def footnotes(content: Comparison) -> list[str]:
    """What a reader of the numbers must know, as Markdown."""
    ranking = content["ranking"]
    notes = [
        f"Positive class: {content['positive_class']}; sensitivity is its recall. "
        "In brackets: 95 % intervals from resampling whole cases. Threshold and calibration come from "
        "validation. The order is that of ROC AUC on test; the first column holds the ranks that remain possible.",
        "AUC on validation: after selection, of the cases that chose epoch and calibration; new cases give less.",
    ]
    notes += narrow_intervals(ranking)
    notes += _pair_notes(content)
    notes += _within_notes(ranking[0])
    ensemble = next((row for row in ranking if row["architecture"] == ENSEMBLE), None)
    if ensemble:
        notes.append(f"{ENSEMBLE}: the mean of the log odds of {', '.join(ensemble['members'])}.")
    if any(row["architecture"] == BASELINE for row in ranking):
        notes.append(
            f"{BASELINE}: no network, but a logistic regression on the mean and spread of a patch's red, green and "
            "blue, fitted to the same training patches: what a network reaches beyond it is what it adds."
        )
    if any(row["architecture"].endswith(ONE_VIEW) for row in ranking):
        notes.append("One view: the same network without averaging over the eight symmetries of the square.")
    if any(row["architecture"].endswith(D4) for row in ranking):
        notes.append("D4: the same network averaged over the eight symmetries of the square.")
    if any(row["architecture"].endswith(NEIGHBOURS) for row in ranking):
        notes.append(
            "Neighbours: a logistic regression on the network's probabilities of a patch and of those around it on the "
            "slide, fitted on validation; calibration and threshold from fits without the patch's own case."
        )
    if quick := next((quick for row in ranking if (quick := row.get("quick"))), None):
        caps = ", ".join(f"{name} {value}" for name, value in quick.items() if value is not None)
        notes.append(f"\\* Trained under the caps of `quick` ({caps}): not what the full recipe reaches.")
    notes += leaky_notes(row.get("leaky") for row in ranking)
    if any(row.get("unlisted_train") for row in ranking):
        notes.append(f"† {NOT_PUBLISHED}.")
    if content["implausible"]:
        notes.append(f"**Too good to be true?** {implausible_note(content['implausible'])}.")
    notes += [f"Not ranked: {reason(entry)}." for entry in content["unranked"]]
    return [*notes, f"No {content['no_baseline']}."] if content.get("no_baseline") else notes


def _within_notes(row: ModelRow) -> list[str]:
    """What metrics within cases of one kind are for, or why there are none; the test cases are all models' own."""
    if evaluated_kinds(row):
        return [
            "Within cases that hold positives: a model that tells kinds of case apart, as the slides of healthy and of "
            "infected donors by their stain, gains by that among all cases, and not within these."
        ]
    reason = missing_kinds_reason(row)
    return [f"Within cases that hold positives: {reason}."] if reason else []


def narrow_intervals(rows: Sequence[ModelRow]) -> list[str]:
    """Why intervals may be too narrow, each reason once with the models that it holds for, as Markdown."""
    models: dict[str, list[str]] = {}
    for row in rows:
        for caution in row.get("cautions", ()):
            models.setdefault(caution, []).append(row["architecture"])
    concerned = {
        caution: "" if len(names) == len(rows) else f" ({', '.join(names)})" for caution, names in models.items()
    }
    return [f"**Intervals may be too narrow**{names}: {caution}." for caution, names in concerned.items()]


def leaky_notes(recorded: Iterable[Any]) -> list[str]:
    """The footnotes of `!` and `?`, as far as some model carries them."""
    marks = {leaky_mark(each) for each in recorded}
    return [f"{mark} {note}" for mark, note in (("!", LEAKY_NOTE), ("?", UNKNOWN_NOTE)) if mark in marks]


def _pair_notes(content: Comparison) -> list[str]:
    """How the pairs were compared; nothing where there are none."""
    family = [pair for pair in content["pairs"] if not is_descriptive(pair)]
    notes = []
    if family:
        notes.append(
            f"Two recipes are separable where their areas differ with p < {SIGNIFICANCE:g} after correction "
            f"for {_counted(len(family))} of recipes (step-down maxT); p is how often chance makes it so when the "
            "two models' answers are exchanged in whole cases. The intervals in brackets are without correction."
        )
    if len(family) < len(content["pairs"]):
        notes.append(
            "Rows that are no recipes have a dash for a rank. They are descriptive, as are their pairs: these have "
            "uncorrected p-values and no verdict."
        )
    if content["pairs"]:
        notes.append(
            "DeLong: in Obuchowski's form for patches in cases, as a cross-check; a dash where fewer than "
            f"{LEAST_CASES} cases of either class, or a few large ones, would make it find too much."
        )
    return notes


def _counted(pairs: int) -> str:
    return f"the {pairs} pairs" if pairs > 1 else "the one pair"


def reason(entry: UnrankedRow) -> str:
    """Why an architecture isn't ranked, and the remedy."""
    return f"{entry['architecture']}: {entry['state']}, {entry['reason']}"


def implausible_note(found: ImplausibleModels) -> str:
    """The warning that a number is too good."""
    return (
        f"{', '.join(found['architectures'])}: a ROC AUC above {found['limit']} by case has not been reached honestly "
        "on this data: look for test cases among those trained on, under another name or as copies"
    )
