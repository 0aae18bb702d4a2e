"""The table of what was found, and its removal line by line."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from histopipe.core.files import as_size
from histopipe.operations.gc.leftover import Leftover

COLOURS = {"garbage": "green", "removed": "green", "kept": "cyan", "unknown": "yellow"}


def show(found: Iterable[Leftover], remove: Callable[[Leftover], Leftover] | None) -> list[Leftover]:
    """Look, remove line by line if told how, and print one table; returns its lines."""
    console = Console()
    table = Table("", "what", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("how many", justify="right")
    table.add_column("room", justify="right")
    table.add_column("why")
    with console.status("looking") as status:
        lines = list(found)
        for place, line in enumerate(lines):
            if remove and line.removal:
                status.update(f"removing {line.what}")
                lines[place] = remove(line)
            _add(table, lines[place])
    console.print(table if lines else "nothing is left over")
    _sum_up(console, lines, removed=remove is not None)
    return lines


def _add(table: Table, line: Leftover) -> None:
    size = "?" if line.size is None else as_size(line.size)
    counted = (f"{line.count:,}", size) if line.count else ("", "")
    table.add_row(f"[{COLOURS[line.state]}]{line.state}", line.what, *counted, escape(line.why))


def _sum_up(console: Console, lines: Iterable[Leftover], removed: bool) -> None:
    garbage = [line for line in lines if line.removal]
    if garbage:
        known = as_size(sum(line.size or 0 for line in garbage if line.at_once))
        unknown = " and what lies elsewhere" if any(line.size is None for line in garbage) else ""
        console.print(f"{'removed' if removed else 'can go'}: {known}{unknown}")
