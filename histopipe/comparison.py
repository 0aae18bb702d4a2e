"""The compare stage: one table and one picture over the architectures of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from histopipe.combination import ENSEMBLE, ONE_VIEW, combined_rows
from histopipe.errors import EvaluationError, HistopipeError
from histopipe.evaluation.figures import CURVE, new_figure, save_figure, with_interval
from histopipe.files import file_digest, read_json, replaced_folder, write_json, write_text
from histopipe.params import Params
from histopipe.paths import Workspace, stage_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]

COLUMNS = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}
DRAWN_COLUMNS = 3


def compare(dataset: str, params: Params, workspace: Workspace) -> dict[str, Any]:
    """Set the evaluated architectures of `params.yaml` side by side, best ROC AUC on test first.

    Writes `comparison.json`, `comparison.md` and `comparison.png`. Architectures without an evaluation, or
    whose evaluation belongs to another split or recipe than today's, are listed with the reason and not
    ranked; folders of architectures that `params.yaml` doesn't list don't count. An ensemble of those ranked, and
    every averaged network without its averaging, are rows as well.

    Returns:
        The content of `comparison.json`.

    Raises:
        EvaluationError: no architecture has an evaluation that is up to date.
    """
    rows: list[Row] = []
    unranked: list[Row] = []
    for architecture in params.architectures:
        found = read_evaluation(dataset, architecture, params, workspace)
        (unranked if "state" in found else rows).append(found)
    if not rows:
        raise EvaluationError(f"no architecture is evaluated on {dataset}: " + "; ".join(map(_reason, unranked)))
    rows += combined_rows(dataset, rows, params, workspace)
    rows.sort(key=lambda row: -(row["test"]["roc_auc"]["value"] or 0.0))  # a stable sort: ties stay as listed
    content = {
        "dataset": dataset,
        "positive_class": rows[0]["positive_class"],
        "ranking": [{"rank": rank, **row} for rank, row in enumerate(rows, start=1)],
        "unranked": unranked,
        "published": published_results(dataset, rows, params),
    }
    with replaced_folder(workspace.report(dataset)) as folder:
        write_json(folder / "comparison.json", content)
        write_text(folder / "comparison.md", as_markdown(content))
        save_figure(draw_comparison(content), folder / "comparison.png")
    return content


def read_evaluation(dataset: str, architecture: str, params: Params, workspace: Workspace) -> Row:
    """One architecture's numbers; or, where they can't be ranked, its `state` and the `reason`."""
    from histopipe.training.recipe import recipe_digest
    from histopipe.weights import weights_digest

    path = workspace.evaluation(dataset, architecture) / "metrics.json"
    if not path.is_file():
        return _unranked(architecture, "not trained", f"run `dvc repro {_stage(dataset, architecture)}`")
    try:
        metrics: Row = read_json(path)
    except HistopipeError as problem:
        return _unranked(architecture, "not readable", str(problem))
    today = {
        "split": ("split_digest", file_digest(workspace.split(dataset))),
        "recipe": (
            "recipe_digest",
            recipe_digest(params, architecture, weights_digest(architecture, params, workspace)),
        ),
    }
    changed = [name for name, (key, digest) in today.items() if metrics.get(key) != digest]
    if changed:
        reason = f"the {' and the '.join(changed)} changed since: run `dvc repro {_stage(dataset, architecture)}`"
        return _unranked(architecture, "out of date", reason)
    return {"architecture": architecture, **metrics}


def published_results(dataset: str, rows: Sequence[Row], params: Params) -> list[Row]:
    """What others report of the ranked recipes on this data set, as `params.yaml` has it."""
    listed = [name for row in rows if (name := row["architecture"]) in params.recipes]
    found = {name: params.recipe(name).published for name in listed}
    return [
        {"architecture": name, **published.model_dump(exclude={"dataset"}, exclude_none=True)}
        for name, published in found.items()
        if published and published.dataset == dataset
    ]


def _stage(dataset: str, architecture: str) -> str:
    return stage_name("evaluate", dataset, architecture)


def _unranked(architecture: str, state: str, reason: str) -> Row:
    return {"architecture": architecture, "state": state, "reason": reason}


def _reason(entry: Row) -> str:
    return f"{entry['architecture']}: {entry['state']}, {entry['reason']}"


def as_markdown(content: dict[str, Any]) -> str:
    """The comparison as a Markdown table with its footnotes."""
    header = ["", "architecture", *COLUMNS.values(), "threshold", "cases", "patches", "AUC on validation"]
    rule = ["--:", ":--", *[":--"] * len(COLUMNS), "--:", "--:", "--:", "--:"]
    lines = [header, rule, *map(_cells, content["ranking"])]
    table = markdown_table(lines)
    title = f"# {content['dataset']}: comparison on the test split"
    return "\n\n".join([title, table, *_published_table(content), _footnotes(content)]) + "\n"


def _published_table(content: dict[str, Any]) -> list[str]:
    """Published figures and ours, line by line; nothing where none are known."""
    here = {row["architecture"]: row["test"] for row in content["ranking"]}
    lines = [
        [
            entry["architecture"],
            title.replace("_", " "),
            f"{value:.3f}",
            entry["split"],
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
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cells(row: Row) -> list[str]:
    validation = row["validation"]["roc_auc"]
    return [
        str(row["rank"]),
        row["architecture"] + marks(row),
        *(with_interval(row["test"][name]) for name in COLUMNS),
        f"{row['threshold']:.3f}",
        f"{row['cases']:,}",
        f"{row['patches']:,}",
        "undefined" if validation is None else f"{validation:.3f}",
    ]


def marks(row: Row) -> str:
    """Signs that lead to a footnote: `*` trained under the `quick` caps, `!` on a split that leaks."""
    return ("\\*" if row.get("quick") else "") + ("!" if row.get("leaky") else "")


def _footnotes(content: dict[str, Any]) -> str:
    ranking = content["ranking"]
    notes = [
        f"Positive class: {content['positive_class']}; sensitivity is its recall. "
        "In brackets: 95 % intervals from resampling whole cases. Threshold and calibration come from "
        "validation. The order is that of ROC AUC on test; where intervals overlap it may be chance."
    ]
    ensemble = next((row for row in ranking if row["architecture"] == ENSEMBLE), None)
    if ensemble:
        notes.append(f"{ENSEMBLE}: the mean of the log odds of {', '.join(ensemble['members'])}.")
    if any(row["architecture"].endswith(ONE_VIEW) for row in ranking):
        notes.append("One view: the same network without averaging over the eight symmetries of the square.")
    capped = [row for row in ranking if row.get("quick")]
    if capped:
        caps = ", ".join(f"{name} {value}" for name, value in capped[0]["quick"].items() if value is not None)
        notes.append(f"\\* Trained under the caps of `quick` ({caps}): not what the full recipe reaches.")
    if any(row.get("leaky") for row in ranking):
        notes.append("! The split puts patches of one case into training and test: these numbers measure memory.")
    notes += [f"Not ranked: {_reason(entry)}." for entry in content["unranked"]]
    return "\n\n".join(notes)


def draw_comparison(content: dict[str, Any]) -> Figure:
    """A panel per metric; in each, a dot with its interval per architecture, the best AUC on top."""
    ranking = content["ranking"]
    lines = -(-len(COLUMNS) // DRAWN_COLUMNS)
    figure = new_figure(10, lines * (1.15 + 0.3 * len(ranking)) + 0.7)
    panels = figure.subplots(lines, DRAWN_COLUMNS, sharey=True, squeeze=False)
    for axes, (metric, title) in zip(panels.flat, COLUMNS.items(), strict=True):
        _draw_panel(axes, ranking, metric)
        axes.set_title(title, fontsize=10.5, loc="left")
    legend = {"* trained under the caps of `quick`": "quick", "! cases straddle the splits": "leaky"}
    if notes := [note for note, mark in legend.items() if any(row.get(mark) for row in ranking)]:
        figure.supxlabel("    ".join(notes), fontsize=8.5, x=0.01, ha="left")
    first = ranking[0]
    figure.suptitle(
        f"{content['dataset']}, test split: {first['cases']:,} cases, {first['patches']:,} patches; "
        f"95 % intervals by case; positive class {content['positive_class']}",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    return figure


def _draw_panel(axes: Axes, ranking: Sequence[Row], metric: str) -> None:
    for place, row in enumerate(ranking):
        measured = row["test"][metric]
        if measured["value"] is not None:
            axes.plot([measured["low"], measured["high"]], [place, place], color=CURVE, linewidth=2.5, alpha=0.55)
            axes.plot(measured["value"], place, marker="o", markersize=7, color=CURVE)
            axes.annotate(
                f"{measured['value']:.3f}",
                (measured["value"], place),
                (0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8.5,
            )
    finish_panel(axes, ranking, -0.65)


def finish_panel(axes: Axes, ranking: Sequence[Row], top: float) -> None:
    """Name the architectures down the side, the first at 0 on top, with a light grid; `top` leaves room for a label."""
    axes.set_yticks(range(len(ranking)), [row["architecture"] + marks(row).replace("\\", "") for row in ranking])
    axes.set_ylim(len(ranking) - 0.5, top)
    axes.locator_params(axis="x", nbins=4)
    axes.grid(axis="x", color="#EEEEEE", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
