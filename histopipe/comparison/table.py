"""A comparison as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from histopipe.comparison.combination import D4, ENSEMBLE, ONE_VIEW
from histopipe.comparison.evaluations import Row
from histopipe.comparison.neighbours import NEIGHBOURS
from histopipe.comparison.pairs import COMPARED, SEPARATING, SIGNIFICANCE
from histopipe.evaluation.figures import with_interval
from histopipe.evaluation.intervals import Measured
from histopipe.tables import markdown_cell

COLUMNS = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}


def as_markdown(content: dict[str, Any]) -> str:
    """The comparison as a Markdown table with its footnotes."""
    header = ["", "architecture", *COLUMNS.values(), "threshold", "cases", "patches", "AUC on validation"]
    rule = ["--:", ":--", *[":--"] * len(COLUMNS), "--:", "--:", "--:", "--:"]
    lines = [header, rule, *map(_cells, content["ranking"])]
    table = markdown_table(lines)
    title = f"# {content['dataset']}: comparison on the test split"
    parts = [title, table, *_pairs_table(content), *_published_table(content), *footnotes(content)]
    return "\n\n".join(parts) + "\n"


def _pairs_table(content: Row) -> list[str]:
    """Every two models, the better one first; nothing where there is one only."""
    if not content["pairs"]:
        return []
    header = ["better less worse", *(COLUMNS[name] for name in COMPARED), "p", "p, corrected", "p by DeLong", ""]
    lines = [_pair_cells(pair) for pair in content["pairs"]]
    return ["## Every two, case by case", markdown_table([header, [":--"] * len(header), *lines])]


def _pair_cells(pair: Row) -> list[str]:
    differences = [signed(pair["differences"][name]) for name in COMPARED]
    p_values = [pair["differences"][SEPARATING]["p"], pair["p_corrected"], pair["p_delong"]]
    verdict = "separable" if pair["separable"] else "not separable"
    return [f"{pair['first']} − {pair['second']}", *differences, *map(p_value, p_values), verdict]


def p_value(p: float | None) -> str:
    """A p-value as journals print it: `.047`, `< .001`."""
    if p is None:
        return "undefined"
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def signed(measured: Measured) -> str:
    """A difference and its interval, as `+0.012 [-0.003, +0.027]`."""
    if measured["value"] is None:
        return "undefined"
    return f"{measured['value']:+.3f} [{measured['low']:+.3f}, {measured['high']:+.3f}]"


def _published_table(content: dict[str, Any]) -> list[str]:
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


def _cells(row: Row) -> list[str]:
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


def ranks(row: Row) -> str:
    """The ranks that a model may have: `2`, or `1–3` among those it can't be told from."""
    first, last = row["rank_range"]
    return str(first) if first == last else f"{first}–{last}"


def marks(row: Row) -> str:
    """Signs that lead to a footnote: `*` trained under the `quick` caps, `!` on a split that leaks."""
    return ("\\*" if row.get("quick") else "") + ("!" if row.get("leaky") else "")


def footnotes(content: dict[str, Any]) -> list[str]:
    """What a reader of the numbers must know, as Markdown."""
    ranking = content["ranking"]
    notes = [
        f"Positive class: {content['positive_class']}; sensitivity is its recall. "
        "In brackets: 95 % intervals from resampling whole cases. Threshold and calibration come from "
        "validation. The order is that of ROC AUC on test; the first column holds the ranks that remain possible."
    ]
    if content["pairs"]:
        notes.append(
            "Two models are separable where the difference of their areas, resampled case by case in the same cases, "
            f"has p < {SIGNIFICANCE:g} after Holm's correction for the {len(content['pairs'])} pairs; the intervals in "
            "brackets are without it. DeLong: in Obuchowski's form for patches in cases, as a cross-check."
        )
    ensemble = next((row for row in ranking if row["architecture"] == ENSEMBLE), None)
    if ensemble:
        notes.append(f"{ENSEMBLE}: the mean of the log odds of {', '.join(ensemble['members'])}.")
    if any(row["architecture"].endswith(ONE_VIEW) for row in ranking):
        notes.append("One view: the same network without averaging over the eight symmetries of the square.")
    if any(row["architecture"].endswith(D4) for row in ranking):
        notes.append("D4: the same network averaged over the eight symmetries of the square.")
    if any(row["architecture"].endswith(NEIGHBOURS) for row in ranking):
        notes.append(
            "Neighbours: a logistic regression on the network's probabilities of a patch and of those around it on the "
            "slide, fitted on validation; calibration and threshold from fits without the patch's own case."
        )
    capped = [row for row in ranking if row.get("quick")]
    if capped:
        caps = ", ".join(f"{name} {value}" for name, value in capped[0]["quick"].items() if value is not None)
        notes.append(f"\\* Trained under the caps of `quick` ({caps}): not what the full recipe reaches.")
    if any(row.get("leaky") for row in ranking):
        notes.append("! The split puts patches of one case into training and test: these numbers measure memory.")
    if content["implausible"]:
        notes.append(f"**Too good to be true?** {implausible_note(content['implausible'])}.")
    return notes + [f"Not ranked: {reason(entry)}." for entry in content["unranked"]]


def reason(entry: Row) -> str:
    """Why an architecture isn't ranked, and the remedy."""
    return f"{entry['architecture']}: {entry['state']}, {entry['reason']}"


def implausible_note(found: Row) -> str:
    """The warning that a number is too good."""
    return (
        f"{', '.join(found['architectures'])}: a ROC AUC above {found['limit']} by case has not been reached honestly "
        "on this data: look for test cases among those trained on, under another name or as copies"
    )
