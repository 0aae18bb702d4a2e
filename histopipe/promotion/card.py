"""The model card of a registered version (Mitchell et al. 2019, doi:10.1145/3287560.3287596).

It is generated from the files that the stages wrote and from the MLflow run; nothing that can be measured is typed by
hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pandas as pd

from histopipe import __version__
from histopipe.core.cases.readings import CASE_OF_READING, READING
from histopipe.core.files import read_case_table, read_json
from histopipe.core.lineage import output_hash
from histopipe.core.workspace import Workspace, stage_name
from histopipe.data.leakage import UNKNOWN, WHY_UNKNOWN, leaky_state
from histopipe.data.store import StoreRecord, read_store_record
from histopipe.evaluation.case_kinds import (
    KIND_METRICS,
    KIND_TITLES,
    POSITIVE_CASES,
    evaluated_kinds,
    missing_kinds_reason,
)
from histopipe.evaluation.explanation.record import EXPLANATION_FILE, Explanation, read_explanation
from histopipe.evaluation.figures import format_estimate
from histopipe.evaluation.record import SERVED_MODEL_TAG, MetricsRecord
from histopipe.promotion.candidate import CHOSEN_BY, Candidate
from histopipe.promotion.gates import TITLES
from histopipe.reporting.comparison.record import COMPARISON_FILE, Comparison, read_comparison
from histopipe.reporting.comparison.table import markdown_table
from histopipe.tracking.artifacts import model_environment
from histopipe.tracking.ledger import read_counts

if TYPE_CHECKING:
    from histopipe.tracking.entities import Run

CARD_FILE = "model_card.md"
DESCRIPTION_LENGTH = 5000  # of a version's description in MLflow's database
LINEAGE = ("git_commit", "git_dirty", "dvc_raw", "dvc_store", "dvc_split")
SHOWN = (
    "roc_auc",
    "average_precision",
    "balanced_accuracy",
    "f1",
    "sensitivity",
    "specificity",
    "precision",
    "brier",
    "calibration_error",
)


@dataclass(frozen=True)
class CardContent:
    """The content of a model card.

    Attributes:
        run: the run that holds the served model.
        store_record: the store's record, as ingest wrote it.
        origin: kind and file name of the data's source; None if `locate` wrote no record.
        subgroups, cases: tables of the evaluation.
        explanation: content of the evaluation's `explanation.json`; None if there is none.
        comparison: content of `comparison.json`; None if there is none.
        environment: versions of Python and of the packages that the served model needs.
        hashes: digests of the model and its predictions, by their path in `dvc.lock`.
        verdict: tags of the gates that judged it.
    """

    candidate: Candidate
    run: Run
    store_record: StoreRecord
    origin: tuple[str, str] | None
    subgroups: pd.DataFrame
    cases: pd.DataFrame
    explanation: Explanation | None
    comparison: Comparison | None
    environment: list[str]
    hashes: dict[str, str]
    verdict: Mapping[str, str]


def read_card_content(candidate: Candidate, run: Run, verdict: Mapping[str, str], workspace: Workspace) -> CardContent:
    """Read the content of a candidate's card; raises what the readers of the files raise."""
    dataset, architecture = candidate.dataset, candidate.architecture
    evaluation, report = workspace.evaluation(dataset, architecture), workspace.report(dataset)
    return CardContent(
        candidate,
        run,
        read_store_record(workspace.store(dataset)),
        _origin(workspace.source(dataset)),
        read_case_table(evaluation / "subgroups.csv"),
        read_case_table(evaluation / "cases.csv"),
        read_explanation(evaluation) if (evaluation / EXPLANATION_FILE).is_file() else None,
        read_comparison(report) if (report / COMPARISON_FILE).is_file() else None,
        _environment(run.data.tags[SERVED_MODEL_TAG]),
        _hashes(dataset, architecture, workspace),
        verdict,
    )


def _origin(path: Path) -> tuple[str, str] | None:
    if not path.is_file():
        return None
    record = read_json(path)
    return record["kind"], record["name"]


def _environment(model_id: str) -> list[str]:
    """List what the model was logged with: Python, and the packages that it needs."""
    with TemporaryDirectory() as scratch:
        python, packages = model_environment(model_id, scratch)
        return [f"Python {python}", *packages.read_text(encoding="utf-8").split()]


def _hashes(dataset: str, architecture: str, workspace: Workspace) -> dict[str, str]:
    """Return the digests of the candidate's outputs by their path in `dvc.lock`; unknown ones are left out."""
    outputs = {
        stage_name("train", dataset, architecture): f"models/{dataset}/{architecture}/model.keras",
        stage_name("evaluate", dataset, architecture): f"evaluations/{dataset}/{architecture}/predictions.parquet",
    }
    hashes = {path: output_hash(workspace, stage, path) for stage, path in outputs.items()}
    return {path: value for path, value in hashes.items() if value}


def render_model_card(content: CardContent) -> str:
    """Render a model card as Markdown."""
    candidate = content.candidate
    parts = [
        f"# {candidate.dataset}: {candidate.architecture}",
        "**Research use only.** Not a medical device; no clinical decision may rest on it.",
        *_section("Intended use", _use(content)),
        *_section("Data", _data(content)),
        *_section("Split", _split(content)),
        *_section("Results on test", _results(content)),
        *_section("Threshold and calibration", _point(content)),
        *_section("Where it is weakest", _weakest(content)),
        *_section("Limits", _limits(content)),
        *_section("Lineage", _lineage(content)),
    ]
    return "\n\n".join(parts) + "\n"


def shorten_card(card: str, folder: str) -> str:
    """Shorten a card to a version's description, which databases cut or refuse beyond 5,000 characters.

    Args:
        card: the whole card, from `render_model_card`.
        folder: the folder of the run's artifacts that holds the whole card.
    """
    if len(card) <= DESCRIPTION_LENGTH:
        return card
    rest = f"\n\n(The whole card: `{folder}/{CARD_FILE}` among the run's artifacts.)\n"
    return card[: DESCRIPTION_LENGTH - len(rest)].rsplit("\n", 1)[0] + rest


def _section(title: str, body: str) -> list[str]:
    return [f"## {title}", body]


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _use(content: CardContent) -> str:
    negative, positive = content.store_record["classes"]
    height, width = content.store_record["patch_size"]
    return (
        f"Probability that a patch of {width} x {height} pixels is {positive} rather than {negative}, for research on "
        f"patches made like those of {content.candidate.dataset}: to rank patches and slides, and as a baseline. It "
        "says nothing about a patient, nor about other tissue, stains, magnifications or scanners."
    )


def _data(content: CardContent) -> str:
    store_record, origin = content.store_record, content.origin
    lines = [
        f"{store_record['patches']:,} patches of {store_record['cases']:,} cases, {store_record['positive']:,} of them "
        f"{store_record['classes'][1]}; {store_record['undersized']:,} smaller than the rest",
        *(f"set aside, {reason}: {entry['count']:,}" for reason, entry in store_record["set_aside"].items()),
    ]
    if origin:
        lines.insert(0, f"source: {origin[0]}, {origin[1]}")
    if store_record["same_pixels_in_two_cases"]:
        lines.append(f"{store_record['same_pixels_in_two_cases']:,} patches whose pixels occur in another case too")
    if reading := store_record.get(READING):
        lines.append(f"a case is {CASE_OF_READING[reading]}")
    lines += [_gate_line(name, content.verdict) for name in ("data", "quick") if f"gate.{name}" in content.verdict]
    return _bullets(lines)


def _gate_line(name: str, verdict: Mapping[str, str]) -> str:
    measured, reason = verdict.get(f"gate.{name}.measured", ""), verdict.get(f"gate.{name}.reason", "")
    return f"{TITLES[name]}: {measured} {reason}".rstrip()


def _split(content: CardContent) -> str:
    metrics, record = content.candidate.metrics, content.candidate.record
    return (
        f"By {'patch' if record['split_scheme'] == 'random' else 'whole case'}, scheme {record['split_scheme']}: "
        f"{len(record['train_cases']):,} cases trained on, {metrics['validation_cases']:,} for validation "
        f"({metrics['validation_patches']:,} patches), {metrics['cases']:,} for test ({metrics['patches']:,} patches)."
    )


def _results(content: CardContent) -> str:
    metrics = content.candidate.metrics
    rows = [[name.replace("_", " "), format_estimate(metrics["test"][name])] for name in SHOWN]
    table = markdown_table([["metric", "value [95 % interval by case]"], [":--", ":--"], *rows])
    chosen = metrics["validation"][CHOSEN_BY]
    shown = "undefined" if chosen is None else f"{chosen:.3f}"
    narrow = "".join(f"\n\nIntervals may be too narrow: {caution}." for caution in metrics.get("cautions", ()))
    chosen_by = (
        f"ROC AUC on validation, by which it was chosen: {shown} (after selection, so expect less on new cases)."
    )
    return f"{table}{narrow}\n\n{_within(metrics)}{chosen_by}{_looks(content.verdict)}"


def _within(metrics: MetricsRecord) -> str:
    """List the metrics within cases of one kind, or why there are none; empty for older evaluations without them."""
    lines = [
        f"within the {part['cases']:,} {KIND_TITLES[kind]}: "
        + ", ".join(f"{name.replace('_', ' ')} {format_estimate(values[name])}" for name in KIND_METRICS)
        for kind, part, values in evaluated_kinds(metrics)
    ]
    if not lines and (reason := missing_kinds_reason(metrics)):
        lines = [f"within {KIND_TITLES[POSITIVE_CASES]}: {reason}"]
    return f"{_bullets(lines)}\n\n" if lines else ""


def _looks(verdict: Mapping[str, str]) -> str:
    """State how often the test cases had been looked at, by the count of the ledger."""
    counts = read_counts(verdict)
    if counts is None:
        return ""
    bias = "" if counts.judged < 2 else "; results of a champion on cases on which others failed are biased upwards"
    return f"\n\nThis was {counts}{bias}."


def _point(content: CardContent) -> str:
    point, metrics = content.candidate.point, content.candidate.metrics
    before, after = (metrics[part]["calibration_error"] for part in ("uncalibrated", "test"))
    return (
        f"{point['positive_class']} at a probability of {point['threshold']:.4f} or more; validation chose by the rule "
        f"{point['rule']}. Temperature {point['temperature']:.3f} and offset {point['offset']:.3f}, also from "
        f"validation: calibration error on test {format_estimate(before)} before, {format_estimate(after)} after."
    )


def _weakest(content: CardContent) -> str:
    """List each subgroup's level with the lowest balanced accuracy, and the case with the lowest accuracy."""
    metric = "balanced_accuracy"
    defined = content.subgroups.dropna(subset=[metric])
    lines = [
        f"{row['group']} {row['level']}: balanced accuracy {format_estimate(_measured(row, metric))} "
        f"({row['cases']:,} cases, {row['patches']:,} patches)"
        for _, row in defined.loc[defined.groupby("group", sort=False)[metric].idxmin()].iterrows()
    ]
    worst = content.cases.sort_values("accuracy", kind="stable").iloc[0]
    lines.append(f"case {worst['case_id']}: accuracy {worst['accuracy']:.3f} ({worst['patches']:,} patches)")
    return _bullets(lines)


def _measured(row: pd.Series, metric: str) -> dict[str, float | None]:
    return {name: float(row[f"{metric}{end}"]) for name, end in (("value", ""), ("low", "_low"), ("high", "_high"))}


def _limits(content: CardContent) -> str:
    candidate, test = content.candidate, content.candidate.metrics
    lines = [
        f"evaluated on {test['cases']:,} cases of the same source as the training: its results elsewhere are unknown",
        "a case is what the source calls one; it need not be a patient",
    ]
    if content.origin and content.origin[0] == "synthetic":
        lines.append("trained and evaluated on drawn slides: its numbers say nothing about real tissue")
    if quick := candidate.record.get("quick"):
        caps = ", ".join(f"{name} {value}" for name, value in quick.items())
        lines.append(f"trained under the caps of `quick` ({caps}): not what the full recipe reaches")
    leaky = leaky_state(candidate.leaky)
    if leaky is True:
        lines.append("**it has seen test cases: its numbers measure memory**")
    elif leaky == UNKNOWN:
        lines.append(f"**{WHY_UNKNOWN}: its numbers may measure memory**")
    if candidate.record.get("unlisted_train"):
        lines.append("trained also on cases that are on no published list: not the published protocol")
    explanation = content.explanation
    if explanation and "reason" in explanation:
        lines.append(f"its decisions could not be explained by maps: {explanation['reason']}")
    elif explanation and (outcome := explanation.get("verdict")):
        maps = f"maps that explain its decisions: {outcome}"
        lines.append(f"{maps} (don't interpret them unless they are better than all of these)")
    suspicious = content.comparison.get("implausible") if content.comparison else None
    if suspicious and candidate.architecture in suspicious["architectures"]:
        lines.append(f"**ROC AUC above {suspicious['limit']}: implausible on this data, look for a leak**")
    return _bullets(lines)


def _lineage(content: CardContent) -> str:
    record, tags = content.candidate.record, content.run.data.tags
    lines = [
        f"run {content.run.info.run_id}, training {content.candidate.training}; {record['epochs']} epochs, "
        f"{record['parameters']:,} parameters",
        *(f"{name.replace('_', ' ')}: {tags[name]}" for name in LINEAGE if name in tags),
        *(f"dvc {path}: {value}" for path, value in content.hashes.items()),
        f"digests: split {str(record['split_digest'])[:16]}, recipe {str(record['recipe_digest'])[:16]}",
        f"histopipe {__version__}, {', '.join(content.environment)}",
    ]
    return _bullets(lines)
