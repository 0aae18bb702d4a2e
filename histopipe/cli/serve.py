"""The server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from histopipe.cli.command import main, named
from histopipe.cli.predict import MICROMETRES

if TYPE_CHECKING:
    pass


def _limits(command: Callable[..., None]) -> Callable[..., None]:
    """Options of `serve` that bound what clients may ask for; defaults are those of `histopipe.service.limits`."""
    mebibyte = 2**20

    def in_bytes(_: click.Context, __: click.Parameter, value: float) -> int:
        return int(value * mebibyte)

    def option(
        name: str, default: float, least: float, text: str, most: int | None = None, **more: Any
    ) -> Callable[..., Any]:
        kind = click.IntRange(int(least), most) if isinstance(default, int) else click.FloatRange(least)
        return click.option(f"--max-{name}", default=default, show_default=True, type=kind, help=text, **more)

    options = (
        option("images", 64, 1, "Images of one request."),
        option("pixels", 4_000_000, 1, "Of one image.", most=4_000_000),
        option("body", 32.0, 0, "MiB of a request with images.", callback=in_bytes),
        option("upload", 4096.0, 0, "MiB of a slide or archive.", callback=in_bytes),
        option("members", 1_000_000, 1, "Files, folders and links in an archive."),
        option("seconds", 20.0, 0.1, "For headers; for a body; between pieces of an upload or an answer."),
        option("upload-seconds", 3600.0, 0.1, "For an upload."),
        option("wait", 1.0, 0.01, "Seconds that patches may wait; beyond that, 429."),
        option("queue", 1024, 1, "Patches that may wait."),
        option("requests", 64, 1, "Requests graded at the same time; beyond that, 429."),
        option("memory", 512.0, 1, "MiB of bodies and answers at the same time; else 429.", callback=in_bytes),
        option("jobs", 8, 1, "Slides and archives under way."),
        option("job-seconds", 3600.0, 0.1, "For one of them."),
        click.option(
            "--keep", default=3600.0, show_default=True, type=click.FloatRange(0), help="Seconds, of results."
        ),
    )
    for one in reversed(options):
        command = one(command)
    return command


@main.command()
@click.option("--dataset", default="idc", show_default=True, callback=named("data set"), help="That the model is of.")
@click.option("--model", default="champion", show_default=True, help="champion, models:/NAME/VERSION, or a folder.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 is everywhere.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option("--no-token", is_flag=True, help="Let other machines ask without a token ($HISTOPIPE_TOKEN).")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--mpp", type=MICROMETRES, help="To a pixel of the model's patches, where the data set doesn't say.")
@click.option(
    "--poll", default=5.0, show_default=True, type=click.FloatRange(0), help="Seconds between looks at an alias."
)
@_limits
def serve(
    dataset: str,
    model: str,
    host: str,
    port: int,
    no_token: bool,
    precision: Any,
    mpp: float | None,
    poll: float,
    **limits: Any,
) -> None:
    """Serve a model: a REST API, and a page at /."""
    from histopipe.core.params import read_params
    from histopipe.core.workspace import Workspace
    from histopipe.service.limits import Limits
    from histopipe.service.models import Asked
    from histopipe.service.server import Place, serve

    workspace = Workspace.around()
    read_params(workspace.params).dataset(dataset)
    limits = {name.removeprefix("max_"): value for name, value in limits.items()}
    serve(Asked(model, dataset, workspace, precision, mpp), Place(host, port, no_token), Limits(**limits), poll)
