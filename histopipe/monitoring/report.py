"""The drift report: `drift.json` for programs, `drift.md` for people."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from histopipe.core.params import MonitorParams
from histopipe.core.tables import markdown_cell
from histopipe.evaluation.drift.features import DESCRIBED
from histopipe.inference.record import PredictionSummary
from histopipe.monitoring.comparison import Comparison
from histopipe.monitoring.record import DriftFeature, DriftSummary

STRANGE_CASES = 20  # listed in the report; the table has them all


def summary_of(comparison: Comparison, predicted: PredictionSummary, params: MonitorParams) -> DriftSummary:
    """Return the content of `drift.json`.

    Args:
        comparison: the comparison of the new cases with the reference.
        predicted: content of the predictions' `summary.json`.
        params: the limits.
    """
    return {
        "verdict": comparison.verdict,
        "said": _verdict_line(comparison, predicted["data_set"], params),
        "data_set": predicted["data_set"],
        "model": predicted["model"],
        "model_id": predicted.get("model_id"),
        "limits": params.model_dump(),
        "cases": len(comparison.cases),
        "patches": int(comparison.cases["patches"].sum()),
        "cases_of_too_few_patches": comparison.left_out,
        "cases_known_to_the_reference": comparison.shared,
        "set_aside": sum(reason["count"] for reason in predicted["set_aside"].values()),
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


def _verdict_line(comparison: Comparison, dataset: str, params: MonitorParams) -> str:
    """State the verdict in a line; a line on drift begins with "Drift", so that automations recognise it."""
    count = len(comparison.cases)
    cases = f"{count:,} new case{'s' if count != 1 else ''} of {dataset}"
    if comparison.verdict == "drift":
        rows = comparison.features[comparison.features["drifted"]]
        moved = ", ".join(f"{name} by {size:.2f}" for name, size in zip(rows["feature"], rows["distance"], strict=True))
        return f"Drift in {cases}: {moved} standard deviations (limit {params.max_distance:g})"
    if comparison.verdict == "undecided":
        return f"Undecided for {cases}: too few, here or in the reference, to distinguish drift from chance"
    farthest = max(comparison.features.to_dict("records"), key=lambda row: row["distance"])
    return f"No drift in {cases}: farthest is {farthest['feature']}, by {farthest['distance']:.2f} standard deviations"


def markdown_of(summary: DriftSummary, comparison: Comparison) -> str:
    """Return the content of `drift.md`; `summary` is the content of `drift.json`."""
    limits = summary["limits"]
    lines = [
        f"# {summary['said']}",
        "",
        f"{summary['patches']:,} patches of {summary['cases']:,} cases, predicted by {summary['model']}, are compared "
        "with its own cases: colours with the training cases, probabilities with validation and test.",
        "",
        "| feature | distance | chance | reference | new | |",
        "|---|---|---|---|---|---|",
        *(_row(row) for row in summary["features"]),
        "",
        f"Distance: Wasserstein distance in standard deviations of the reference's patches, with equal weights for all "
        f"cases; limit {limits['max_distance']:g}. Chance: how often randomly exchanged cases are as far apart, "
        f"adjusted for all features; limit {limits['max_chance']:g}. Drift means that the distance is above its limit "
        "and the chance is not. Reference and new: medians.",
        *_remark_lines(summary),
        "",
        *_strange_lines(comparison),
        "![Distributions and cases](drift.png)",
        "",
    ]
    return "\n".join(lines)


def _row(row: DriftFeature) -> str:
    values = f"{row['distance']:.2f} | {row['chance']:.3g} | {row['reference']:.4g} | {row['new']:.4g}"
    return f"| {row['feature']} ({DESCRIBED[row['feature']]}) | {values} | {'**drift**' if row['drifted'] else ''} |"


def _remark_lines(summary: DriftSummary) -> list[str]:
    remarks = (
        (summary["cases_of_too_few_patches"], "cases have too few patches and weren't compared"),
        (summary["cases_known_to_the_reference"], "cases are in the reference too, and were removed from it"),
        (summary["set_aside"], "images couldn't be predicted"),
    )
    sentences = [f"{count:,} {text}." for count, text in remarks if count]
    return ["", " ".join(sentences)] if sentences else []


def strange_cases(comparison: Comparison) -> pd.DataFrame:
    """List new cases that are farther away than every reference case, with the features; the farthest first."""
    counts = comparison.features.set_index("feature")["reference_cases"]
    rows = []
    for case in comparison.cases.to_dict("records"):
        far = {
            name: case[f"{name}_distance"] for name, count in counts.items() if case[f"{name}_rank"] * (1 + count) < 1.5
        }
        if far:
            features = ", ".join(f"{name} by {distance:.2f}" for name, distance in far.items())
            rows.append((case["case_id"], case["patches"], features, max(far.values())))
    table = pd.DataFrame(rows, columns=["case_id", "patches", "farther", "most"])
    return table.sort_values("most", ascending=False, kind="stable").drop(columns="most")


def _strange_lines(comparison: Comparison) -> list[str]:
    """Format the table of strange cases; by chance, one case in as many as the reference has would be in it."""
    strange = strange_cases(comparison)
    if strange.empty:
        return []
    listed = strange.head(STRANGE_CASES).to_dict("records")
    return [
        f"## Cases farther away than every reference case: {len(strange):,} of {len(comparison.cases):,}",
        "",
        "| case | patches | standard deviations |",
        "|---|---|---|",
        *(f"| {markdown_cell(case['case_id'])} | {case['patches']:,} | {case['farther']} |" for case in listed),
        "",
    ]
