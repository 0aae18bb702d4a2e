"""The model card of a registered version (Mitchell et al. 2019, doi:10.1145/3287560.3287596).

Written from the files that the stages left and from the MLflow run; what can be measured isn't written by hand.
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
from histopipe.core.files import read_json, read_named
from histopipe.core.lineage import output_hash
from histopipe.core.workspace import Workspace, stage_name
from histopipe.data.leakage import UNKNOWN, WHY_UNKNOWN, leaky_state
from histopipe.data.store import StoreReport, read_report
from histopipe.evaluation.case_kinds import KIND_METRICS, KIND_TITLES, POSITIVE_CASES, graded_kinds, ungraded_reason
from histopipe.evaluation.explanation.record import EXPLANATION_FILE, Explanation, read_explanation
from histopipe.evaluation.figures import with_interval
from histopipe.evaluation.mlflow_run import SERVED_MODEL_TAG
from histopipe.evaluation.record import MetricsRecord
from histopipe.promotion.candidate import CHOSEN_BY, Candidate
from histopipe.promotion.gates import TITLES
from histopipe.reporting.comparison.record import COMPARISON_FILE, Comparison, read_comparison
from histopipe.reporting.comparison.table import markdown_table
from histopipe.tracking.artifacts import model_environment
from histopipe.tracking.ledger import counts_in

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
class Facts:
    """All that a card is written from.

    Attributes:
        run: that holds the served model.
        report: of the store, as ingest wrote it.
        origin: kind and file name of the data's source; None where `locate` wrote no record.
        subgroups, cases: tables of the evaluation.
        explanation: content of its `explanation.json`; None where there is none.
        comparison: content of `comparison.json`; None where there is none.
        environment: versions of what the served model needs.
        hashes: of the model and its predictions, as `dvc.lock` has them.
        verdict: tags of the gates that it was judged by.
    """

    candidate: Candidate
    run: Run
    report: StoreReport
    origin: tuple[str, str] | None
    subgroups: pd.DataFrame
    cases: pd.DataFrame
    explanation: Explanation | None
    comparison: Comparison | None
    environment: list[str]
    hashes: dict[str, str]
    verdict: Mapping[str, str]


def read_facts(candidate: Candidate, run: Run, verdict: Mapping[str, str], workspace: Workspace) -> Facts:
    """Gather them; raises what the readers of the files raise."""
    dataset, architecture = candidate.dataset, candidate.architecture
    evaluation, report = workspace.evaluation(dataset, architecture), workspace.report(dataset)
    return Facts(
        candidate,
        run,
        read_report(workspace.store(dataset)),
        _origin(workspace.source(dataset)),
        read_named(evaluation / "subgroups.csv"),
        read_named(evaluation / "cases.csv"),
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
    """What the model was logged with: Python, and the packages it needs."""
    with TemporaryDirectory() as scratch:
        python, packages = model_environment(model_id, scratch)
        return [f"Python {python}", *packages.read_text(encoding="utf-8").split()]


def _hashes(dataset: str, architecture: str, workspace: Workspace) -> dict[str, str]:
    """Outputs by their path in `dvc.lock`; those it doesn't know are left out."""
    outputs = {
        stage_name("train", dataset, architecture): f"models/{dataset}/{architecture}/model.keras",
        stage_name("evaluate", dataset, architecture): f"evaluations/{dataset}/{architecture}/predictions.parquet",
    }
    found = {path: output_hash(workspace, stage, path) for stage, path in outputs.items()}
    return {path: value for path, value in found.items() if value}


def model_card(facts: Facts) -> str:
    """The card, as Markdown."""
    candidate = facts.candidate
    parts = [
        f"# {candidate.dataset}: {candidate.architecture}",
        "**Research use only.** Not a medical device; no clinical decision may rest on it.",
        *_section("Intended use", _use(facts)),
        *_section("Data", _data(facts)),
        *_section("Split", _split(facts)),
        *_section("Results on test", _results(facts)),
        *_section("Threshold and calibration", _point(facts)),
        *_section("Where it is weakest", _weakest(facts)),
        *_section("Limits", _limits(facts)),
        *_section("Lineage", _lineage(facts)),
    ]
    return "\n\n".join(parts) + "\n"


def description(card: str, folder: str) -> str:
    """The card as a version's description, which databases cut or refuse beyond 5,000 characters.

    Args:
        card: as `model_card` gives it.
        folder: where among the run's artifacts the whole card lies.
    """
    if len(card) <= DESCRIPTION_LENGTH:
        return card
    rest = f"\n\n(The whole card: `{folder}/{CARD_FILE}` among the run's artifacts.)\n"
    return card[: DESCRIPTION_LENGTH - len(rest)].rsplit("\n", 1)[0] + rest


def _section(title: str, body: str) -> list[str]:
    return [f"## {title}", body]


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _use(facts: Facts) -> str:
    negative, positive = facts.report["classes"]
    height, width = facts.report["patch_size"]
    return (
        f"Probability that a patch of {width} x {height} pixels is {positive} rather than {negative}, for research on "
        f"patches made like those of {facts.candidate.dataset}: to rank patches and slides, and as a baseline. It says "
        "nothing of a patient, nor of other tissue, stains, magnifications or scanners."
    )


def _data(facts: Facts) -> str:
    report, origin = facts.report, facts.origin
    lines = [
        f"{report['patches']:,} patches of {report['cases']:,} cases, {report['positive']:,} of them "
        f"{report['classes'][1]}; {report['undersized']:,} smaller than the rest",
        *(f"set aside, {reason}: {entry['count']:,}" for reason, entry in report["set_aside"].items()),
    ]
    if origin:
        lines.insert(0, f"source: {origin[0]}, {origin[1]}")
    if report["same_pixels_in_two_cases"]:
        lines.append(f"{report['same_pixels_in_two_cases']:,} patches whose pixels occur in another case too")
    if reading := report.get(READING):
        lines.append(f"a case is {CASE_OF_READING[reading]}")
    lines += [_gate_line(name, facts.verdict) for name in ("data", "quick") if f"gate.{name}" in facts.verdict]
    return _bullets(lines)


def _gate_line(name: str, verdict: Mapping[str, str]) -> str:
    measured, reason = verdict.get(f"gate.{name}.measured", ""), verdict.get(f"gate.{name}.reason", "")
    return f"{TITLES[name]}: {measured} {reason}".rstrip()


def _split(facts: Facts) -> str:
    metrics, record = facts.candidate.metrics, facts.candidate.record
    return (
        f"By {'patch' if record['split_scheme'] == 'random' else 'whole case'}, scheme {record['split_scheme']}: "
        f"{len(record['train_cases']):,} cases trained on, {metrics['validation_cases']:,} for validation "
        f"({metrics['validation_patches']:,} patches), {metrics['cases']:,} for test ({metrics['patches']:,} patches)."
    )


def _results(facts: Facts) -> str:
    metrics = facts.candidate.metrics
    rows = [[name.replace("_", " "), with_interval(metrics["test"][name])] for name in SHOWN]
    table = markdown_table([["metric", "value [95 % interval by case]"], [":--", ":--"], *rows])
    chosen = metrics["validation"][CHOSEN_BY]
    shown = "undefined" if chosen is None else f"{chosen:.3f}"
    narrow = "".join(f"\n\nIntervals may be too narrow: {caution}." for caution in metrics.get("cautions", ()))
    chosen_by = f"ROC AUC on validation, by which it was chosen: {shown} (after selection: new cases give less)."
    return f"{table}{narrow}\n\n{_within(metrics)}{chosen_by}{_looks(facts.verdict)}"


def _within(metrics: MetricsRecord) -> str:
    """Metrics within cases of one kind, or why there are none; nothing of evaluations before there were any."""
    lines = [
        f"within the {part['cases']:,} {KIND_TITLES[kind]}: "
        + ", ".join(f"{name.replace('_', ' ')} {with_interval(graded[name])}" for name in KIND_METRICS)
        for kind, part, graded in graded_kinds(metrics)
    ]
    if not lines and (reason := ungraded_reason(metrics)):
        lines = [f"within {KIND_TITLES[POSITIVE_CASES]}: {reason}"]
    return f"{_bullets(lines)}\n\n" if lines else ""


def _looks(verdict: Mapping[str, str]) -> str:
    """How often the test cases had been looked at, as the ledger counts them."""
    counts = counts_in(verdict)
    if counts is None:
        return ""
    leaning = "" if counts.judged < 2 else "; what a champion reaches on cases that others failed on leans upwards"
    return f"\n\nThis was {counts}{leaning}."


def _point(facts: Facts) -> str:
    point, metrics = facts.candidate.point, facts.candidate.metrics
    before, after = (metrics[part]["calibration_error"] for part in ("uncalibrated", "test"))
    return (
        f"{point['positive_class']} at a probability of {point['threshold']:.4f} or more; validation chose by the rule "
        f"{point['rule']}. Temperature {point['temperature']:.3f} and offset {point['offset']:.3f}, also from "
        f"validation: calibration error on test {with_interval(before)} before, {with_interval(after)} after."
    )


def _weakest(facts: Facts) -> str:
    """Of each kind of subgroup the level with the lowest balanced accuracy; and the case with the lowest accuracy."""
    metric = "balanced_accuracy"
    known = facts.subgroups.dropna(subset=[metric])
    lines = [
        f"{row['group']} {row['level']}: balanced accuracy {with_interval(_measured(row, metric))} "
        f"({row['cases']:,} cases, {row['patches']:,} patches)"
        for _, row in known.loc[known.groupby("group", sort=False)[metric].idxmin()].iterrows()
    ]
    worst = facts.cases.sort_values("accuracy", kind="stable").iloc[0]
    lines.append(f"case {worst['case_id']}: accuracy {worst['accuracy']:.3f} ({worst['patches']:,} patches)")
    return _bullets(lines)


def _measured(row: pd.Series, metric: str) -> dict[str, float | None]:
    return {name: float(row[f"{metric}{end}"]) for name, end in (("value", ""), ("low", "_low"), ("high", "_high"))}


def _limits(facts: Facts) -> str:
    candidate, test = facts.candidate, facts.candidate.metrics
    lines = [
        f"graded on {test['cases']:,} cases of the same source as the training: how it does elsewhere isn't known",
        "a case is what the source calls one; it need not be a patient",
    ]
    if facts.origin and facts.origin[0] == "synthetic":
        lines.append("trained and graded on drawn slides: its numbers say nothing of tissue")
    if quick := candidate.record.get("quick"):
        caps = ", ".join(f"{name} {value}" for name, value in quick.items())
        lines.append(f"trained under the caps of `quick` ({caps}): not what the full recipe reaches")
    leaky = leaky_state(candidate.leaky)
    if leaky is True:
        lines.append("**it has seen test cases: its numbers measure memory**")
    elif leaky == UNKNOWN:
        lines.append(f"**{WHY_UNKNOWN}: its numbers may measure memory**")
    if candidate.record.get("unlisted_train"):
        lines.append("trained also on cases that no published list has: not the published protocol")
    explanation = facts.explanation
    if explanation and "reason" in explanation:
        lines.append(f"what its decisions rest on could not be mapped: {explanation['reason']}")
    elif explanation and (outcome := explanation.get("verdict")):
        maps = f"maps of what its decisions rest on: {outcome}"
        lines.append(f"{maps} (don't read them unless they are better than all of these)")
    suspicious = facts.comparison.get("implausible") if facts.comparison else None
    if suspicious and candidate.architecture in suspicious["architectures"]:
        lines.append(f"**ROC AUC above {suspicious['limit']}: implausible on this data, look for a leak**")
    return _bullets(lines)


def _lineage(facts: Facts) -> str:
    record, tags = facts.candidate.record, facts.run.data.tags
    lines = [
        f"run {facts.run.info.run_id}, training {facts.candidate.training}; {record['epochs']} epochs, "
        f"{record['parameters']:,} parameters",
        *(f"{name.replace('_', ' ')}: {tags[name]}" for name in LINEAGE if name in tags),
        *(f"dvc {path}: {value}" for path, value in facts.hashes.items()),
        f"digests: split {str(record['split_digest'])[:16]}, recipe {str(record['recipe_digest'])[:16]}",
        f"histopipe {__version__}, {', '.join(facts.environment)}",
    ]
    return _bullets(lines)
