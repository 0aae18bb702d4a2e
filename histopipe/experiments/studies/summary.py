"""The study stage: compare the variants of every recipe, as JSON, a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from histopipe.core.errors import EvaluationError, ParamsError
from histopipe.core.files import replaced_folder, write_json, write_text
from histopipe.core.params import Params
from histopipe.core.stages.folders import stage_check
from histopipe.core.stages.inputs import require_unchanged_inputs
from histopipe.core.variants import KINDS, Study
from histopipe.core.workspace import Workspace
from histopipe.data.leakage import Leaky, leaky_state
from histopipe.evaluation.figures import save_figure
from histopipe.evaluation.metrics import METRICS
from histopipe.evaluation.record import MetricsRecord
from histopipe.experiments.studies.mlflow_run import log_summary
from histopipe.experiments.studies.reading import Variant, read_variant, split_digests
from histopipe.experiments.studies.record import Incomplete, StudyDifference, StudyRow, StudySummary, VariantRow
from histopipe.experiments.studies.statistics import fold_differences, fold_means, spread
from histopipe.experiments.studies.table import AVERAGED

_EXAMPLES = {"folds": 0, "seeds": 1, "schemes": "random", "sizes": 25}


def summarise_study(study: Study, dataset: str, params: Params, workspace: Workspace) -> StudySummary:
    """Summarise the variants of every recipe that `params.yaml` lists, best mean ROC AUC first.

    Writes `summary.json`, `summary.md` and `summary.png`, and logs them into the study's own MLflow run. An
    recipe with a missing or outdated variant is listed with the reason and left out of the table: means over
    different folds can't be compared.

    Args:
        study: `folds`, `seeds`, `schemes` or `sizes`.
        dataset: name of the data set.
        params: parameters of the main run.
        workspace: workspace of the main run.

    Returns:
        The content of `summary.json`.

    Raises:
        ParamsError: `params.yaml` lists no variants.
        EvaluationError: no recipe has all its variants.
        TrackingUnreachableError: MLflow can't be reached; the same command continues.
    """
    from histopipe.experiments.studies.figure import draw_study
    from histopipe.experiments.studies.table import as_markdown
    from histopipe.experiments.studies.variants_figure import draw_curve, draw_schemes

    if not params.studies.listed(study):
        raise ParamsError(
            f"params.yaml: studies.variants lists no {study}: add some, such as {KINDS[study]}-{_EXAMPLES[study]}"
        )
    complete, incomplete = _gather(study, dataset, params, workspace)
    if not complete:
        reasons = "; ".join(f"{row['architecture']}: {row['reason']}" for row in incomplete)
        raise EvaluationError(f"no architecture has all its {study} on {dataset}: {reasons}")
    content = _content(study, dataset, complete, incomplete, params)
    with replaced_folder(workspace.study_summary(study, dataset), stage_check("study")) as folder:
        write_json(folder / "summary.json", content)
        write_text(folder / "summary.md", as_markdown(content))
        draw = {"schemes": draw_schemes, "sizes": draw_curve}.get(study, draw_study)
        save_figure(draw(content), folder / "summary.png")
        require_unchanged_inputs()
        log_summary(study, dataset, folder, workspace)
    return content


def _gather(
    study: Study, dataset: str, params: Params, workspace: Workspace
) -> tuple[dict[str, list[Variant]], list[Incomplete]]:
    """Read the variants of each recipe that has them all, and the reasons of those that haven't."""
    complete: dict[str, list[Variant]] = {}
    incomplete: list[Incomplete] = []
    digests = split_digests(study, dataset, params, workspace)
    for architecture in params.architectures:
        try:
            complete[architecture] = [
                read_variant(study, dataset, architecture, variant, split, params, workspace)
                for variant, split in digests.items()
            ]
        except EvaluationError as problem:
            incomplete.append({"architecture": architecture, "reason": str(problem)})
    return complete, incomplete


def _content(
    study: Study, dataset: str, complete: Mapping[str, Sequence[Variant]], incomplete: list[Incomplete], params: Params
) -> StudySummary:
    rows = [_row(study, architecture, variants, params) for architecture, variants in complete.items()]
    rows.sort(key=lambda row: -(row["spread"]["roc_auc"]["mean"] or 0.0))  # a stable sort: ties stay as listed
    pairs = combinations([row["architecture"] for row in rows], 2) if study in AVERAGED else ()
    return {
        "dataset": dataset,
        "study": study,
        "folds": params.split.folds if study == "folds" else None,
        "positive_class": next(iter(complete.values()))[0].metrics["positive_class"],
        "ranking": rows,
        "differences": [_difference(study, first, second, complete, params) for first, second in pairs],
        "incomplete": incomplete,
    }


def _row(study: Study, architecture: str, variants: Sequence[Variant], params: Params) -> StudyRow:
    """Build the row of one recipe: each variant's numbers, their spread, and for folds the mean with interval."""
    row: StudyRow = {
        "architecture": architecture,
        "quick": variants[0].metrics.get("quick"),
        "leaky": _leaky_in_all(variants),
        "unlisted_train": any(variant.metrics.get("unlisted_train") for variant in variants),
        "variants": {str(variant.name): _kept(variant.metrics) for variant in variants},
        "spread": {name: spread([variant.metrics["test"][name]["value"] for variant in variants]) for name in METRICS},
    }
    if study == "folds":
        row["mean"] = fold_means([variant.tested for variant in variants], params.evaluate.resamples, params.seed)
    return row


def _kept(metrics: MetricsRecord) -> VariantRow:
    return {
        "test": metrics["test"],
        "cases": metrics["cases"],
        "patches": metrics["patches"],
        "threshold": metrics["threshold"],
        "run_id": metrics["run_id"],
        "leaky": metrics["leaky"],
    }


def _leaky_in_all(variants: Sequence[Variant]) -> Leaky:
    """Return the state that all variants share; where they differ, each is marked by itself."""
    states = [leaky_state(variant.metrics.get("leaky")) for variant in variants]
    return states[0] if len(set(states)) == 1 else False


def _difference(
    study: Study, first: str, second: str, complete: Mapping[str, Sequence[Variant]], params: Params
) -> StudyDifference:
    """Compare two recipes variant by variant: spread, number of higher ones, and for folds the mean."""
    pair = (complete[first], complete[second])
    by_metric = {name: _paired(*pair, name) for name in METRICS}
    difference: StudyDifference = {
        "first": first,
        "second": second,
        "spread": {name: spread(values) for name, values in by_metric.items()},
        "higher": {name: sum((value or 0.0) > 0 for value in values) for name, values in by_metric.items()},
    }
    if study == "folds":
        left, right = ([variant.tested for variant in variants] for variants in pair)
        difference["mean"] = fold_differences(left, right, params.evaluate.resamples, params.seed)
    return difference


def _paired(first: Sequence[Variant], second: Sequence[Variant], metric: str) -> list[float | None]:
    values = [[variant.metrics["test"][metric]["value"] for variant in variants] for variants in (first, second)]
    return [None if left is None or right is None else left - right for left, right in zip(*values, strict=True)]
