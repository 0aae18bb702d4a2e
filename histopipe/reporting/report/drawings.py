"""Matplotlib's figures as SVG inside the page: in the colours of the reader's theme, and with selectable text."""

from __future__ import annotations

import html
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histopipe.evaluation.figures import CURVE, GRID, MARK, REFERENCE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 4.2  # inches: drawings are shown at about this size, so that their text is as large as the page's
SERIES = (CURVE, MARK, "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#EE7733", "#555555")  # Paul Tol's, for many models
THEME = {colour.lower(): f"var(--c{number})" for number, colour in enumerate(SERIES)} | {
    REFERENCE.lower(): "var(--quiet)",
    GRID.lower(): "var(--rule)",
    "#000000": "var(--text)",
    "#ffffff": "var(--card)",
}
_COORDINATES = re.compile(r'\b(?:d|x|y|width|height|transform)="[^"]*"')


@dataclass(frozen=True)
class Drawing:
    """One figure of the page.

    Attributes:
        title: title of the figure.
        svg: an `svg` element that needs only the page's style.
    """

    title: str
    svg: str


def drawing(figure: Figure, title: str) -> Drawing:
    """Convert a figure to a drawing, whose title is outside the figure."""
    for axes in figure.axes:
        axes.set_title("", loc="left")
    figure.set_size_inches(SIDE, SIDE)
    shown = [axes for axes in figure.axes if axes.get_ylabel()]
    described = f"{title}: {_unescape(shown[0].get_ylabel())} against {_unescape(shown[-1].get_xlabel())}"
    body = _body(_as_svg(figure, title))
    side = f"{72 * SIDE:g}"
    svg = f'<svg viewBox="0 0 {side} {side}" role="img" aria-label="{html.escape(described)}">{body}</svg>'
    return Drawing(title, svg)


def _as_svg(figure: Figure, salt: str) -> str:
    """Write a figure as SVG by Matplotlib, with ids that are unique and reproducible."""
    from matplotlib import rc_context

    stream = io.StringIO()
    unnamed = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.sans-serif": ["DejaVu Sans"]}):
        figure.savefig(stream, format="svg", transparent=True, metadata=unnamed)
    return stream.getvalue()


def _body(svg: str) -> str:
    """Extract the drawing from an SVG file; use the page's colours and font, and round to a hundredth of a point."""
    inside = svg[svg.index("</style>") :].partition("</defs>")[2].rpartition("</svg>")[0]
    inside = re.sub(r'<g id="[^"]*">', "<g>", inside)
    inside = inside.replace(" font-family: 'DejaVu Sans', sans-serif;", "")
    inside = re.sub(r'style="[^"]*"', lambda style: _apply_theme(style[0]), inside)
    inside = _COORDINATES.sub(lambda attribute: re.sub(r"(\.\d\d)\d+", r"\1", attribute[0]).replace("\n", ""), inside)
    return re.sub(r">\s+<", "><", inside).strip()


def _apply_theme(style: str) -> str:
    return re.sub(r"#[0-9a-f]{6}", lambda colour: THEME.get(colour[0], colour[0]), style)


def _unescape(text: str) -> str:
    """Undo `escape_mathtext`, which escapes dollar signs of a label for Matplotlib."""
    return text.replace(r"\$", "$")
