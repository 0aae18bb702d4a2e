"""What a comparison with the reference says, for people and for programs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from histopipe.core.params import MonitorParams
from histopipe.core.tables import markdown_cell
from histopipe.evaluation.drift.features import DESCRIBED
from histopipe.inference.record import ScoreSummary
from histopipe.monitoring.comparison import Comparison
from histopipe.monitoring.record import DriftFeature, DriftSummary

STRANGE_CASES = 20  # listed in the report; the table has them all


def summary_of(comparison: Comparison, graded: ScoreSummary, params: MonitorParams) -> DriftSummary:
    """Content of `drift.json`.

    Args:
        comparison: of the new cases with the reference.
        graded: content of the grading's `summary.json`.
        params: the limits.
    """
    return {
        "verdict": comparison.verdict,
        "said": _said(comparison, graded["data_set"], params),
        "data_set": graded["data_set"],
        "model": graded["model"],
        "model_id": graded.get("model_id"),
        "limits": params.model_dump(),
        "cases": len(comparison.cases),
        "patches": int(comparison.cases["patches"].sum()),
        "cases_of_too_few_patches": comparison.left_out,
        "cases_known_to_the_reference": comparison.known,
        "set_aside": sum(reason["count"] for reason in graded["set_aside"].values()),
        "features": [_feature(row) for row in comparison.features.to_dict("records")],
    }


def _feature(row: Mapping[Hashable, Any]) -> DriftFeature:
    return {
        "feature": str(row["feature"]),
        "distance": float(row["distance"]),
        "chance": float(row["chance"]),
        "drifted": bool(row["drifted"]),
        "reference_cases": int(row["reference_cases"]),
        "reference": float(row["reference"]),
        "new": float(row["new"]),
    }


def _said(comparison: Comparison, dataset: str, params: MonitorParams) -> str:
    """One line; that of drift begins with the word, by which an automation can tell it from other failures."""
    count = len(comparison.cases)
    cases = f"{count:,} new case{'s' if count != 1 else ''} of {dataset}"
    if comparison.verdict == "drift":
        rows = comparison.features[comparison.features["drifted"]]
        moved = ", ".join(f"{name} by {size:.2f}" for name, size in zip(rows["feature"], rows["distance"], strict=True))
        return f"Drift in {cases}: {moved} standard deviations (limit {params.max_distance:g})"
    if comparison.verdict == "undecided":
        return f"Undecided for {cases}: too few, here or in the reference, to tell drift from chance"
    farthest = max(comparison.features.to_dict("records"), key=lambda row: row["distance"])
    return f"No drift in {cases}: farthest is {farthest['feature']}, by {farthest['distance']:.2f} standard deviations"


def markdown_of(summary: DriftSummary, comparison: Comparison) -> str:
    """Content of `drift.md`; `summary` is that of `drift.json`."""
    limits = summary["limits"]
    lines = [
        f"# {summary['said']}",
        "",
        f"{summary['patches']:,} patches of {summary['cases']:,} cases, graded by {summary['model']}, beside the cases "
        "that it was made from: colours beside those it was trained on, probabilities beside validation and test.",
        "",
        "| feature | distance | chance | reference | new | |",
        "|---|---|---|---|---|---|",
        *(_row(row) for row in summary["features"]),
        "",
        f"Distance: Wasserstein, in standard deviations of the reference's patches, every case weighing the same; "
        f"limit {limits['max_distance']:g}. Chance: how often exchanged cases lie as far, over all features; limit "
        f"{limits['max_chance']:g}. Drift is what passes both. Reference and new: medians.",
        *_remarks(summary),
        "",
        *_strange(comparison),
        "![Distributions and cases](drift.png)",
        "",
    ]
    return "\n".join(lines)


def _row(row: DriftFeature) -> str:
    values = f"{row['distance']:.2f} | {row['chance']:.3g} | {row['reference']:.4g} | {row['new']:.4g}"
    return f"| {row['feature']} ({DESCRIBED[row['feature']]}) | {values} | {'**drift**' if row['drifted'] else ''} |"


def _remarks(summary: DriftSummary) -> list[str]:
    remarks = (
        (summary["cases_of_too_few_patches"], "cases of too few patches weren't judged"),
        (summary["cases_known_to_the_reference"], "cases are in the reference too, which was used without them"),
        (summary["set_aside"], "images couldn't be graded"),
    )
    told = [f"{count:,} {text}." for count, text in remarks if count]
    return ["", " ".join(told)] if told else []


def strange_cases(comparison: Comparison) -> pd.DataFrame:
    """New cases that lie farther off than every reference case, in the features named; the strangest first."""
    counts = comparison.features.set_index("feature")["reference_cases"]
    rows = []
    for case in comparison.cases.to_dict("records"):
        far = {
            name: case[f"{name}_distance"] for name, count in counts.items() if case[f"{name}_rank"] * (1 + count) < 1.5
        }
        if far:
            said = ", ".join(f"{name} by {distance:.2f}" for name, distance in far.items())
            rows.append((case["case_id"], case["patches"], said, max(far.values())))
    table = pd.DataFrame(rows, columns=["case_id", "patches", "farther", "most"])
    return table.sort_values("most", ascending=False, kind="stable").drop(columns="most")


def _strange(comparison: Comparison) -> list[str]:
    """Such cases, as a table; one in so many reference cases would be among them by chance."""
    found = strange_cases(comparison)
    if found.empty:
        return []
    listed = found.head(STRANGE_CASES).to_dict("records")
    return [
        f"## Cases farther off than every reference case: {len(found):,} of {len(comparison.cases):,}",
        "",
        "| case | patches | standard deviations |",
        "|---|---|---|",
        *(f"| {markdown_cell(case['case_id'])} | {case['patches']:,} | {case['farther']} |" for case in listed),
        "",
    ]
