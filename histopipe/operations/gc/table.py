"""The table of leftovers, and their removal line by line."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from histopipe.core.files import format_size
from histopipe.operations.gc.leftover import Leftover

COLOURS = {"garbage": "green", "removed": "green", "kept": "cyan", "unknown": "yellow"}


def show(leftovers: Iterable[Leftover], remove: Callable[[Leftover], Leftover] | None) -> list[Leftover]:
    """Find leftovers, remove them line by line if `remove` is given, and print a table; return its lines."""
    console = Console()
    table = Table("", "kind", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("number", justify="right")
    table.add_column("size", justify="right")
    table.add_column("reason")
    with console.status("searching") as status:
        lines = list(leftovers)
        for index, line in enumerate(lines):
            if remove and line.removal:
                status.update(f"removing {line.kind}")
                lines[index] = remove(line)
            _add(table, lines[index])
    console.print(table if lines else "there are no leftovers")
    _sum_up(console, lines, removed=remove is not None)
    return lines


def _add(table: Table, line: Leftover) -> None:
    size = "?" if line.size is None else format_size(line.size)
    counted = (f"{line.count:,}", size) if line.count else ("", "")
    table.add_row(f"[{COLOURS[line.state]}]{line.state}", line.kind, *counted, escape(line.reason))


def _sum_up(console: Console, lines: Iterable[Leftover], removed: bool) -> None:
    garbage = [line for line in lines if line.removal]
    if garbage:
        size = format_size(sum(line.size or 0 for line in garbage if line.at_once))
        elsewhere = " and files elsewhere" if any(line.size is None for line in garbage) else ""
        console.print(f"{'removed' if removed else 'can be removed'}: {size}{elsewhere}")
