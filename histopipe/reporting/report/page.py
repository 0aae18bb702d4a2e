"""The report's page, `index.html`, from the files that earlier stages wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from histopipe.core.files import write_text
from histopipe.core.params import Params
from histopipe.core.workspace import Workspace
from histopipe.evaluation.figures import format_estimate
from histopipe.evaluation.metrics import METRICS
from histopipe.reporting.comparison.pairs import COMPARED, SEPARATING
from histopipe.reporting.comparison.record import Comparison, JudgedPair, NamedRow, RankedRow
from histopipe.reporting.comparison.table import (
    COLUMNS,
    footnotes,
    format_ranks,
    marks,
    p_if_there,
    p_value,
    verdict,
    within_kinds_of,
)
from histopipe.reporting.report.answer import answer
from histopipe.reporting.report.bars import Bar, bars
from histopipe.reporting.report.data import copies_part, data_part, split_part, title_of
from histopipe.reporting.report.looks import looks_line
from histopipe.reporting.report.models import model_part, overview, picture_files
from histopipe.reporting.report.pictures import embed
from histopipe.reporting.report.training import training_part

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "index.html"
TITLES = COLUMNS | {"brier": "Brier score", "calibration_error": "calibration error"}
LESS_IS_BETTER = ("brier", "calibration_error")


class DrawnPair(JudgedPair):
    """A pair as the template uses it.

    Attributes:
        p: p-value of the difference in ROC AUC.
        bar: bar of that difference; None if it isn't defined.
    """

    p: float | None
    bar: Bar | None


def write_page(content: Comparison, params: Params, workspace: Workspace, folder: Path) -> Path:
    """Write the page of a comparison, which needs no other file and no internet connection.

    Args:
        content: content of `comparison.json`.
        params: parameters of the comparison.
        workspace: the workspace with the data, split, models and evaluations that were compared.
        folder: folder of the report.

    Raises:
        HistopipeError: a file that the page shows is damaged.
    """
    path = folder / PAGE
    write_text(path, render_page(content, params, workspace))
    return path


def render_page(content: Comparison, params: Params, workspace: Workspace) -> str:
    """Return the page as HTML; arguments as for `write_page`."""
    dataset, ranking = content["dataset"], content["ranking"]
    models = [row for row in ranking if workspace.evaluation(dataset, row["architecture"]).is_dir()]  # no ensemble
    names = [row["architecture"] for row in models]
    data = data_part(dataset, params, workspace)
    classes = (data["store"].get("classes", ["negative"])[0], content["positive_class"])
    pictures = embed(picture_files(dataset, names, workspace))
    return (
        _environment()
        .get_template("page.html")
        .render(
            content=content,
            title=title_of(dataset, params),
            answer=answer(content),
            classes=classes,
            data=data,
            splits=split_part(dataset, workspace),
            looks=looks_line(dataset, workspace),
            copies=copies_part(dataset, workspace),
            ranking=ranking,
            within=within_kinds_of(ranking),
            metrics={name: _label(name) for name in METRICS},
            less_is_better=LESS_IS_BETTER,
            bars=_ranking_bars(ranking),
            notes=notes(content),
            pairs=_pairs(content["pairs"]),
            compared={name: TITLES[name] for name in COMPARED},
            overview=overview(dataset, names, classes[1], workspace),
            models=[model_part(dataset, row, classes, pictures, workspace) for row in models],
            trainings=training_part(dataset, names, workspace),
        )
    )


def _environment() -> Environment:
    """Create the template environment; every value is escaped, since names come from archives by anyone."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("histopipe.reporting.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"interval": format_estimate, "p_value": p_value, "ranks": format_ranks}
    environment.filters |= {"p_if_there": p_if_there, "verdict": verdict}
    environment.filters |= {"number": _number, "share": _share, "marks": _marks, "label": _label, "plain": _plain}
    return environment


def _marks(row: NamedRow) -> str:
    return _plain(marks(row))


def _label(metric: str) -> str:
    return TITLES.get(metric, metric.replace("_", " "))


def _number(value: float | None, digits: int = 0, unit: str = "") -> str:
    return "not recorded" if value is None else f"{value:,.{digits}f}{unit}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _ranking_bars(ranking: Sequence[RankedRow]) -> list[dict[str, Bar | None]]:
    """Compute each model's bars by metric; bars of the same metric share a scale."""
    columns = {name: bars([row["test"][name] for row in ranking]) for name in METRICS}
    return [{name: column[number] for name, column in columns.items()} for number in range(len(ranking))]


def _pairs(pairs: Sequence[JudgedPair]) -> list[DrawnPair]:
    drawn = bars([pair["differences"][SEPARATING] for pair in pairs], origin=0.0)
    values = [pair["differences"][SEPARATING]["p"] for pair in pairs]
    return [{**pair, "p": p, "bar": bar} for pair, p, bar in zip(pairs, values, drawn, strict=True)]


def notes(content: Comparison) -> list[tuple[str, str]]:
    """List the comparison's footnotes as plain text, each a `warning` or a `note`."""
    warning = ("!", "?", "†", "**", "\\*")
    return [("warning" if text.startswith(warning) else "note", _plain(text)) for text in footnotes(content)]


def _plain(markdown: str) -> str:
    return markdown.replace("\\", "").replace("**", "").replace("`", "")
