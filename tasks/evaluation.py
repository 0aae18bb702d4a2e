"""Tasks that evaluate one model, and compare all."""

from __future__ import annotations

from pathlib import Path

from histopipe.core.files import read_case_table
from histopipe.core.workspace import Workspace, stage_name
from tasks.artifacts import publish_image, publish_markdown, publish_preview, publish_table, table_rows
from tasks.declaration import stage_task
from tasks.parallel import for_prediction
from tasks.reproduction import reproduce

WORST_CASES = 10
SHOWN_DIGITS = 4
SHOWN_SLIDES = 6  # the pictures of artifacts are stored in the server's database


@stage_task("evaluate", "evaluate-{dataset}-{architecture}")
def evaluate(dataset: str, architecture: str) -> Path:
    """Evaluate one model on the test split; return the evaluation's folder."""
    with for_prediction() as environment:
        reproduce(stage_name("evaluate", dataset, architecture), environment=environment)
    folder = Workspace.find().evaluation(dataset, architecture)
    publish_evaluation(folder, dataset, architecture)
    return folder


def publish_evaluation(folder: Path, dataset: str, architecture: str) -> None:
    """Show the metrics, the figures, subgroups and worst cases as tables, and some reassembled slides."""
    from histopipe.evaluation.case_kinds import KIND_METRICS, KIND_TITLES, evaluated_kinds
    from histopipe.evaluation.record import read_metrics
    from histopipe.evaluation.slide_figures import drawn_slides

    metrics = read_metrics(folder)
    rows = [{"metric": name, **values} for name, values in metrics["test"].items()]
    rows += [
        {"metric": f"{name}, within {KIND_TITLES[kind]}", **kind_metrics[name]}
        for kind, _, kind_metrics in evaluated_kinds(metrics)
        for name in KIND_METRICS
    ]
    title = f"{architecture} on the test cases of {dataset}"
    publish_table(rows, title, "metrics", dataset, architecture)
    for figure in sorted((folder / "figures").glob("*.png")):
        publish_image(figure, f"{title}: {figure.stem}", figure.stem, dataset, architecture)
    subgroups = read_case_table(folder / "subgroups.csv").round(SHOWN_DIGITS)
    publish_table(table_rows(subgroups), f"{title}: subgroups", "subgroups-table", dataset, architecture)
    worst = read_case_table(folder / "cases.csv").head(WORST_CASES).round(SHOWN_DIGITS)
    publish_table(table_rows(worst), f"{title}: worst cases", "cases-table", dataset, architecture)
    for case, slide in drawn_slides(folder)[:SHOWN_SLIDES]:
        publish_preview(slide, f"{title}: case {case}", "slide", dataset, architecture, slide.stem)


@stage_task("compare", "compare-{dataset}")
def compare(dataset: str) -> Path:
    """Rank the evaluated models; return the report's folder."""
    from histopipe.reporting.comparison.record import read_comparison
    from histopipe.reporting.report.answer import answer

    reproduce(stage_name("compare", dataset))
    workspace = Workspace.find()
    folder = workspace.report(dataset)
    page = (folder / "index.html").relative_to(workspace.root)
    summary = f"**{answer(read_comparison(folder))}**\n\nEverything on one page: `{page}`."
    text = (folder / "comparison.md").read_text(encoding="utf-8")
    publish_markdown(f"{summary}\n\n{text}", f"Architectures on {dataset}", "comparison", dataset)
    publish_image(folder / "comparison.png", f"Architectures on {dataset}", "comparison-plot", dataset)
    publish_image(folder / "pairs.png", f"Every two architectures on {dataset}", "comparison-pairs", dataset)
    return folder
