"""The compare stage: tables and pictures over the architectures of a data set."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from histopipe.core.errors import EvaluationError
from histopipe.core.files import replaced_folder, write_json, write_text
from histopipe.core.params import Params
from histopipe.core.stages.folders import stage_check
from histopipe.core.stages.inputs import require_unchanged_inputs
from histopipe.core.workspace import Workspace
from histopipe.data.store import read_index
from histopipe.evaluation.figures import save_figure
from histopipe.reporting.comparison.baseline import with_baseline
from histopipe.reporting.comparison.combination import combination_rows
from histopipe.reporting.comparison.evaluations import read_evaluations
from histopipe.reporting.comparison.figure import draw_comparison, draw_pairs
from histopipe.reporting.comparison.neighbours import with_neighbours
from histopipe.reporting.comparison.pairs import compare_pairs, with_rank_ranges
from histopipe.reporting.comparison.plausibility import implausible
from histopipe.reporting.comparison.record import COMPARISON_FILE, Comparison, Implausible, ModelRow, PublishedRow
from histopipe.reporting.comparison.table import as_markdown, implausible_note, reason

LOG = logging.getLogger(__name__)


def compare(dataset: str, params: Params, workspace: Workspace) -> Comparison:
    """Set the evaluated architectures of `params.yaml` side by side, best ROC AUC on test first.

    Writes `comparison.json`, `comparison.md`, `comparison.png`, `pairs.png` and `index.html`, which shows all there is
    to see of the data set. Every two models are also compared case by case, and each gets the range of ranks that this
    leaves it. Architectures without an evaluation, or whose evaluation belongs to another split or recipe than today's,
    are listed with the reason and not ranked; folders of architectures that `params.yaml` doesn't list don't count. An
    ensemble of those ranked, a logistic regression on colours (`baseline`), every averaged network without its
    averaging and, on request, every other one with it and every network with its patches' neighbours are rows as well.

    Returns:
        The content of `comparison.json`.

    Raises:
        EvaluationError: no architecture has an evaluation that is up to date.
    """
    from histopipe.reporting.report.page import write_page  # shows what this package made of it

    evaluated, unranked = read_evaluations(dataset, params, workspace)
    if not evaluated:
        raise EvaluationError(f"no architecture is evaluated on {dataset}: " + "; ".join(map(reason, unranked)))
    further = combination_rows(evaluated, params)
    if params.compare.neighbourhood:
        smoothed, absent = with_neighbours(evaluated, read_index(workspace.store(dataset)), params)
        further, unranked = further + smoothed, unranked + absent
    baseline, missing = with_baseline(dataset, evaluated, params, workspace)
    evaluated += further + baseline
    evaluated.sort(key=lambda each: -(each.row["test"]["roc_auc"]["value"] or 0.0))  # stable: ties stay as listed
    rows = [each.row for each in evaluated]
    pairs = compare_pairs(evaluated, params.evaluate.resamples, params.seed)
    content: Comparison = {
        "dataset": dataset,
        "positive_class": rows[0]["positive_class"],
        "ranking": with_rank_ranges(rows, pairs),
        "pairs": pairs,
        "implausible": _checked(dataset, rows, params),
        "unranked": unranked,
        "no_baseline": missing,
        "published": published_results(dataset, rows, params),
    }
    with replaced_folder(workspace.report(dataset), stage_check("compare")) as folder:
        write_json(folder / COMPARISON_FILE, content)
        write_text(folder / "comparison.md", as_markdown(content))
        save_figure(draw_comparison(content), folder / "comparison.png")
        save_figure(draw_pairs(content), folder / "pairs.png")
        write_page(content, params, workspace, folder)
        require_unchanged_inputs()
    return content


def _checked(dataset: str, rows: Sequence[ModelRow], params: Params) -> Implausible | None:
    found = implausible(dataset, rows, params)
    if found:
        LOG.warning("%s: %s", dataset, implausible_note(found))
    return found


def published_results(dataset: str, rows: Sequence[ModelRow], params: Params) -> list[PublishedRow]:
    """What others report of the ranked recipes on this data set, as `params.yaml` has it."""
    listed = [name for row in rows if (name := row["architecture"]) in params.recipes]
    found = {name: params.published.get(name) for name in listed}
    return [
        {
            "architecture": name,
            "split": published.split,
            "metrics": {str(metric): value for metric, value in published.metrics.items()},
            "source": published.source,
        }
        for name, published in found.items()
        if published and published.dataset == dataset
    ]
