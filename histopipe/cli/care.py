"""Care of a checkout: its examination and its cleaning."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from histopipe.cli.command import main

if TYPE_CHECKING:
    from histopipe.core.workspace import Workspace


EXIT_UNKNOWN = 1  # of `gc`: some part of it couldn't be asked


@main.command()
@click.option("--mend", is_flag=True, help="Replace damaged outputs by sound copies of them, then look.")
@click.pass_context
def doctor(context: click.Context, mend: bool) -> None:
    """Check machine, packages, servers, disk and data; exit code 1 with warnings, 2 with errors.

    Every output on record and DVC's copy of it is read: seconds for each gigabyte.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from histopipe.core.workspace import Workspace
    from histopipe.operations.doctor.examination import examine, severity

    if mend:
        _mend(Workspace.around())
    console = Console()
    colours = {"ok": "green", "warning": "yellow", "error": "bold red"}
    table = Table("", "", "found", "remedy", box=box.SIMPLE_HEAD, pad_edge=False)
    findings = []
    with console.status("looking"):
        for finding in examine(Workspace.around()):
            findings.append(finding)
            table.add_row(
                f"[{colours[finding.state]}]{finding.state}", finding.what, *map(escape, (finding.said, finding.remedy))
            )
    console.print(table)
    context.exit(severity(findings))


def _mend(workspace: Workspace) -> None:
    """Bring damaged outputs back, and say which."""
    from histopipe.core.dvc import clear_cut_off_lock, lock_list
    from histopipe.operations.doctor.mending import mend

    if clear_cut_off_lock(workspace):
        click.echo(f"removed {lock_list(workspace)}, which a kill had cut off; DVC makes it again")
    mending = mend(workspace)
    for path in mending.mended:
        click.echo(f"mended {path}")
    for file in mending.lost:
        click.echo(f"no sound copy of {file.path} anywhere: `dvc repro {file.maker}` makes it anew")
    if not mending.mended and not mending.lost:
        click.echo("no output is damaged")


@main.command()
@click.option("--force", "-f", is_flag=True, help="Remove it; without, only say what would be removed.")
@click.option(
    "--older-than", default="7d", show_default=True, metavar="AGE", help="Unchanged for so long: 90s, 30m, 12h, 7d, 2w."
)
@click.option("--only", multiple=True, type=click.Choice(["mlflow", "dvc", "checkpoints", "files"]), help="Repeatable.")
@click.option("--cloud", is_flag=True, help="DVC's remote too, which other clones may use.")
def gc(force: bool, older_than: str, only: tuple[Any, ...], cloud: bool) -> None:
    """Find what no commit, registered model or running flow refers to, and with --force remove it."""
    from contextlib import nullcontext

    from histopipe.core.workspace import Workspace
    from histopipe.operations.gc.collection import activity, collect, removing
    from histopipe.operations.gc.table import show

    workspace = Workspace.around()
    with removing(workspace) if force else nullcontext() as remove:
        found = show(collect(workspace, older_than, only, cloud), remove)
    if not force and any(one.removal for one in found):
        click.echo("nothing was removed: `histopipe gc --force` removes it")
        if works := activity(workspace):
            click.echo(f"not now, though: {works[0]} works here")
    if any(one.state == "unknown" for one in found):
        sys.exit(EXIT_UNKNOWN)
