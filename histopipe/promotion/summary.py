"""A summary of a data set's champion and challenger in the registry, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from histopipe.core.workspace import Workspace
from histopipe.promotion.anchor import ANCHOR
from histopipe.promotion.gates import TITLES, describe_requirement, format_measurement
from histopipe.reporting.comparison.table import markdown_table
from histopipe.tracking.ledger import read_counts
from histopipe.tracking.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry, open_registry


def promotion_summary(dataset: str, workspace: Workspace) -> str:
    """Render the champion and the challenger, with the gates that judged them, as Markdown.

    Raises:
        TrackingUnreachableError: the registry can't be asked.
    """
    with open_registry(dataset, workspace) as registry:
        parts = [_section(alias, registry) for alias in (CHAMPION, CHALLENGER)]
        if number := registry.model_tags().get(ANCHOR):
            parts.insert(
                1,
                f"The anchor is version {number}: no champion may be further below it than `promotion.anchor_margin`.",
            )
    return "\n\n".join([f"# {registry.name}", *(part for part in parts if part)]) + "\n"


def describe_anchor(dataset: str, workspace: Workspace) -> str:
    """Describe which version is the anchor.

    Raises:
        TrackingUnreachableError: the registry can't be asked.
    """
    with open_registry(dataset, workspace) as registry:
        number = registry.model_tags().get(ANCHOR)
    return f"the anchor is version {number}" if number else "there is no anchor"


def _section(alias: str, registry: Registry) -> str:
    version = registry.version_at(alias)
    if version is None:
        return "No champion yet." if alias == CHAMPION else ""
    tags = version.tags
    lines = [f"## {alias}: version {version.version}, {tags.get('architecture', 'of an unknown architecture')}"]
    if tags.get("verdict") == "refused":
        lines.append("Refused: " + tags["reasons"] + ".")
    if tags.get(PREVIOUS) and alias == CHAMPION:
        lines.append(f"`histopipe rollback` goes back to version {tags[PREVIOUS]} or before.")
    lines.append(gates_table(tags))
    if counts := read_counts(tags):
        lines.append(f"{str(counts).capitalize()}.")
    return "\n\n".join(lines)


def gates_table(tags: Mapping[str, str]) -> str:
    """Render the gates in a version's tags as a table."""
    names = [key.removeprefix("gate.") for key in tags if key.startswith("gate.") and key.count(".") == 1]
    rows = [
        [
            TITLES.get(name, name),
            _measured(name, tags),
            describe_requirement(name, _number_or_word(tags[f"gate.{name}.limit"])),
            tags[f"gate.{name}"],
        ]
        for name in names
    ]
    return markdown_table([["gate", "measured", "wanted", ""], [":--", "--:", "--:", ":--"], *rows])


def _measured(name: str, tags: Mapping[str, str]) -> str:
    """Return what was measured, and the end of its interval that decided."""
    measured, bound = format_measurement(_number_or_word(tags[f"gate.{name}.measured"])), tags.get(f"gate.{name}.bound")
    return measured if bound is None else f"{measured} (bound {format_measurement(_number_or_word(bound))})"


def _number_or_word(text: str) -> float | str:
    """Parse a number; other text is returned as it is."""
    try:
        return float(text)
    except ValueError:
        return text
