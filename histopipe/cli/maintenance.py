"""Commands that check and clean a checkout."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from histopipe.cli.command import main

if TYPE_CHECKING:
    from histopipe.core.workspace import Workspace


EXIT_UNKNOWN = 1  # `gc` could not check one of its parts


@main.command()
@click.option("--mend", is_flag=True, help="First restore damaged outputs from intact copies.")
@click.pass_context
def doctor(context: click.Context, mend: bool) -> None:
    """Check machine, packages, servers, disk and data.

    Exits with 0 if all is well, 1 on warnings, 2 on errors. Reads every recorded output and its copy in DVC's cache,
    which takes seconds per gigabyte.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from histopipe.core.workspace import Workspace
    from histopipe.operations.doctor.examination import examine, severity

    if mend:
        _repair(Workspace.find())
    console = Console()
    colours = {"ok": "green", "warning": "yellow", "error": "bold red"}
    table = Table("", "", "found", "remedy", box=box.SIMPLE_HEAD, pad_edge=False)
    findings = []
    with console.status("checking"):
        for finding in examine(Workspace.find()):
            findings.append(finding)
            table.add_row(
                f"[{colours[finding.state]}]{finding.state}",
                finding.subject,
                *map(escape, (finding.observation, finding.remedy)),
            )
    console.print(table)
    context.exit(severity(findings))


def _repair(workspace: Workspace) -> None:
    """Restore damaged outputs and print which."""
    from histopipe.core.dvc import remove_damaged_rwlock, rwlock_path
    from histopipe.operations.doctor.repair import repair_outputs

    if remove_damaged_rwlock(workspace):
        click.echo(f"removed {rwlock_path(workspace)}, which a killed process left incomplete; DVC writes it again")
    repairs = repair_outputs(workspace)
    for path in repairs.restored:
        click.echo(f"repaired {path}")
    for file in repairs.lost:
        click.echo(f"no intact copy of {file.path} is left: `dvc repro {file.maker}` computes it again")
    if not repairs.restored and not repairs.lost:
        click.echo("no output is damaged")


@main.command()
@click.option("--force", "-f", is_flag=True, help="Remove the files; without this option they are only listed.")
@click.option(
    "--older-than",
    default="7d",
    show_default=True,
    metavar="AGE",
    help="Select only what is unchanged for AGE: a number and s, m, h, d or w, such as 90s, 12h or 7d.",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(["mlflow", "dvc", "checkpoints", "files"]),
    help="Only check this kind; repeat the option for several.",
)
@click.option("--cloud", is_flag=True, help="Also clean DVC's remote, which other clones may use.")
def gc(force: bool, older_than: str, only: tuple[Any, ...], cloud: bool) -> None:
    """List files and MLflow runs that no commit, registered model or running flow needs; --force removes them."""
    from contextlib import nullcontext

    from histopipe.core.workspace import Workspace
    from histopipe.operations.gc.collection import activity, collect, removing
    from histopipe.operations.gc.table import show

    workspace = Workspace.find()
    with removing(workspace) if force else nullcontext() as remove:
        groups = show(collect(workspace, older_than, only, cloud), remove)
    if not force and any(group.removal for group in groups):
        click.echo("nothing was removed: `histopipe gc --force` removes it")
        if processes := activity(workspace):
            click.echo(f"wait before you do: {processes[0]} is running in this checkout")
    if any(group.state == "unknown" for group in groups):
        sys.exit(EXIT_UNKNOWN)
