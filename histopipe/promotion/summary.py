"""What the registry says of a data set's champion and challenger, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from histopipe.core.workspace import Workspace
from histopipe.promotion.anchor import ANCHOR
from histopipe.promotion.gates import TITLES, rule, short
from histopipe.reporting.comparison.table import markdown_table
from histopipe.tracking.ledger import read_counts
from histopipe.tracking.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry, open_registry


def promotion_summary(dataset: str, workspace: Workspace) -> str:
    """The champion and the challenger, with the gates that each was judged by.

    Raises:
        TrackingAwayError: the registry can't be asked.
    """
    with open_registry(dataset, workspace) as registry:
        parts = [_section(alias, registry) for alias in (CHAMPION, CHALLENGER)]
        if number := registry.model_tags().get(ANCHOR):
            parts.insert(1, f"The anchor is version {number}: no chain of champions may sink below it.")
    return "\n\n".join([f"# {registry.name}", *(part for part in parts if part)]) + "\n"


def anchor_line(dataset: str, workspace: Workspace) -> str:
    """Which version the anchor is.

    Raises:
        TrackingAwayError: the registry can't be asked.
    """
    with open_registry(dataset, workspace) as registry:
        number = registry.model_tags().get(ANCHOR)
    return f"the anchor is version {number}" if number else "there is no anchor"


def _section(alias: str, registry: Registry) -> str:
    version = registry.version_at(alias)
    if version is None:
        return "No champion yet." if alias == CHAMPION else ""
    tags = version.tags
    lines = [f"## {alias}: version {version.version}, {tags.get('architecture', 'of unknown make')}"]
    if tags.get("verdict") == "refused":
        lines.append("Refused: " + tags["reasons"] + ".")
    if tags.get(PREVIOUS) and alias == CHAMPION:
        lines.append(f"`histopipe rollback` goes back to version {tags[PREVIOUS]} or before.")
    lines.append(gates_table(tags))
    if counts := read_counts(tags):
        lines.append(f"{str(counts).capitalize()}.")
    return "\n\n".join(lines)


def gates_table(tags: Mapping[str, str]) -> str:
    """The gates that a version's tags hold, as a table."""
    names = [key.removeprefix("gate.") for key in tags if key.startswith("gate.") and key.count(".") == 1]
    rows = [
        [
            TITLES.get(name, name),
            _shown(name, tags),
            rule(name, _number(tags[f"gate.{name}.limit"])),
            tags[f"gate.{name}"],
        ]
        for name in names
    ]
    return markdown_table([["gate", "measured", "wanted", ""], [":--", "--:", "--:", ":--"], *rows])


def _shown(name: str, tags: Mapping[str, str]) -> str:
    """What was measured, and the end of its interval that decided."""
    measured, bound = short(_number(tags[f"gate.{name}.measured"])), tags.get(f"gate.{name}.bound")
    return measured if bound is None else f"{measured} (bound {short(_number(bound))})"


def _number(text: str) -> float | str:
    """A word stays one."""
    try:
        return float(text)
    except ValueError:
        return text
