"""The compare stage: tables, figures and the report on the models of a data set.

It writes `comparison.json`, `comparison.md`, `comparison.png`, `pairs.png` and the report, `index.html`. Every pair of
models is also compared case by case, and each model gets the range of ranks that remains possible. Architectures
without an evaluation, or with an evaluation of an earlier split or recipe, are listed with the reason and not ranked.
Folders of architectures that `params.yaml` doesn't list are ignored. Further rows are an ensemble of the ranked
architectures, a logistic regression on colours (`baseline`), and every averaged network without averaging. On request
there are also rows of every other network with averaging, and of every network with its patches' neighbours.
"""

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
from histopipe.reporting.comparison.plausibility import implausible_models
from histopipe.reporting.comparison.record import COMPARISON_FILE, Comparison, ImplausibleModels, ModelRow, PublishedRow
from histopipe.reporting.comparison.table import as_markdown, implausible_note, unranked_text

LOG = logging.getLogger(__name__)


def compare(dataset: str, params: Params, workspace: Workspace) -> Comparison:
    """Compare the evaluated models of the recipes that `params.yaml` lists, the best ROC AUC on test first.

    Args:
        dataset: name of the data set.
        params: the parameters.
        workspace: the workspace to read from and write to.

    Returns:
        The content of `comparison.json`.

    Raises:
        EvaluationError: no recipe has an evaluation that is up to date.
    """
    from histopipe.reporting.report.page import write_page

    evaluated, unranked = read_evaluations(dataset, params, workspace)
    if not evaluated:
        raise EvaluationError(f"no architecture is evaluated on {dataset}: " + "; ".join(map(unranked_text, unranked)))
    further = combination_rows(evaluated, params)
    if params.compare.neighbourhood:
        smoothed, absent = with_neighbours(evaluated, read_index(workspace.store(dataset)), params)
        further, unranked = further + smoothed, unranked + absent
    baseline, missing = with_baseline(dataset, evaluated, params, workspace)
    evaluated += further + baseline
    evaluated.sort(key=lambda model: -(model.row["test"]["roc_auc"]["value"] or 0.0))  # stable: ties stay as listed
    rows = [model.row for model in evaluated]
    pairs = compare_pairs(evaluated, params.evaluate.resamples, params.seed)
    content: Comparison = {
        "dataset": dataset,
        "positive_class": rows[0]["positive_class"],
        "ranking": with_rank_ranges(rows, pairs),
        "pairs": pairs,
        "implausible": _warn_if_implausible(dataset, rows, params),
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


def _warn_if_implausible(dataset: str, rows: Sequence[ModelRow], params: Params) -> ImplausibleModels | None:
    implausible = implausible_models(dataset, rows, params)
    if implausible:
        LOG.warning("%s: %s", dataset, implausible_note(implausible))
    return implausible


def published_results(dataset: str, rows: Sequence[ModelRow], params: Params) -> list[PublishedRow]:
    """List the published results of the ranked recipes on this data set, from `params.yaml`."""
    listed = [name for row in rows if (name := row["architecture"]) in params.recipes]
    results = {name: params.published.get(name) for name in listed}
    return [
        {
            "architecture": name,
            "split": published.split,
            "metrics": {str(metric): value for metric, value in published.metrics.items()},
            "source": published.source,
        }
        for name, published in results.items()
        if published and published.dataset == dataset
    ]
